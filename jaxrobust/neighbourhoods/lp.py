r"""Balls around the image: $N(x) = \{x' \in [0, 1]^d : \|x' - x\|_p \le \epsilon\}$ for p = inf, 2, 1, 0.

`theta` is the offset `[h, w, c]` and `apply` is `clip(x + theta, 0, 1)`. The set of offsets is the ball cut
by the box that keeps pixels in [0, 1]; all classes project onto that cut set, not onto the ball and then the
box. `sample_in(key, ex, region)` draws from that part of the ball that changes only a region `[h, w, 1]`:
`Masked` asks for it.
"""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.neighbourhoods._pixels import add_offset, in_radii, to_pixels
from jaxrobust.numerics import projections
from jaxrobust.types import Array, Example


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
        return self.sample_in(key, ex, self.region(ex))

    def sample_in(self, key: Array, ex: Example, region: Array) -> Array:
        """The same within a region `[h, w, 1]`."""
        unit = jax.random.uniform(key, ex.image.shape, ex.image.dtype, minval=-1.0, maxval=1.0)
        return self.project(ex, self.eps * unit * region)

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
        return self.sample_in(key, ex, self.region(ex))

    def sample_in(self, key: Array, ex: Example, region: Array) -> Array:
        """The same within a region `[h, w, 1]`, whose number of values is then d."""
        direction_key, length_key = jax.random.split(key)
        shape, dtype = ex.image.shape, ex.image.dtype
        direction = projections.l2_direction(jax.random.normal(direction_key, shape, dtype) * region)
        size = jnp.maximum(region.sum() * shape[-1], 1.0)
        length = jax.random.uniform(length_key, (), dtype) ** (1.0 / size)
        return self.project(ex, self.eps * length * direction)

    def apply(self, ex: Example, theta: Array) -> Array:
        """`clip(x + theta, 0, 1)`."""
        return to_pixels(ex.image + theta)

    def project(self, ex: Example, theta: Array) -> Array:
        """The nearest offset in ball and box together, see `numerics.projections.project_l2_box`."""
        return projections.project_l2_box(theta, self.eps, -ex.image, 1.0 - ex.image)

    def ascent(self, grad: Array) -> Array:
        """`eps * grad / ||grad||_2`, and zero for a zero gradient."""
        return self.eps * projections.l2_direction(grad)

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


@dataclass(frozen=True, kw_only=True)
class L1:
    r"""The l_1 ball: $\|x' - x\|_1 \le \epsilon$ with x' in [0, 1].

    Args:
        eps: the radius in pixel units over the whole image, >= 0; 10 to 12 are usual for MNIST and CIFAR-10.
        sparsity: the share, in [0, 1), of an image's values that a step leaves alone, see `ascent`; 0.95 to
            0.99 are usual, with steps of 0.05 to 0.2 radii.

    Raises:
        ValueError: for a negative or non-finite radius, a sparsity out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrobust.types import Example
        >>> ball, ex = L1(eps=0.5), Example(jnp.full((1, 3, 1), 0.75), target=jnp.array(0))
        >>> theta = ball.project(ex, jnp.array([[[2.0], [-0.5], [-0.125]]]))
        >>> print(theta.ravel().round(6), ball.distance(ex, theta))
        [ 0.25 -0.25 -0.  ] 1.0
    """

    eps: float | Array
    sparsity: float = 0.99

    def __post_init__(self) -> None:
        _validate.non_negative("eps", self.eps, "Radii are in pixels over the whole image, e.g. eps=10.0.")
        _validate.decay("sparsity", self.sparsity, "It is the share of values that a step leaves alone.")

    def init(self, ex: Example) -> Array:
        """The zero offset."""
        return jnp.zeros_like(ex.image)

    def sample(self, key: Array, ex: Example) -> Array:
        """Uniform in the ball's volume, then projected onto the box: dense and far from its corners."""
        return self.sample_in(key, ex, self.region(ex))

    def sample_in(self, key: Array, ex: Example, region: Array) -> Array:
        """The same within a region `[h, w, 1]`."""
        size_key, sign_key, rest_key = jax.random.split(key, 3)
        shape, dtype = ex.image.shape, ex.image.dtype
        # Exponential variables over the sum of one more are uniform in the simplex.
        sizes = jax.random.exponential(size_key, shape, dtype) * region
        total = sizes.sum() + jax.random.exponential(rest_key, (), dtype)
        signs = jax.random.rademacher(sign_key, shape, dtype)
        return self.project(ex, self.eps * signs * sizes / total)

    def apply(self, ex: Example, theta: Array) -> Array:
        """`clip(x + theta, 0, 1)`; a value at 0 or 1 that its gradient would push out has a zero gradient."""
        return add_offset(ex.image, theta)

    def project(self, ex: Example, theta: Array) -> Array:
        """The nearest offset in ball and box together, see `numerics.projections.project_l1_box`."""
        return projections.project_l1_box(theta, self.eps, -ex.image, 1.0 - ex.image)

    def ascent(self, grad: Array) -> Array:
        r"""`eps / m * sign(grad)` on the m values of largest gradient, zero elsewhere (arXiv:1904.13000).

        The steepest direction is a vertex: all of the radius to one value, at most 1 of which the box leaves.
        So the step goes to a share of `1 - sparsity` of all values, at least one; those that tie with the
        last of them are in, those of gradient zero are not.
        """
        size = jnp.abs(grad)
        num = jnp.maximum(jnp.ceil((1.0 - self.sparsity) * size.size), 1)
        signs = jnp.where(size >= projections.kth_largest(size, num), jnp.sign(grad), 0.0)
        return self.eps * signs / jnp.maximum(projections.l1_norm(signs), 1.0)

    def distance(self, ex: Example, theta: Array) -> Array:
        r"""$\|x' - x\|_1 / \epsilon$ of the clipped image."""
        return in_radii(self.length(self.apply(ex, theta) - ex.image), self.eps)

    @property
    def norm(self) -> float:
        """p = 1."""
        return 1.0

    def length(self, delta: Array) -> Array:
        r"""$\|\delta\|_1$ in pixels."""
        return projections.l1_norm(delta)

    def region(self, ex: Example) -> Array:
        """Everywhere."""
        return jnp.ones_like(ex.image[..., :1])

    def scaled(self, factor: float | Array) -> "L1":
        """The ball of radius `factor * eps`."""
        return replace(self, eps=self.eps * factor)


