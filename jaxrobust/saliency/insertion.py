"""Insertion and deletion: whether the pixels that a map ranks first carry the target."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _validate
from jaxrobust.saliency import _passes
from jaxrobust.saliency._types import TargetFn
from jaxrobust.types import Array, Example


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """The target as pixels are replaced by the baseline, those of the highest saliency first.

    Petsiuk et al., arXiv 1806.07421, section 4.2. A good map makes the curve fall soon: its area is small.
    Step t has replaced floor(t h w / steps) pixels; equal saliencies go by the smaller index.

    Args:
        steps: >= 1; the curve has steps + 1 points, from the image to the baseline.

    Raises:
        ValueError: for steps below 1.
    """

    steps: int = 20

    def __post_init__(self) -> None:
        _validate.at_least("steps", self.steps, 1)

    def __call__(
        self,
        maps: Array,
        target_fn: TargetFn,
        example: Example,
        *,
        baseline: float | Array = 0.0,
        chunk: int | None = None,
    ) -> Array:
        """Curves float32 `[b, steps + 1]` for maps `[b, h, w]`; see `SaliencyMap` for the others."""
        start = _passes.spread(baseline, example.image)
        return _curve(self.steps, maps, target_fn, example, example.image, start, chunk)


@dataclass(frozen=True, kw_only=True)
class Insertion:
    """The target as the baseline's pixels are replaced by the image's, those of the highest saliency first.

    Petsiuk et al., arXiv 1806.07421, section 4.2. A good map makes the curve rise soon: its area is large.
    The paper begins with a blurred image, which can be given as the baseline; otherwise as `Deletion`.

    Args:
        steps: >= 1; the curve has steps + 1 points, from the baseline to the image.

    Raises:
        ValueError: for steps below 1.
    """

    steps: int = 20

    def __post_init__(self) -> None:
        _validate.at_least("steps", self.steps, 1)

    def __call__(
        self,
        maps: Array,
        target_fn: TargetFn,
        example: Example,
        *,
        baseline: float | Array = 0.0,
        chunk: int | None = None,
    ) -> Array:
        """Curves float32 `[b, steps + 1]` for maps `[b, h, w]`; see `SaliencyMap` for the others."""
        start = _passes.spread(baseline, example.image)
        return _curve(self.steps, maps, target_fn, example, start, example.image, chunk)


def curve_area(curves: Array | np.ndarray) -> np.ndarray:
    """The area under curves `[b, n]` over [0, 1] by the trapezoid rule, float64 `[b]`: a mean of the target.

    >>> curve_area(np.array([[1.0, 0.5, 0.0]])).tolist()
    [0.5]
    """
    curves = np.asarray(curves, np.float64)
    if curves.ndim != 2 or curves.shape[1] < 2:
        raise ValueError(f"Expected curves [b, n] of at least two points, got shape {list(curves.shape)}.")
    return (curves[:, :-1] + curves[:, 1:]).mean(axis=1) / 2


def _curve(
    steps: int,
    maps: Array,
    target_fn: TargetFn,
    example: Example,
    before: Array,
    after: Array,
    chunk: int | None,
) -> Array:
    """From `before` to `after` `[b, h, w, c]`, pixel by pixel in the maps' order."""
    b, h, w, _ = example.image.shape
    if maps.shape != (b, h, w):
        raise ValueError(f"Expected maps [{b}, {h}, {w}], got shape {list(maps.shape)}.")
    size = _passes.sizes(b, steps + 1, chunk)
    counts = jnp.asarray(np.arange(steps + 1) * h * w // steps)
    ranks = jax.vmap(_ranks)(maps)[..., None]

    def part(numbers: Array) -> Array:
        def at(rows: tuple[Example, Array, Array, Array]) -> Array:
            example, ranks, before, after = rows
            changed = ranks[:, None] < counts[numbers][:, None, None, None]
            images = jnp.where(changed, after[:, None], before[:, None])
            return _passes.values(target_fn, images, example)

        return _passes.by_groups(at, (example, ranks, before, after), size.rows)

    return _passes.each_variant(part, steps + 1, size.variants)


def _ranks(values: Array) -> Array:
    """The place of every pixel in falling order, int32 `[h, w]`; equals go by index."""
    order = jnp.argsort(-values.ravel(), stable=True)
    places = jnp.arange(values.size, dtype=jnp.int32)
    return jnp.zeros(values.size, jnp.int32).at[order].set(places).reshape(values.shape)
