"""SmoothGrad: the gradient's mean over noise."""

from dataclasses import dataclass
from typing import ClassVar

import jax

from jaxrobust import _validate
from jaxrobust.saliency import _passes
from jaxrobust.saliency._reductions import ReduceFn, channel_sum
from jaxrobust.saliency._types import TargetFn
from jaxrobust.types import Array, Example


@dataclass(frozen=True, kw_only=True)
class SmoothGrad:
    r"""$\frac{1}{n} \sum_i \nabla f(x + \sigma z_i)$, z normal (Smilkov et al., arXiv 1706.03825, section 3).

    Noisy images are not clipped to [0, 1], as in the paper. The mean is taken of signed gradients, and
    reduced over channels after it. Row i draws from `fold_in(keys[i], n)`, so that the first n of N noises
    are those of a map with n.

    Args:
        num: noises, >= 1; the paper sees little change beyond 50.
        sigma: the noise's deviation in pixels of [0, 1], >= 0; the paper advises 0.1 to 0.2 of the range.
        reduce_fn: `channel_sum` or `largest_magnitude`, see `Gradient`.

    Raises:
        ValueError: for num below 1 or a negative sigma.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> ex = Example(jnp.array([0.5, 0.75]).reshape(1, 1, 2, 1), jnp.zeros(1, int))
        >>> def target_fn(images, example):
        ...     return jnp.square(images).sum(axis=(1, 2, 3))
        >>> SmoothGrad(num=4, sigma=0.0)(jax.random.split(jax.random.key(0), 1), target_fn, ex).tolist()
        [[[1.0, 1.5]]]
    """

    num: int = 50
    sigma: float = 0.15
    reduce_fn: ReduceFn = channel_sum

    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _validate.at_least("num", self.num, 1)
        _validate.non_negative("sigma", self.sigma, "It is the noise's deviation in pixels of [0, 1].")

    def __call__(
        self,
        keys: Array,
        target_fn: TargetFn,
        example: Example,
        *,
        baseline: float | Array = 0.0,
        chunk: int | None = None,
    ) -> Array:
        """Maps `[b, h, w]`; see `SaliencyMap`. Does not read the baseline."""
        shape = example.image.shape[1:]
        size = _passes.sizes(example.image.shape[0], self.num, chunk)

        def noise(key: Array, number: Array) -> Array:
            return self.sigma * jax.random.normal(jax.random.fold_in(key, number), shape)

        def part(numbers: Array, weights: Array) -> Array:
            def around(rows: tuple[Example, Array]) -> Array:
                example, keys = rows
                noises = jax.vmap(jax.vmap(noise, (None, 0)), (0, None))(keys, numbers)
                found = _passes.gradients(target_fn, example.image[:, None] + noises, example)
                return (found * weights[:, None, None, None]).sum(axis=1)

            return _passes.by_groups(around, (example, keys), size.rows)

        return self.reduce_fn(_passes.sum_over_variants(part, self.num, size.variants) / self.num)