@dataclass(frozen=True, kw_only=True)
class L0:
    r"""The l_0 ball: x' in [0, 1] differs from x in at most $\epsilon$ pixels, by any amount.

    A step of one radius moves eps pixels to the border of the box, and a projection keeps the pixels that
    moved most. So gradient attacks need steps of about 1 radius: what a short step moves is dropped again in
    favour of what moved before.

    Args:
        eps: how many pixels may change, an integer >= 0; a pixel counts once, whichever of its channels
            change.
        features: count values `[h, w, c]` instead of pixels.

    Raises:
        ValueError: unless eps is an integer >= 0.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrobust.types import Example
        >>> ball, ex = L0(eps=1), Example(jnp.full((1, 3, 1), 0.75), target=jnp.array(0))
        >>> theta = ball.project(ex, jnp.array([[[0.125], [-0.5], [-0.25]]]))
        >>> print(theta.ravel(), ball.distance(ex, theta))
        [ 0.  -0.5  0. ] 1.0
    """

    eps: float | Array
    features: bool = False

    def __post_init__(self) -> None:
        _validate.non_negative("eps", self.eps, "It is a number of pixels, e.g. eps=10.")
        if not isinstance(self.eps, jax.core.Tracer) and float(self.eps) != math.floor(self.eps):
            raise ValueError(f"Expected an integer eps, got eps={self.eps}. It is a number of pixels.")

    @property
    def _axis(self) -> int | None:
        """Along which values count as one."""
        return None if self.features else -1

    def init(self, ex: Example) -> Array:
        """The zero offset."""
        return jnp.zeros_like(ex.image)

    def sample(self, key: Array, ex: Example) -> Array:
        """As many pixels as may change, drawn without replacement, at values uniform in [0, 1]."""
        return self.sample_in(key, ex, self.region(ex))

    def sample_in(self, key: Array, ex: Example, region: Array) -> Array:
        """The same within a region `[h, w, 1]`."""
        place_key, value_key = jax.random.split(key)
        shape, dtype = ex.image.shape, ex.image.dtype
        places = shape if self.features else (*shape[:-1], 1)
        order = jax.random.uniform(place_key, places, dtype, minval=0.5) * region
        values = jax.random.uniform(value_key, shape, dtype)
        drawn = projections.keep_largest(order, self.eps) & (region > 0)
        return jnp.where(drawn, values - ex.image, 0.0)

    def apply(self, ex: Example, theta: Array) -> Array:
        """`clip(x + theta, 0, 1)`; a value at 0 or 1 that its gradient would push out has a zero gradient."""
        return add_offset(ex.image, theta)

    def project(self, ex: Example, theta: Array) -> Array:
        """The nearest offset in ball and box together, see `numerics.projections.project_l0_box`."""
        return projections.project_l0_box(theta, self.eps, -ex.image, 1.0 - ex.image, axis=self._axis)

    def ascent(self, grad: Array) -> Array:
        """`sign(grad)` on the eps pixels of largest gradient, zero elsewhere.

        A pixel's gradient is the l_1 norm over its channels: what one full step gains there. Zero gradients
        do not move, and of equals the first do.
        """
        size = jnp.abs(grad)
        if not self.features:
            size = size.sum(axis=-1, keepdims=True)
        return jnp.where(projections.keep_largest(size, self.eps), jnp.sign(grad), 0.0)

    def distance(self, ex: Example, theta: Array) -> Array:
        r"""How many pixels differ from x, over $\epsilon$."""
        return in_radii(self.length(self.apply(ex, theta) - ex.image), self.eps)

    @property
    def norm(self) -> float:
        """p = 0."""
        return 0.0

    def length(self, delta: Array) -> Array:
        """How many pixels (or features) of an offset are not 0."""
        changed = delta if self.features else jnp.any(delta != 0, axis=-1)
        return projections.l0_norm(changed)

    def region(self, ex: Example) -> Array:
        """Everywhere."""
        return jnp.ones_like(ex.image[..., :1])

    def scaled(self, factor: float | Array) -> "L0":
        """The ball of `factor * eps` pixels, rounded down to a whole number."""
        # A little more than the product, which may be rounded to below a whole number.
        eps = self.eps * factor * (1 + 1e-6)
        return replace(self, eps=math.floor(eps) if isinstance(eps, int | float) else jnp.floor(eps))
