r"""Balls around the image: $N(x) = \{x' \in [0, 1]^d : \|x' - x\|_p \le \epsilon\}$ for p = inf and p = 2.

`theta` is the offset `[h, w, c]` and `apply` is `clip(x + theta, 0, 1)`. The set of offsets is the ball cut
by the box that keeps pixels in [0, 1]; both classes project onto that cut set, not onto the ball and then the
box.
"""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.neighbourhoods._pixels import in_radii, to_pixels
from jaxrobust.numerics import projections
from jaxrobust.types import Array, Example

_NEWTON_STEPS = 8  # the support settles in 2 to 5 on images; stopping early stays inside the ball


@dataclass(frozen=True, kw_only=True)
class LInf:
    r"""The l_inf ball: $\|x' - x\|_\infty \le \epsilon$ with x' in [0, 1].

    Args:
        eps: the radius in pixel units, >= 0; 8/255 and 0.3 are the usual ones.

    Raises:
        ValueError: for a negative or non-finite radius.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrobust.types import Example
        >>> ball, ex = LInf(eps=0.25), Example(jnp.full((1, 2, 1), 0.9), target=jnp.array(0))
        >>> theta = ball.project(ex, jnp.array([[[0.5], [-0.5]]]))
        >>> print(ball.apply(ex, theta).ravel(), ball.distance(ex, theta))
        [1.   0.65] 1.0
    """

    eps: float | Array

    def __post_init__(self) -> None:
        _validate.non_negative("eps", self.eps, "Radii are in pixels, e.g. eps=8/255.")

    def init(self, ex: Example) -> Array:
        """The zero offset."""
        return jnp.zeros_like(ex.image)

    def sample(self, key: Array, ex: Example) -> Array:
        """Uniform in the ball, then clipped to the box."""
        unit = jax.random.uniform(key, ex.image.shape, ex.image.dtype, minval=-1.0, maxval=1.0)
        return self.project(ex, self.eps * unit)

    def apply(self, ex: Example, theta: Array) -> Array:
        """`clip(x + theta, 0, 1)`."""
        return to_pixels(ex.image + theta)

    def project(self, ex: Example, theta: Array) -> Array:
        """The nearest offset in ball and box: both are intervals per pixel."""
        return jnp.clip(theta, jnp.maximum(-self.eps, -ex.image), jnp.minimum(self.eps, 1.0 - ex.image))

    def ascent(self, grad: Array) -> Array:
        """`eps * sign(grad)`, the steepest direction of l_inf length eps."""
        return self.eps * projections.linf_direction(grad)

    def distance(self, ex: Example, theta: Array) -> Array:
        r"""$\|x' - x\|_\infty / \epsilon$ of the clipped image."""
        return in_radii(jnp.abs(self.apply(ex, theta) - ex.image).max(), self.eps)

    @property
    def norm(self) -> float:
        """p = inf."""
        return math.inf

    def length(self, delta: Array) -> Array:
        r"""$\|\delta\|_\infty$ in pixels."""
        return projections.linf_norm(delta)

    def region(self, ex: Example) -> Array:
        """Everywhere."""
        return jnp.ones_like(ex.image[..., :1])

    def scaled(self, factor: float | Array) -> "LInf":
        """The ball of radius `factor * eps`."""
        return replace(self, eps=self.eps * factor)


@dataclass(frozen=True, kw_only=True)
class L2:
    r"""The l_2 ball: $\|x' - x\|_2 \le \epsilon$ with x' in [0, 1].

    Args:
        eps: the radius in pixel units over the whole image, >= 0; 0.5 and 1.0 are usual for CIFAR-10.

    Raises:
        ValueError: for a negative or non-finite radius.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrobust.types import Example
        >>> ball, ex = L2(eps=0.5), Example(jnp.full((1, 2, 1), 0.5), target=jnp.array(0))
        >>> print(ball.project(ex, jnp.array([[[3.0], [4.0]]])).ravel())
        [0.3 0.4]
    """

    eps: float | Array

    def __post_init__(self) -> None:
        _validate.non_negative("eps", self.eps, "Radii are in pixels over the whole image, e.g. eps=0.5.")

    def init(self, ex: Example) -> Array:
        """The zero offset."""
        return jnp.zeros_like(ex.image)

    def sample(self, key: Array, ex: Example) -> Array:
        """Uniform in the ball's volume, then clipped to the box.

        In d dimensions the length is distributed as eps * u^(1/d): in an image nearly all of it is near the
        border.
        """
        direction_key, length_key = jax.random.split(key)
        shape, dtype = ex.image.shape, ex.image.dtype
        direction = projections.l2_direction(jax.random.normal(direction_key, shape, dtype))
        length = jax.random.uniform(length_key, (), dtype) ** (1.0 / ex.image.size)
        return self.project(ex, self.eps * length * direction)

    def apply(self, ex: Example, theta: Array) -> Array:
        """`clip(x + theta, 0, 1)`."""
        return to_pixels(ex.image + theta)

    def project(self, ex: Example, theta: Array) -> Array:
        r"""The nearest offset in ball and box together.

        By the KKT conditions it is $\mathrm{clip}(s\,\theta, -x, 1 - x)$ with the largest s in [0, 1] whose
        norm is at most eps. Written in $t = s^2$ its squared norm $\sum_i \min(t\,\theta_i^2, b_i^2)$ is
        concave and piecewise linear, so Newton's method from the left climbs to the root without
        overshooting: an iterate that stops early is still inside. (Scaling to the ball and clipping
        afterwards, as is common, gives away the length that the box cuts off: PGD then stalls short of the
        radius.)
        """
        low, high = -ex.image, 1.0 - ex.image
        squares = theta**2
        bounds = jnp.clip(jnp.where(theta > 0, high, low), -1.0, 1.0) ** 2
        budget = jnp.asarray(self.eps, theta.dtype) ** 2

        def climb(_: int, t: Array) -> Array:
            free = t * squares < bounds
            room = budget - jnp.where(free, 0.0, bounds).sum()
            slope = jnp.where(free, squares, 0.0).sum()
            return jnp.where(slope > 0, jnp.clip(room / jnp.where(slope > 0, slope, 1.0), t, 1.0), t)

        fits = jnp.minimum(squares, bounds).sum() <= budget
        t = jax.lax.fori_loop(0, _NEWTON_STEPS, climb, jnp.zeros_like(budget + squares.sum()))
        return jnp.clip(jnp.where(fits, 1.0, jnp.sqrt(t)) * theta, low, high)

    def ascent(self, grad: Array) -> Array:
        """`eps * grad / ||grad||_2`, and zero for a zero gradient.

        The gradient of a confident model is so small that its squares vanish in float32 (a logit gap of 50
        leaves 1e-22), hence it is brought to a largest entry of 1 first.
        """
        largest = jnp.abs(grad).max()
        return self.eps * projections.l2_direction(grad / jnp.where(largest > 0, largest, 1.0))

    def distance(self, ex: Example, theta: Array) -> Array:
        r"""$\|x' - x\|_2 / \epsilon$ of the clipped image."""
        return in_radii(projections.l2_norm(self.apply(ex, theta) - ex.image), self.eps)

    @property
    def norm(self) -> float:
        """p = 2."""
        return 2.0

    def length(self, delta: Array) -> Array:
        r"""$\|\delta\|_2$ in pixels."""
        return projections.l2_norm(delta)

    def region(self, ex: Example) -> Array:
        """Everywhere."""
        return jnp.ones_like(ex.image[..., :1])

    def scaled(self, factor: float | Array) -> "L2":
        """The ball of radius `factor * eps`."""
        return replace(self, eps=self.eps * factor)
