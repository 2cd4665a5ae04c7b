"""The random shapes of the Square Attack, arXiv:1912.00049, each on one image.

The side of a window is traced, so that one program serves the whole schedule: shapes are functions of every
pixel's place, not slices. All that a proposal draws comes from one call, as each call of a counter-based
generator costs as much compilation as the rest.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.types import Array

# p is halved after these of 10,000 queries (section 5.1 and appendix B).
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_TILES = 5


def sides(queries: int, p_init: float, shape: tuple[int, int], *, odd: bool) -> np.ndarray:
    """The window's side at each query, int32 `[queries]`: sqrt(p h w), within the image; odd for l_2."""
    height, width = shape
    halvings = np.searchsorted(_HALVINGS, np.arange(queries) * 10_000 // queries)
    side = np.maximum(np.round(np.sqrt(p_init / 2.0**halvings * height * width)), 1).astype(np.int32)
    longest = min(height, width)
    if not odd:
        return np.minimum(side, longest)
    side = np.maximum(side + (side % 2 == 0), 3)
    return np.minimum(side, longest - (longest % 2 == 0))


def stripes(key: Array, image: Array, eps: float | Array) -> Array:
    """The l_inf start: vertical stripes of width 1, each of a random sign per channel."""
    return eps * _signs(jax.random.uniform(key, (1, *image.shape[1:]))) * jnp.ones_like(image)


def square(key: Array, theta: Array, side: Array, eps: float | Array) -> Array:
    """Alg. 2: a window at +-eps, one sign per channel.

    (Adding +-2 eps and clipping to +-eps, as the paper has it, is this.)
    """
    place, chance = jnp.split(jax.random.uniform(key, (2 + theta.shape[2],)), [2])
    row, column = _local(_corner(place, theta, side), theta)
    return jnp.where(_inside(row, column, side), eps * _signs(chance), theta)


def tiles(key: Array, image: Array, eps: float | Array) -> Array:
    """The l_2 start: a tiling by 5 x 5 pyramid pairs of random sign per channel and orientation.

    Where the side is not a multiple of the tile's there may be a sixth row, and a margin is left.
    """
    height, width, channels = image.shape
    side = max(min(height, width) // _TILES, 1)
    down, right = height // side, width // side
    chance = jax.random.uniform(key, (down, right, channels + 1))
    corner = jnp.array([(height - down * side) // 2, (width - right * side) // 2])
    row, column = _local(corner, image)
    covered = (row >= 0) & (row < down * side) & (column >= 0) & (column < right * side)
    tile = (jnp.clip(row // side, 0, down - 1), jnp.clip(column // side, 0, right - 1))
    chance = chance[tile[0][..., 0], tile[1][..., 0]]
    signs, turned = _signs(chance[..., 1:]), chance[..., :1] < 0.5
    shape = jnp.where(covered, _pyramids(row % side, column % side, side, turned), 0.0)
    return eps * _unit(signs * shape, axes=(0, 1, 2))


def windows(key: Array, theta: Array, side: Array, eps: float | Array) -> Array:
    """Alg. 3: the length in two windows, and what is unused, goes to the first; the second becomes 0."""
    drawn = jax.random.uniform(key, (5 + theta.shape[2],))
    here, there, turn, chance = jnp.split(drawn, [2, 4, 5])
    row, column = _local(_corner(here, theta, side), theta)
    first = _inside(row, column, side)
    second = _inside(*_local(_corner(there, theta, side), theta), side)
    fresh = _unit(jnp.where(first, _pyramids(row, column, side, turn < 0.5), 0.0))
    mixed = _signs(chance) * fresh + _unit(jnp.where(first, theta, 0.0))
    unused = jnp.maximum(eps**2 - (theta**2).sum(), 0.0)
    freed = jnp.where(first | second, theta**2, 0.0).sum(axis=(0, 1))
    content = _unit(mixed) * jnp.sqrt(freed + unused / theta.shape[2])
    return jnp.where(first, content, jnp.where(second, 0.0, theta))


def _signs(chance: Array) -> Array:
    """-1 or 1 for uniform draws."""
    return jnp.where(chance < 0.5, -1.0, 1.0)


def _unit(shape: Array, axes: tuple[int, ...] = (0, 1)) -> Array:
    """Length 1 per channel (or over `axes`), 0 where all is 0."""
    length = jnp.sqrt((shape**2).sum(axis=axes, keepdims=True))
    return shape / jnp.where(length > 0, length, 1.0)


def _corner(place: Array, image: Array, side: Array) -> Array:
    """The (row, column) where a window begins, for two uniform draws.

    The authors' code draws it below h - side, so that a window ends before the last row and column. Single
    pixels may lie there, or no step would ever come to these.
    """
    places = jnp.maximum(jnp.array(image.shape[:2]) - side + (side == 1), 1)
    return jnp.minimum((place * places).astype(jnp.int32), places - 1)


def _local(corner: Array, image: Array) -> tuple[Array, Array]:
    """Every pixel's row and column from the corner on, each `[h, w, 1]`."""
    row, column = jnp.indices(image.shape[:2])[..., None]
    return row - corner[0], column - corner[1]


def _inside(row: Array, column: Array, side: int | Array) -> Array:
    return (row >= 0) & (row < side) & (column >= 0) & (column < side)


def _pyramids(row: Array, column: Array, side: int | Array, turned: Array) -> Array:
    """eta of eq. (2) at these places of a window: two opposite pyramids, one above the other or beside it."""
    row, column = jnp.where(turned, column, row), jnp.where(turned, row, column)
    half = side // 2
    above = _pyramid(row, column, half, side)
    below = _pyramid(row - half, column, side - half, side)
    return jnp.where(row < half, above, -below)


def _pyramid(row: Array, column: Array, height: int | Array, width: int | Array) -> Array:
    """sum 1 / j^2 over j = m + 1 ... n + 1: m the distance from the centre, in max norm, n = width // 2."""
    longest = max(row.shape)  # of the image, which holds the window
    sums = jnp.asarray(np.concatenate([[0.0], np.cumsum(np.arange(1.0, longest + 2) ** -2)]), jnp.float32)
    distance = jnp.maximum(jnp.abs(row - height // 2), jnp.abs(column - width // 2))
    top = width // 2 + 1
    return sums[top] - sums[jnp.minimum(distance, top)]
