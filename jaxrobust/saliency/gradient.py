"""The derivative of the target in the pixels, alone and times the pixels."""

from dataclasses import dataclass

from jaxrobust.saliency import _passes
from jaxrobust.saliency._reductions import ReduceFn, channel_sum
from jaxrobust.saliency._types import TargetFn
from jaxrobust.types import Array, Example


@dataclass(frozen=True, kw_only=True)
class Gradient:
    r"""$\partial f / \partial x$, reduced over channels (Simonyan et al., arXiv 1312.6034, section 3).

    Its sign says whether a brighter pixel would raise the target, which is not whether the pixel as it is
    supports it: a dark pupil that the model looks for has a negative gradient. For regions take
    `reduce_fn=largest_magnitude`, as the paper does; the default keeps the sign, as the other maps do.

    Args:
        reduce_fn: `channel_sum` or `largest_magnitude`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def target_fn(images, example):
        ...     return images[:, 0, 0, 0] - 2 * images[:, 0, 1, 0]
        >>> ex = Example(jnp.full((1, 1, 2, 1), 0.5), jnp.zeros(1, int))
        >>> Gradient()(jax.random.split(jax.random.key(0), 1), target_fn, ex).tolist()
        [[[1.0, -2.0]]]
    """

    reduce_fn: ReduceFn = channel_sum

    def __call__(
        self,
        keys: Array,
        target_fn: TargetFn,
        example: Example,
        *,
        baseline: float | Array = 0.0,
        chunk: int | None = None,
    ) -> Array:
        """Maps `[b, h, w]`; see `SaliencyMap`. Reads neither keys nor baseline."""
        return self.reduce_fn(_derivative(target_fn, example, chunk))


@dataclass(frozen=True, kw_only=True)
class GradientTimesInput:
    r"""$\partial f / \partial x \odot (x - x')$, summed over channels: exact for a linear target.

    With the baseline x' = 0, the default, it is gradient times input; another makes it the first-order
    account of $f(x) - f(x')$ at x, as integrated gradients is the whole one.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def target_fn(images, example):
        ...     return images[:, 0, 0, 0] - 2 * images[:, 0, 1, 0]
        >>> ex = Example(jnp.full((1, 1, 2, 1), 0.5), jnp.zeros(1, int))
        >>> GradientTimesInput()(jax.random.split(jax.random.key(0), 1), target_fn, ex).tolist()
        [[[0.5, -1.0]]]
    """

    def __call__(
        self,
        keys: Array,
        target_fn: TargetFn,
        example: Example,
        *,
        baseline: float | Array = 0.0,
        chunk: int | None = None,
    ) -> Array:
        """Maps `[b, h, w]`; see `SaliencyMap`. Does not read keys."""
        offset = example.image - _passes.spread(baseline, example.image)
        return channel_sum(_derivative(target_fn, example, chunk) * offset)


def _derivative(target_fn: TargetFn, example: Example, chunk: int | None) -> Array:
    """`[b, h, w, c]`, in passes."""

    def at(rows: Example) -> Array:
        return _passes.gradients(target_fn, rows.image[:, None], rows)[:, 0]

    return _passes.by_groups(at, example, _passes.sizes(example.image.shape[0], 1, chunk).rows)
