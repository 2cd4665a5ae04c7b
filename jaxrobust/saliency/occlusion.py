"""Occlusion: how much the target falls when a window of the image is covered."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _validate
from jaxrobust.saliency import _passes
from jaxrobust.saliency._types import TargetFn
from jaxrobust.types import Array, Example


@dataclass(frozen=True, kw_only=True)
class Occlusion:
    r"""The fall of the target under covered windows (Zeiler and Fergus, arXiv 1311.2901, section 4.2).

    $S(p) = \frac{1}{|W_p|} \sum_{W \in W_p} f(x) - f(x \text{ with the baseline in } W)$ over the windows
    that cover pixel p. Windows begin at every stride-th row and column, until one reaches the border, where
    the last is cut off: every pixel is covered.

    Args:
        window: side of the square window in pixels, >= 1.
        stride: between windows in pixels, 1 <= stride <= window.

    Raises:
        ValueError: for a stride that leaves gaps; when used, for a window larger than the image.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> ex = Example(jnp.array([0.5, 1.0, 0.25]).reshape(1, 1, 3, 1), jnp.zeros(1, int))
        >>> def target_fn(images, example):
        ...     return images.sum(axis=(1, 2, 3))
        >>> single = Occlusion(window=1, stride=1)
        >>> single(jax.random.split(jax.random.key(0), 1), target_fn, ex).tolist()
        [[[0.5, 1.0, 0.25]]]
    """

    window: int = 8
    stride: int = 4

    def __post_init__(self) -> None:
        _validate.at_least("window", self.window, 1)
        _validate.at_least("stride", self.stride, 1)
        if self.stride > self.window:
            raise ValueError(
                f"Expected stride <= window={self.window}, got stride={self.stride}: pixels between windows "
                "would never be covered. Take a smaller stride or a larger window."
            )

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
        b, h, w, _ = example.image.shape
        down, across = self._intervals(h), self._intervals(w)
        fill = _passes.spread(baseline, example.image)
        # One variant more than there are windows: the image as it is.
        num = len(down) * len(across)
        size = _passes.sizes(b, num + 1, chunk)

        def part(numbers: Array) -> Array:
            row, column = jnp.divmod(jnp.minimum(numbers, num - 1), len(across))
            covered = jnp.asarray(down)[row][:, :, None] & jnp.asarray(across)[column][:, None, :]
            covered = (covered & (numbers < num)[:, None, None])[..., None]

            def under(rows: tuple[Example, Array]) -> Array:
                example, fill = rows
                images = jnp.where(covered, fill[:, None], example.image[:, None])
                return _passes.values(target_fn, images, example)

            return _passes.by_groups(under, (example, fill), size.rows)

        found = _passes.each_variant(part, num + 1, size.variants)
        falls = (found[:, -1:] - found[:, :-1]).reshape(b, len(down), len(across))
        # The sum over the windows above a pixel: of rows, then of columns.
        total = jnp.einsum(
            "bij,ih,jw->bhw",
            falls,
            down.astype(np.float32),
            across.astype(np.float32),
            precision=jax.lax.Precision.HIGHEST,
        )
        return total / np.outer(down.sum(axis=0), across.sum(axis=0)).astype(np.float32)

    def _intervals(self, length: int) -> np.ndarray:
        """Bool `[n, length]`: what each window covers along one axis."""
        if self.window > length:
            raise ValueError(
                f"Expected window <= {length}, the image's side, got window={self.window}. Take a smaller."
            )
        starts = self.stride * np.arange(-(-(length - self.window) // self.stride) + 1)
        offset = np.arange(length) - starts[:, None]
        return (offset >= 0) & (offset < self.window)
