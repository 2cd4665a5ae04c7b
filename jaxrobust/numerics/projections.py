"""Norms, projections and steepest directions of the lp geometries; safe to differentiate at 0.

The projections onto a ball cut by a box are exact: a projection onto the ball followed by clipping stops
short of the nearest point, and an attack that uses it stalls short of its radius.
"""

import jax.numpy as jnp
from jax import lax

from jaxrobust.types import Array

_NEWTON_STEPS = 8  # the support settles in 2 to 5 on images; stopping early stays inside the ball
_BISECTIONS = 30  # brings a threshold to the spacing of float32


def l2_norm(x: Array) -> Array:
    """The l2 norm of the whole array, a scalar; its gradient at 0 is 0, where plain autodiff gives NaN."""
    # Scaled to a largest value of 1: the squares of a confident model's gradients underflow.
    largest = lax.stop_gradient(linf_norm(x))
    positive = largest > 0
    square = jnp.sum((x / jnp.where(positive, largest, 1)) ** 2)
    return largest * jnp.sqrt(jnp.where(positive, square, 1))


def linf_norm(x: Array) -> Array:
    """The largest absolute value of the whole array, a scalar."""
    return jnp.max(jnp.abs(x))


def project_linf(delta: Array, eps: float | Array) -> Array:
    """argmin_d ||d - delta||_2 subject to ||d||_inf <= eps, which is clipping to [-eps, eps].

    Args:
        delta: an offset of any shape, taken as one vector; pixels.
        eps: radius in pixels, >= 0; may be traced.

    >>> project_linf(jnp.array([0.5, -0.1]), 0.25).tolist()
    [0.25, -0.10000000149011612]
    """
    return jnp.clip(delta, -eps, eps)


