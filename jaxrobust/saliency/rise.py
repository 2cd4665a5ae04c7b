"""RISE: the target's covariance with what random soft masks leave of the image."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.saliency import _passes
from jaxrobust.saliency._types import TargetFn
from jaxrobust.types import Array, Example


@dataclass(frozen=True, kw_only=True)
class RISE:
    r"""Random masks, weighted by the target of what they leave (Petsiuk et al., arXiv 1806.07421, section 3).

    Masks are cells that are kept with probability p, enlarged bilinearly and shifted at random within a cell,
    as in section 3.2; where the enlargement reaches beyond the outermost cells' centres, it repeats them.
    What a mask hides is the baseline (the paper's is black).

    The paper's map is $E[f(x \odot M) \mid M(q) = 1]$ at pixel q, estimated by
    $\frac{1}{n p} \sum_i f_i M_i(q)$. This one is $\mathrm{cov}(f(x \odot M), M(q)) / p$: the same less E f,
    which shifts a map as a whole and adds the most of its noise. So 0 is no influence, and the map is signed.

    The masks are drawn from `seed`, not from the rows' keys: they are the same for all images, which are then
    compared by the same experiment, and are made once for a batch. The first n of N masks are those of a map
    with n.

    Args:
        num: masks, >= 2; the paper takes 4000 to 8000. The noise falls with the root of it.
        cells: along each side, >= 1.
        keep: p in (0, 1).
        seed: of the masks, >= 0.

    Raises:
        ValueError: for arguments out of range; when used, for more cells than pixels along a side.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> ex = Example(jnp.full((1, 8, 8, 1), 0.5), jnp.zeros(1, int))
        >>> def target_fn(images, example):
        ...     return images[:, :4, :4].sum(axis=(1, 2, 3))
        >>> found = RISE(num=500, cells=4)(jax.random.split(jax.random.key(0), 1), target_fn, ex)[0]
        >>> bool(found[:4, :4].min() > found[4:, 4:].max())
        True
    """

    num: int = 4000
    cells: int = 7
    keep: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        _validate.at_least("num", self.num, 2)
        _validate.at_least("cells", self.cells, 1)
        _validate.at_least("seed", self.seed, 0)
        _validate.within("keep", self.keep, 0.0, 1.0)
        if self.keep in (0, 1):
            raise ValueError(f"Expected 0 < keep < 1, got keep={self.keep}: the masks would all be the same.")

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
        if self.cells > min(h, w):
            raise ValueError(
                f"Expected cells <= {min(h, w)}, the shorter side, got cells={self.cells}. Take fewer."
            )
        hidden = _passes.spread(baseline, example.image)
        size = _passes.sizes(b, self.num, chunk)

        def part(numbers: Array) -> Array:
            masks = self.masks(numbers, (h, w))[..., None]

            def under(rows: tuple[Example, Array]) -> Array:
                example, hidden = rows
                images = hidden[:, None] + masks * (example.image - hidden)[:, None]
                return _passes.values(target_fn, images, example)

            return _passes.by_groups(under, (example, hidden), size.rows)

        found = _passes.each_variant(part, self.num, size.variants)
        # Centred before they are weighed, or the covariance of a large target is lost in float32.
        centred = found - found.mean(axis=1, keepdims=True)
        slots = size.variants
        filled = jnp.pad(centred, ((0, 0), (0, -self.num % slots)))

        def weighed(numbers: Array, weights: Array) -> Array:
            masks = self.masks(numbers, (h, w)).reshape(len(numbers), h * w)
            deviations = jax.lax.dynamic_slice_in_dim(filled, numbers[0], len(numbers), axis=1)
            return jnp.matmul(deviations * weights, masks, precision=jax.lax.Precision.HIGHEST)

        total = _passes.sum_over_variants(weighed, self.num, slots)
        return total.reshape(b, h, w) / ((self.num - 1) * self.keep)

    def masks(self, numbers: Array, shape: tuple[int, int]) -> Array:
        """The masks of these numbers for images of height and width `shape`: float32 `[n, h, w]` in [0, 1].

        Each pixel's mean over all masks is `keep`.
        """
        cells = self.cells
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(self.seed), numbers)
        draws = jax.vmap(lambda key: jax.random.uniform(key, (cells * cells + 2,)))(keys)
        grid = (draws[:, 2:] < self.keep).astype(jnp.float32).reshape(-1, cells, cells)
        down = self._interpolation(draws[:, 0], shape[0])
        across = self._interpolation(draws[:, 1], shape[1])
        return jnp.einsum("nhk,nkl,nwl->nhw", down, grid, across, precision=jax.lax.Precision.HIGHEST)

    def _interpolation(self, draws: Array, length: int) -> Array:
        """`[n, length, cells]`: the share of each cell in each pixel, after a shift by part of a cell."""
        cell = -(-length // self.cells)
        shift = jnp.minimum(jnp.floor(draws * cell), cell - 1)
        # The grid is stretched over one cell more than it has, so that a shifted mask covers the image.
        stretch = self.cells / ((self.cells + 1) * cell)
        place = (jnp.arange(length) + shift[:, None] + 0.5) * stretch - 0.5
        place = jnp.clip(place, 0, self.cells - 1)
        return jnp.maximum(1 - jnp.abs(place[..., None] - jnp.arange(self.cells)), 0)
