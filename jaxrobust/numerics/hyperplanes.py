r"""The shortest way to a hyperplane inside a box, in l_1, l_2 and l_inf, exactly.

All three are $\min_\delta \|\delta\|_p$ subject to $\langle w, \delta \rangle = -g$ and $l \le \delta \le u$
with $l \le 0 \le u$ (arXiv:1907.02044, section 2.2 and appendix A; l_2 and l_inf also arXiv:1712.07107). A
coordinate only ever moves against $g\,w_i$, up to its room $r_i$, by $m_i \ge 0$ with $\sum_i |w_i| m_i =
|g|$. Where the box does not reach the plane, every coordinate uses up its room: the point of the box that is
nearest to crossing.
"""

import jax
import jax.numpy as jnp

from jaxrobust.types import Array


def to_hyperplane(weight: Array, gap: Array, low: Array, high: Array, norm: float) -> Array:
    r"""argmin_d ||d||_p subject to <weight, d> = -gap and low <= d <= high.

    For p = inf $m_i = \min(t, r_i)$ and for p = 2 $m_i = \min(t\,|w_i|, r_i)$ with one t for all coordinates;
    for p = 1 the coordinates of the largest $|w_i|$ use up their room, and one goes part of the way.

    Args:
        weight: w, of any shape, taken as one vector. Entries that are not finite count 0.
        gap: g, a scalar: the value of the affine function at offset 0.
        low, high: the box of offsets, shaped like `weight`, low <= 0 <= high.
        norm: p, one of 1, 2 and inf.

    Returns:
        The offset, shaped like `weight`; 0 where the gap or the weight is 0 or NaN.

    Raises:
        ValueError: for another norm.

    >>> weight, low, high = jnp.array([3.0, 4.0]), jnp.full(2, -1.0), jnp.array([1.0, 0.25])
    >>> print(to_hyperplane(weight, jnp.array(-2.5), low, high, 2))  # unbounded it is [0.3 0.4]
    [0.5  0.25]
    """
    weight = jnp.where(jnp.isfinite(weight), weight, 0.0)
    # A confident model's gradients are so small that their squares vanish in float32.
    largest = jnp.abs(weight).max()
    scale = jnp.where(largest > 0, largest, 1.0)
    weight, gap = weight / scale, jnp.where(largest > 0, jnp.nan_to_num(gap / scale, nan=0.0), 0.0)
    sign = -jnp.sign(gap) * jnp.sign(weight)
    room = jnp.where(sign > 0, high, jnp.where(sign < 0, -low, 0.0))
    slope = jnp.abs(weight)
    if norm == 1:
        moved = _largest_first(slope, room, jnp.abs(gap))
    elif norm == 2:
        moved = _together(slope, slope, room, jnp.abs(gap))
    elif norm == float("inf"):
        moved = _together(slope, jnp.ones_like(slope), room, jnp.abs(gap))
    else:
        raise ValueError(f"Expected norm to be 1, 2 or inf, got norm={norm}.")
    return sign * moved


def _together(slope: Array, speed: Array, room: Array, target: Array) -> Array:
    r"""$m_i = \min(t\,v_i, r_i)$ with the least t at which $\sum_i |w_i| m_i$ is the target.

    The sum is concave and piecewise linear in t, so Newton's method from 0 climbs to the root without
    overshooting, passes a breakpoint at each step, and ends exactly: no sorting.
    """

    def newton(state: tuple[Array, Array]) -> tuple[Array, Array]:
        t, _ = state
        free = t * speed < room
        rest = target - jnp.where(free, 0.0, slope * room).sum()
        rate = jnp.where(free, slope * speed, 0.0).sum()
        # With no coordinate left to move the plane is out of reach.
        following = jnp.where(rate > 0, rest / jnp.where(rate > 0, rate, 1.0), jnp.inf)
        return jnp.maximum(following, t), following > t

    # The start is spread over what varies among devices, as `shard_map` asks of a loop.
    start = 0.0 * target, target > 0
    t, _ = jax.lax.while_loop(lambda state: state[1], newton, start)
    return jnp.where(t * speed < room, t * speed, room)


def _largest_first(slope: Array, room: Array, target: Array) -> Array:
    """Room is used up in the order of falling slopes, until the sum of slope times move is the target."""
    slopes, rooms = slope.ravel(), room.ravel()
    order = jnp.argsort(-slopes)
    gains = (slopes * rooms)[order]
    before = jnp.cumsum(gains) - gains
    share = jnp.clip((target - before) / jnp.where(gains > 0, gains, 1.0), 0.0, 1.0)
    return (jnp.zeros_like(rooms).at[order].set(share) * rooms).reshape(room.shape)