def project_l2(delta: Array, eps: float | Array) -> Array:
    """argmin_d ||d - delta||_2 subject to ||d||_2 <= eps: delta * min(1, eps / ||delta||).

    Args:
        delta: an offset of any shape, taken as one vector; pixels.
        eps: radius in pixels, >= 0; may be traced.

    >>> project_l2(jnp.array([3.0, 4.0]), 1.0).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    norm = l2_norm(delta)
    return delta * jnp.where(norm > eps, eps / jnp.where(norm > 0, norm, 1), 1)


def linf_direction(grad: Array) -> Array:
    """argmax_d <grad, d> subject to ||d||_inf <= 1: the sign, 0 at 0."""
    return jnp.sign(grad)


def l2_direction(grad: Array) -> Array:
    """argmax_d <grad, d> subject to ||d||_2 <= 1: grad / ||grad||, 0 at 0."""
    norm = l2_norm(grad)
    return grad / jnp.where(norm > 0, norm, 1)


def l1_norm(x: Array) -> Array:
    """The sum of absolute values of the whole array, a scalar."""
    return jnp.abs(x).sum()


def project_l1(delta: Array, eps: float | Array) -> Array:
    r"""argmin_d ||d - delta||_2 subject to ||d||_1 <= eps (Duchi et al., ICML 2008, section 4).

    The soft threshold $d_i = \mathrm{sign}(\delta_i) \max(|\delta_i| - \lambda, 0)$ with the smallest
    $\lambda \ge 0$ that fits; `project_l1_box` without a box.

    Args:
        delta: an offset of any shape, taken as one vector; pixels.
        eps: radius in pixels, >= 0; may be traced.

    >>> project_l1(jnp.array([3.0, -2.0, 0.5]), 2.0).tolist()
    [1.5, -0.5, 0.0]
    """
    return project_l1_box(delta, eps, -jnp.inf, jnp.inf)


def project_l1_box(delta: Array, eps: float | Array, low: float | Array, high: float | Array) -> Array:
    r"""argmin_d ||d - delta||_2 subject to ||d||_1 <= eps and low <= d <= high, exactly.

    By the KKT conditions $d_i = \mathrm{sign}(\delta_i)\,\mathrm{clip}(|\delta_i| - \lambda, 0, b_i)$, $b_i$
    the room from 0 to the box in the direction of $\delta_i$, with the smallest $\lambda \ge 0$ whose
    length is at most eps (Croce & Hein, arXiv:2103.01208, proposition 2.1). The length is piecewise linear
    in $\lambda$. They sort its kinks; here bisection finds the piece, on which $\lambda$ is then solved for:
    the same point, and on a CPU twenty times as fast.

    Args:
        delta: an offset of any shape, taken as one vector; pixels.
        eps: radius in pixels, >= 0; may be traced.
        low, high: the box, low <= 0 <= high, of the offset's shape or scalars.

    >>> project_l1_box(jnp.array([3.0, -1.0, 0.25]), 1.5, -1.0, 1.0).round(6).tolist()
    [1.0, -0.5, 0.0]
    """
    size = jnp.abs(delta)
    bound = jnp.where(delta > 0, high, -jnp.asarray(low, delta.dtype))
    eps = jnp.asarray(eps, delta.dtype)

    def shrunk(threshold: Array) -> Array:
        return jnp.clip(size - threshold, 0.0, bound)

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        below, above = bracket
        middle = (below + above) / 2
        long = shrunk(middle).sum() > eps
        return jnp.where(long, middle, below), jnp.where(long, above, middle)

    fits = shrunk(jnp.zeros_like(eps)).sum() <= eps
    largest = lax.stop_gradient(size.max()) + 0 * eps
    below, above = lax.fori_loop(0, _BISECTIONS, halve, (jnp.zeros_like(largest), largest))
    middle = (below + above) / 2
    # On the piece of the root some entries have left 0 and not met the box: they share what is too long.
    free = (size > middle) & (size - middle < bound)
    count = free.sum()
    excess = jnp.where(free, size, 0.0).sum() + jnp.where(free, 0.0, shrunk(middle)).sum() - eps
    solved = jnp.clip(excess / jnp.maximum(count, 1), below, above)
    threshold = jnp.where(fits, 0.0, jnp.where(count > 0, solved, above))
    nearest = shrunk(threshold)
    # The threshold is rounded, and its error counts once for every free entry.
    length = nearest.sum()
    nearest = nearest * jnp.where(length > eps, eps / jnp.where(length > 0, length, 1), 1)
    return jnp.sign(delta) * nearest


def project_l2_box(delta: Array, eps: float | Array, low: float | Array, high: float | Array) -> Array:
    r"""argmin_d ||d - delta||_2 subject to ||d||_2 <= eps and low <= d <= high, exactly.

    By the KKT conditions it is $\mathrm{clip}(s\,\delta, low, high)$ with the largest s in [0, 1] whose norm
    is at most eps. Written in $t = s^2$ its squared norm $\sum_i \min(t\,\delta_i^2, b_i^2)$ is concave and
    piecewise linear, so Newton's method from the left climbs to the root without overshooting: an iterate
    that stops early is still inside.

    Args:
        delta: an offset of any shape, taken as one vector; pixels.
        eps: radius in pixels, >= 0; may be traced.
        low, high: the box of the offset, -1 <= low <= 0 <= high <= 1, of its shape or scalars.

    >>> project_l2_box(jnp.array([4.0, 3.0]), 1.0, -0.6, 0.6).round(6).tolist()
    [0.6000000238418579, 0.6000000238418579]
    """
    squares = delta**2
    bounds = jnp.clip(jnp.where(delta > 0, high, low), -1.0, 1.0) ** 2
    budget = jnp.asarray(eps, delta.dtype) ** 2

    def climb(_: int, t: Array) -> Array:
        free = t * squares < bounds
        room = budget - jnp.where(free, 0.0, bounds).sum()
        slope = jnp.where(free, squares, 0.0).sum()
        return jnp.where(slope > 0, jnp.clip(room / jnp.where(slope > 0, slope, 1.0), t, 1.0), t)

    fits = jnp.minimum(squares, bounds).sum() <= budget
    t = lax.fori_loop(0, _NEWTON_STEPS, climb, jnp.zeros_like(budget + squares.sum()))
    # The derivative of a root at 0 is infinite, and 0 times it NaN.
    root = jnp.where(t > 0, jnp.sqrt(jnp.where(t > 0, t, 1.0)), 0.0)
    return jnp.clip(jnp.where(fits, 1.0, root) * delta, low, high)


def l0_norm(x: Array) -> Array:
    """How many entries are not 0, as a float; its gradient is 0."""
    return jnp.where(x != 0, 1.0, 0.0).sum()


def project_l0_box(
    delta: Array, eps: float | Array, low: float | Array, high: float | Array, *, axis: int | None = None
) -> Array:
    r"""argmin_d ||d - delta||_2 subject to ||d||_0 <= eps and low <= d <= high, exactly.

    Changing entry i at all brings $c_i (2 \delta_i - c_i)$, $c = \mathrm{clip}(\delta, low, high)$, in
    squared distance; the eps entries that bring most are kept and clipped, the others are 0 (Croce & Hein,
    arXiv:1909.05040, section 4). The first of equals are kept.

    Args:
        delta: an offset of any shape, taken as one vector; pixels.
        eps: how many entries may differ from 0, an integer >= 0; may be traced.
        low, high: the box, low <= 0 <= high, of the offset's shape or scalars.
        axis: along it entries count as one (the channels of a pixel); None counts each.

    >>> project_l0_box(jnp.array([3.0, -2.0, 0.5, 2.5]), 2, -1.0, 1.0).tolist()
    [1.0, 0.0, 0.0, 1.0]
    """
    clipped = jnp.clip(delta, low, high)
    gain = lax.stop_gradient(clipped * (2 * delta - clipped))
    if axis is not None:
        gain = gain.sum(axis=axis, keepdims=True)
    return jnp.where(keep_largest(gain, eps), clipped, 0.0)


def keep_largest(values: Array, num: int | float | Array) -> Array:
    """Marks the `num` largest values >= 0 of the whole array, the first of equals; bool.

    Args:
        values: >= 0, of any shape.
        num: an integer >= 0; may be traced.

    >>> keep_largest(jnp.array([1.0, 3.0, 2.0, 2.0]), 2).tolist()
    [False, True, True, False]
    """
    kth = kth_largest(values, num)
    above, ties = values > kth, (values == kth).ravel()
    room = jnp.asarray(num) - above.sum()
    return above | (ties & (jnp.cumsum(ties) <= room)).reshape(values.shape)


def kth_largest(values: Array, k: int | float | Array) -> Array:
    """The k-th largest of values >= 0, and infinity for k = 0; bit by bit, which is faster than sorting.

    Args:
        values: float32 >= 0, of any shape.
        k: an integer in [0, size]; may be traced. Beyond the size it gives 0.

    >>> float(kth_largest(jnp.array([1.0, 3.0, 2.0]), 2))
    2.0
    """
    # Floats >= 0 are ordered as the integers of their bits.
    bits = lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)

    def refine(step: int, found: Array) -> Array:
        longer = found | (jnp.int32(1) << (30 - step))
        return jnp.where((bits >= longer).sum() >= k, longer, found)

    zero = jnp.zeros_like(bits.ravel()[0])
    found = lax.fori_loop(0, 31, refine, zero)
    infinity = jnp.int32(0x7F800000)
    return lax.bitcast_convert_type(jnp.minimum(found, infinity), jnp.float32)
