r"""Functional noise: $T(x; r) = \mathrm{clip}(x + r, 0, 1)$ with r drawn by a function.

`sample` is the noise; for a search the neighbourhood is the ball that holds (all but a stated share of) it.
"""

import functools
import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from scipy import stats

from jaxrobust import _validate
from jaxrobust.neighbourhoods._pixels import in_radii, to_pixels
from jaxrobust.numerics import projections
from jaxrobust.types import Array, Example

TAIL = 1e-3
"""The share of Gaussian draws that lie beyond the radius, and are drawn back to it."""


@dataclass(frozen=True, kw_only=True)
class UniformNoise:
    r"""Noise uniform in $[-\epsilon, \epsilon]$, every value of the image independently.

    The set is the l_inf ball (and it is a `types.Ball`); what has a name of its own is the noise, e.g. in
    `RandomSearch(neighbourhood=UniformNoise(eps=0.1))`.

    Args:
        eps: the largest noise, in pixels of [0, 1], >= 0.

    Raises:
        ValueError: for a negative or non-finite eps.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> noise, ex = UniformNoise(eps=0.1), Example(jnp.full((8, 8, 1), 0.5), target=jnp.array(0))
        >>> theta = noise.sample(jax.random.key(0), ex)
        >>> bool(noise.distance(ex, theta) <= 1), bool(jnp.abs(theta).max() > 0.09)
        (True, True)
    """

    eps: float | Array

    def __post_init__(self) -> None:
        _validate.non_negative("eps", self.eps, "Noise is in pixels of [0, 1], e.g. eps=0.1.")

    def init(self, ex: Example) -> Array:
        """No noise."""
        return jnp.zeros_like(ex.image)

    def sample(self, key: Array, ex: Example) -> Array:
        """Uniform noise, less what leaves [0, 1]."""
        return self.sample_in(key, ex, self.region(ex))

    def sample_in(self, key: Array, ex: Example, region: Array) -> Array:
        """The same within a region `[h, w, 1]`."""
        unit = jax.random.uniform(key, ex.image.shape, ex.image.dtype, minval=-1.0, maxval=1.0)
        return self.project(ex, self.eps * unit * region)

    def apply(self, ex: Example, theta: Array) -> Array:
        """`clip(x + r, 0, 1)`."""
        return to_pixels(ex.image + theta)

    def project(self, ex: Example, theta: Array) -> Array:
        """The nearest offset in ball and box: both are intervals per value."""
        return jnp.clip(theta, jnp.maximum(-self.eps, -ex.image), jnp.minimum(self.eps, 1.0 - ex.image))

    def ascent(self, grad: Array) -> Array:
        """`eps * sign(grad)`, the steepest direction of l_inf length eps."""
        return self.eps * projections.linf_direction(grad)

    def distance(self, ex: Example, theta: Array) -> Array:
        r"""$\|x' - x\|_\infty / \epsilon$ of the clipped image."""
        return in_radii(self.length(self.apply(ex, theta) - ex.image), self.eps)

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

    def scaled(self, factor: float | Array) -> "UniformNoise":
        """Noise of at most `factor * eps`."""
        return replace(self, eps=self.eps * factor)


@dataclass(frozen=True, kw_only=True)
class GaussianNoise:
    r"""Normal noise of deviation sigma, every value of the image independently.

    $\|r\|_2 / \sigma$ is chi-distributed with d = h w c degrees of freedom, so the noise lies in the l_2 ball
    of radius $\sigma\,\chi_{d}^{-1}(1 - 10^{-3})$ but for one draw in a thousand, which is drawn back to it
    along its own direction. That ball, cut by the box, is the neighbourhood; its radius, about
    $\sigma (\sqrt{d} + 2.2)$, depends on the image's size, so this is no `types.Ball`.

    Args:
        sigma: the deviation, in pixels of [0, 1], >= 0.

    Raises:
        ValueError: for a negative or non-finite sigma.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> noise, ex = GaussianNoise(sigma=0.1), Example(jnp.full((8, 8, 1), 0.5), target=jnp.array(0))
        >>> theta = noise.sample(jax.random.key(0), ex)
        >>> bool(noise.distance(ex, theta) <= 1), bool(0.07 < theta.std() < 0.13)
        (True, True)
    """

    sigma: float | Array

    def __post_init__(self) -> None:
        _validate.non_negative("sigma", self.sigma, "It is in pixels of [0, 1], e.g. sigma=0.1.")

    def init(self, ex: Example) -> Array:
        """No noise."""
        return jnp.zeros_like(ex.image)

    def sample(self, key: Array, ex: Example) -> Array:
        """Normal noise, less what leaves [0, 1] or the radius."""
        return self.sample_in(key, ex, jnp.ones_like(ex.image[..., :1]))

    def sample_in(self, key: Array, ex: Example, region: Array) -> Array:
        """The same within a region `[h, w, 1]`."""
        return self.project(ex, self.sigma * jax.random.normal(key, ex.image.shape, ex.image.dtype) * region)

    def apply(self, ex: Example, theta: Array) -> Array:
        """`clip(x + r, 0, 1)`."""
        return to_pixels(ex.image + theta)

    def project(self, ex: Example, theta: Array) -> Array:
        """The nearest offset in ball and box together, see `numerics.projections.project_l2_box`."""
        return projections.project_l2_box(theta, self._radius(theta), -ex.image, 1.0 - ex.image)

    def ascent(self, grad: Array) -> Array:
        """The radius along the gradient, and zero for a zero gradient."""
        return self._radius(grad) * projections.l2_direction(grad)

    def distance(self, ex: Example, theta: Array) -> Array:
        r"""$\|x' - x\|_2$ of the clipped image over the radius."""
        return in_radii(projections.l2_norm(self.apply(ex, theta) - ex.image), self._radius(theta))

    def scaled(self, factor: float | Array) -> "GaussianNoise":
        """Noise of deviation `factor * sigma`."""
        return replace(self, sigma=self.sigma * factor)

    def _radius(self, offset: Array) -> float | Array:
        """In pixels over the whole image."""
        return self.sigma * _chi_quantile(offset.size)


@functools.cache
def _chi_quantile(size: int) -> float:
    """The length that a standard normal vector exceeds with probability `TAIL`."""
    return math.sqrt(stats.chi2.isf(TAIL, size))
