r"""The pair of features that a saliency map likes best, by best-first search: exact, and seldom quadratic.

The score of a pair is $(a_p + a_q)(c_p + c_q)$ where both factors are positive. No pair with p scores above
U_p, so once the best pair found reaches the largest U of the features not yet tried, it is the best of all.
Rounding is monotone: the first bound holds for the floats themselves, and the others have room for it. So the
choice is that of the full search, bit for bit.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.types import Array

# xy <= ((l x + y / l) / 2)^2 for any l: tight for pairs of this slope. Powers of two multiply exactly.
_SLOPES = (0.5, 1.0, 2.0)
# Above the rounding of a sum of four numbers below 4.
_ROOM = 1e-5


class Pair(NamedTuple):
    """Two features, `first` < `second`, int32 `[]`, and their `score`: 0 where no pair is admissible."""

    first: Array
    second: Array
    score: Array


def best_pair(alpha: Array, beta: Array, domain: Array, *, chunk: int) -> Pair:
    """The largest -(alpha_p + alpha_q)(beta_p + beta_q) with the first sum > 0 and the second < 0, p != q.

    `alpha`, `beta` float32 `[d]`; `domain` bool `[d]`; of equal pairs the first in lexicographic order. An
    entry that is not finite leaves the domain. `chunk` features are tried against all others at once.
    """
    d = alpha.size
    chunk = min(chunk, d)
    usable = domain & jnp.isfinite(alpha) & jnp.isfinite(beta)
    # Sums with -inf are not positive, so what is outside is in no pair.
    a, c = (jnp.where(usable, _unit(v, usable), -jnp.inf) for v in (alpha, -beta))
    columns = jnp.arange(d, dtype=jnp.int32)

    def body(carry: tuple[Array, Pair]) -> tuple[Array, Pair]:
        bound, best = carry
        rows = jax.lax.top_k(bound, chunk)[1].astype(jnp.int32)
        x, y = a[rows, None] + a, c[rows, None] + c
        admissible = (x > 0) & (y > 0) & (rows[:, None] != columns)
        # Pairs of outside features would give inf, which the mask drops; never NaN.
        score = jnp.where(admissible, x * y, 0.0)
        top = score.max()
        low, high = jnp.minimum(rows[:, None], columns), jnp.maximum(rows[:, None], columns)
        first = jnp.where(score == top, low, d).min()
        second = jnp.where((score == top) & (low == first), high, d).min()
        earlier = (first < best.first) | ((first == best.first) & (second < best.second))
        better = (top > best.score) | ((top == best.score) & earlier)
        new = Pair(first, second, top)
        return bound.at[rows].set(-1.0), jax.tree.map(lambda n, o: jnp.where(better, n, o), new, best)

    def unsure(carry: tuple[Array, Pair]) -> Array:
        bound, best = carry
        # A tie may hide an earlier pair.
        return (bound.max() >= best.score) & (bound.max() > 0)

    # Not a constant, so that the loop's carry varies over the devices that its rows vary over.
    nowhere = jnp.where(usable[0], jnp.int32(d), jnp.int32(d))
    start = Pair(nowhere, nowhere, jnp.zeros_like(nowhere, jnp.float32))
    return jax.lax.while_loop(unsure, body, (_bound(a, c), start))[1]


def _unit(values: Array, usable: Array) -> Array:
    """The values over the power of two below the largest: products of small gradients must not vanish."""
    largest = jnp.where(usable, jnp.abs(values), 0.0).max()
    exponent = jax.lax.bitcast_convert_type(largest, jnp.uint32) & jnp.uint32(0x7F800000)
    power = jax.lax.bitcast_convert_type(exponent, jnp.float32)
    return values / jnp.where(power > 0, power, 1.0)


def _bound(a: Array, c: Array) -> Array:
    """U `[d]`: no pair with this feature scores more; 0 or less where it is in no admissible pair."""
    x, y = a + a.max(), c + c.max()
    bound = jnp.where((x > 0) & (y > 0), x * y, 0.0)
    for slope in _SLOPES:
        w = slope * a + c / slope
        half = jnp.maximum(w + w.max() + _ROOM, 0.0) / 2
        bound = jnp.minimum(bound, half**2 * (1 + _ROOM))
    return bound
