"""Integrated gradients, and by how much a map's sum misses the change of the target."""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.saliency import _passes
from jaxrobust.saliency._reductions import channel_sum
from jaxrobust.saliency._types import TargetFn
from jaxrobust.types import Array, Example


@dataclass(frozen=True, kw_only=True)
class IntegratedGradients:
    r"""Integrated gradients (Sundararajan et al., arXiv 1703.01365, eqs. (1) and (3)), summed over channels.

    $(x - x') \odot \int_0^1 \nabla f(x' + \alpha (x - x'))\,d\alpha$ from the baseline x'. The paper's sum
    takes the right ends of the steps; here it takes their middles, whose error falls with the square of the
    number of steps. The map is *complete*, it sums to $f(x) - f(x')$, as far as the steps are fine enough;
    `completeness_errors` says how far that is.

    Args:
        steps: midpoints between baseline and image, >= 1.

    Raises:
        ValueError: for steps below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> ex = Example(jnp.array([0.5, 1.0]).reshape(1, 1, 2, 1), jnp.zeros(1, int))
        >>> def target_fn(images, example):
        ...     return jnp.square(images).sum(axis=(1, 2, 3))
        >>> IntegratedGradients()(jax.random.split(jax.random.key(0), 1), target_fn, ex).round(4).tolist()
        [[[0.25, 1.0]]]
    """

    steps: int = 20

    def __post_init__(self) -> None:
        _validate.at_least("steps", self.steps, 1)

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
        start = _passes.spread(baseline, example.image)
        size = _passes.sizes(example.image.shape[0], self.steps, chunk)

        def part(steps: Array, weights: Array) -> Array:
            alphas = ((steps + 0.5) / self.steps)[:, None, None, None]

            def along(rows: tuple[Example, Array]) -> Array:
                example, start = rows
                path = start[:, None] + alphas * (example.image - start)[:, None]
                found = _passes.gradients(target_fn, path, example)
                return (found * weights[:, None, None, None]).sum(axis=1)

            return _passes.by_groups(along, (example, start), size.rows)

        total = _passes.sum_over_variants(part, self.steps, size.variants)
        return channel_sum(total / self.steps * (example.image - start))


def completeness_error(
    maps: Array,
    target_fn: TargetFn,
    example: Example,
    *,
    baseline: float | Array = 0.0,
    chunk: int | None = None,
) -> Array:
    r"""$\sum_p S(p) - (f(x) - f(x'))$ row by row, `[b]`, in the target's units.

    Args:
        maps: `[b, h, w]`, of integrated gradients (or of gradient times input, for a linear target).
        target_fn, example, baseline, chunk: as the maps were made.
    """
    start = _passes.spread(baseline, example.image)

    def change(rows: tuple[Example, Array]) -> Array:
        example, start = rows
        both = _passes.values(target_fn, jnp.stack([example.image, start], axis=1), example)
        return both[:, 0] - both[:, 1]

    size = _passes.sizes(example.image.shape[0], 2, chunk)
    return maps.sum(axis=(1, 2)) - _passes.by_groups(change, (example, start), size.rows)
