r"""A neighbourhood confined to a region of the image: $T'(x; \theta) = m\,T(x; \theta) + (1 - m)\,x$."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp

from jaxrobust.types import Array, Ball, Example, Neighbourhood, Theta


@dataclass(frozen=True, kw_only=True)
class Masked:
    r"""Any neighbourhood, of which only the region `Example.mask` is applied: $m\,T(x; \theta) + (1 - m)\,x$.

    The mask m `[h, w, 1]` is 1 where the image may change; elsewhere the image stays as it is, bit for bit.
    Where theta is an offset (the lp balls, noise) it is confined to the region, and projections go to the
    nearest point of ball, box and region; of another neighbourhood (geometry, colour, composites) the whole
    image is transformed, its theta and distance are those of the inner one, and the region is cut out.

    It is a `types.Ball`, with `norm` and `eps`, if and only if the inner neighbourhood is one, and has a grid
    if that has one.

    Args:
        neighbourhood: what happens within the region.

    Raises:
        ValueError: for anything but a neighbourhood; when used, for an example without a mask.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrobust.neighbourhoods import LInf
        >>> ex = Example(jnp.full((1, 2, 1), 0.5), jnp.array(0), mask=jnp.array([[[1.0], [0.0]]]))
        >>> patch = Masked(neighbourhood=LInf(eps=0.25))
        >>> print(patch.apply(ex, jnp.full((1, 2, 1), 0.25)).ravel())
        [0.75 0.5 ]
    """

    neighbourhood: Neighbourhood

    reads_mask: ClassVar[bool] = True

    def __post_init__(self) -> None:
        inner = self.neighbourhood
        if isinstance(inner, type) or not isinstance(inner, Neighbourhood):
            raise ValueError(f"Expected a neighbourhood, e.g. LInf(eps=8/255), got neighbourhood={inner!r}.")
        if isinstance(inner, Ball):
            # On the instance, not as properties: from Python 3.12 on `isinstance(_, Ball)` finds a property
            # whether or not it raises. The class is frozen, hence the detour.
            object.__setattr__(self, "eps", inner.eps)
            object.__setattr__(self, "norm", inner.norm)
        for name in ("grid", "grid_axes"):
            if hasattr(inner, name):
                object.__setattr__(self, name, getattr(inner, name))

    @property
    def _offset(self) -> bool:
        """Whether theta is an offset `[h, w, c]`."""
        return isinstance(self.neighbourhood, Ball) or hasattr(self.neighbourhood, "sample_in")

    def _confined(self, ex: Example, theta: Theta) -> Theta:
        """Theta without what lies outside the region, where that can be told from theta."""
        return jnp.where(_inside(ex), theta, 0.0) if self._offset else theta

    def init(self, ex: Example) -> Theta:
        """The inner identity."""
        return self.neighbourhood.init(ex)

    def sample(self, key: Array, ex: Example) -> Theta:
        """A sample of the inner neighbourhood; of an lp ball, of its part within the region."""
        draw: Any = getattr(self.neighbourhood, "sample_in", None)
        if draw is not None:
            return draw(key, ex, self.region(ex))
        theta = self.neighbourhood.sample(key, ex)
        return self.neighbourhood.project(ex, self._confined(ex, theta)) if self._offset else theta

    def apply(self, ex: Example, theta: Theta) -> Array:
        """T(x; theta) within the region, x elsewhere; so is the derivative."""
        return jnp.where(_inside(ex), self.neighbourhood.apply(ex, theta), ex.image)

    def project(self, ex: Example, theta: Theta) -> Theta:
        """The inner projection of theta, an offset first confined to the region.

        The balls and the box do not care for the order and sign of the values, so this is the nearest point
        of ball, box and region.
        """
        return self.neighbourhood.project(ex, self._confined(ex, theta))

    def ascent(self, grad: Theta) -> Theta:
        """The inner steepest direction; the gradient of `apply` is already zero outside the region."""
        return self.neighbourhood.ascent(grad)

    def distance(self, ex: Example, theta: Theta) -> Array:
        """The inner distance, of an offset within the region."""
        return self.neighbourhood.distance(ex, self._confined(ex, theta))

    def length(self, delta: Array) -> Array:
        """The inner ball's norm of an offset."""
        inner: Any = self.neighbourhood
        return inner.length(delta)

    def region(self, ex: Example) -> Array:
        """The mask as zeros and ones."""
        return _inside(ex).astype(ex.image.dtype)

    def scaled(self, factor: float | Array) -> "Masked":
        """The inner neighbourhood scaled."""
        return Masked(neighbourhood=self.neighbourhood.scaled(factor))


def _inside(ex: Example) -> Array:
    """Bool `[h, w, 1]`; a mask between 0 and 1 is cut at a half."""
    if ex.mask is None:
        raise ValueError(
            "A masked neighbourhood needs the region: give Example(image, target, mask=...) of shape "
            "[h, w, 1], or jaxrobust.attack(..., mask=...), 1 where the image may change."
        )
    return ex.mask > 0.5
