r"""Colour shifts: $N(x) = \{T(x; \theta) : |\theta_i| \le \epsilon_i\}$, one limit per kind of change.

Conventions. Pixels are taken as they are stored (gamma-encoded), three channels as (red, green, blue). The
grey of a pixel is its luma $Y = 0.299 R + 0.587 G + 0.114 B$ (ITU-R BT.601); what is left, $C = x - Y$, is
its colour, and lies in the plane that the NTSC system spans by I and Q.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _validate
from jaxrobust.neighbourhoods import _grid
from jaxrobust.neighbourhoods._pixels import in_radii, to_pixels
from jaxrobust.types import Array, Example

_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ = np.array([_LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
# A quarter turn in the (I, Q) plane, as it acts on RGB; in the sense red, yellow, green, as hues are counted.
_QUARTER = np.linalg.solve(_YIQ, np.array([[0.0, 0, 0], [0, 0, 1], [0, -1, 0]]) @ _YIQ)


class Shift(NamedTuple):
    """By how much colours change; 0 is no change. Each field `[]`, or `[h, w]` for a change per pixel."""

    hue: Array
    saturation: Array
    brightness: Array
    contrast: Array
    grey: Array


def _luma(image: Array) -> Array:
    """The grey level `[h, w, 1]`: the luma of three channels, the mean of any other number."""
    if image.shape[-1] != 3:
        return image.mean(axis=-1, keepdims=True)
    return (image * jnp.asarray(_LUMA, image.dtype)).sum(axis=-1, keepdims=True)


def _recoloured(image: Array, shift: Shift) -> Array:
    """Hue, saturation and grey: the colour of each pixel turned and scaled, its luma kept."""
    colour = image - _luma(image)
    # Not a default matrix product, which rounds to 8 or 11 bits on accelerators.
    quarter = jnp.einsum("...d,cd->...c", colour, jnp.asarray(_QUARTER, image.dtype), precision="highest")
    angle = jnp.deg2rad(shift.hue)[..., None]
    factor = ((1 + shift.saturation) * (1 - shift.grey))[..., None]
    return image + (factor * jnp.cos(angle) - 1) * colour + factor * jnp.sin(angle) * quarter


@dataclass(frozen=True, kw_only=True)
class ColourShift:
    r"""Change of hue, saturation, brightness and contrast, and towards black-and-white.

    With the luma Y, its mean $\bar Y$ over the image, the colour C = x - Y and the rotation $R_h$ of the IQ
    plane about the grey axis, the changes apply in this order, and the result is clipped to [0, 1] once:

    1. hue, saturation, grey: $x_1 = Y + (1 + s)(1 - g)\,R_h C$, which keeps Y,
    2. contrast: $x_2 = x_1 + k\,(x_1 - \bar Y)$,
    3. brightness: $x_3 = x_2 + b$.

    The five commute until the clip, if they are the same in all pixels. $dist = \max_i |\theta_i| /
    \epsilon_i$ in radii. The colour shift of eq. (18) of CN111401445A, whose two forms are `per_pixel=False`,
    as the semantic examples of arXiv:1804.00499 (there hue and saturation), and `per_pixel=True`. A
    functional attack (arXiv:1906.00001) moves equal colours alike instead, and keeps neighbouring changes
    close: here no such bond holds.

    Smooth in theta and image, with finite derivatives everywhere: hue is a rotation in a linear space, which
    has no undefined angle for greys and no kinks, unlike HSV. Where the clip cuts, the derivative passes
    straight through: it is that of the unclipped image. The clip's own is 0 there and half at 0 and 1, where
    most pixels of MNIST are, and PGD finds less with it.

    Args:
        hue: largest turn in degrees, in [0, 180]. Positive turns go from red to yellow and green.
        saturation: largest |s| >= 0; the colour is multiplied by 1 + s, and s never falls below -1.
        brightness: largest |b|, in pixels, in [0, 1].
        contrast: largest |k| >= 0; differences from the mean grow by 1 + k, and k never falls below -1.
        grey: largest g, in [0, 1], of the way to black-and-white: at 1 every channel is the luma.
        per_pixel: False: theta is one shift for the image; True: one for each pixel, in fields `[h, w]`.

    A limit of 0 leaves its change out. Images without three channels have a grey level only (the mean of
    their channels): brightness and contrast change it; limits of the others must be 0.

    Raises:
        ValueError: for a limit out of range; while tracing, for a limit of hue, saturation or grey that is
            not 0 with images that have not three channels.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrobust.types import Example
        >>> ex = Example(jnp.array([[[1.0, 0.0, 0.0]]]), target=jnp.array(0))
        >>> shift = ColourShift(grey=1.0, brightness=0.2)
        >>> theta = shift.init(ex)._replace(grey=jnp.array(1.0), brightness=jnp.array(0.1))
        >>> print(np.asarray(shift.apply(ex, theta)).round(3), shift.distance(ex, theta))
        [[[0.399 0.399 0.399]]] 1.0
    """

    hue: float | Array = 0.0
    saturation: float | Array = 0.0
    brightness: float | Array = 0.0
    contrast: float | Array = 0.0
    grey: float | Array = 0.0
    per_pixel: bool = False

    def __post_init__(self) -> None:
        _validate.within("hue", self.hue, 0, 180, "Turns are in degrees.")
        _validate.non_negative("saturation", self.saturation, "0.5 scales colours by 0.5 to 1.5.")
        _validate.within("brightness", self.brightness, 0, 1, "It is in pixels of [0, 1].")
        _validate.non_negative("contrast", self.contrast, "0.5 scales contrasts by 0.5 to 1.5.")
        _validate.within("grey", self.grey, 0, 1, "1 is black-and-white.")

    @property
    def _limits(self) -> tuple[float | Array, ...]:
        return (self.hue, self.saturation, self.brightness, self.contrast, self.grey)

    def _lowest(self) -> Shift:
        """The least value of each: no scale below 0, no way back from grey."""
        least = Shift(*(-jnp.asarray(limit, jnp.float32) for limit in self._limits))
        return least._replace(
            saturation=jnp.maximum(least.saturation, -1),
            contrast=jnp.maximum(least.contrast, -1),
            grey=jnp.zeros_like(least.grey),
        )

    def _shape(self, ex: Example) -> tuple[int, ...]:
        """The shape of theta's fields; refuses what the image has no colours for."""
        height, width, channels = ex.image.shape
        coloured = {"hue": self.hue, "saturation": self.saturation, "grey": self.grey}
        limited = [name for name, limit in coloured.items() if not _is_zero(limit)]
        if channels != 3 and limited:
            raise ValueError(
                f"Expected images [h, w, 3] for a change of {', '.join(limited)}, got {channels} channel(s). "
                f"Leave out {', '.join(limited)}: brightness and contrast change the grey level."
            )
        return (height, width) if self.per_pixel else ()

    def init(self, ex: Example) -> Shift:
        """No change."""
        shape = self._shape(ex)
        return Shift(*(jnp.zeros(shape, ex.image.dtype) for _ in Shift._fields))

    def sample(self, key: Array, ex: Example) -> Shift:
        """Each change uniform between its bounds, independently; per pixel also of the other pixels."""
        shape, dtype = (len(Shift._fields), *self._shape(ex)), ex.image.dtype
        unit = jax.random.uniform(key, shape, dtype)
        lowest = self._lowest()
        return self.project(
            ex, Shift(*(low + u * (high - low) for u, low, high in zip(unit, lowest, self._limits)))
        )

    def apply(self, ex: Example, theta: Shift) -> Array:
        """Hue, saturation and grey, then contrast, then brightness, then one clip."""
        self._shape(ex)
        image = ex.image
        if not all(_is_zero(limit) for limit in (self.hue, self.saturation, self.grey)):
            image = _recoloured(image, theta)
        if not _is_zero(self.contrast):
            image = image + theta.contrast[..., None] * (image - _luma(ex.image).mean())
        if not _is_zero(self.brightness):
            image = image + theta.brightness[..., None]
        return to_pixels(image)

    def project(self, ex: Example, theta: Shift) -> Shift:
        """Clips each change to its bounds."""
        del ex
        return Shift(*(jnp.clip(t, low, high) for t, low, high in zip(theta, self._lowest(), self._limits)))

    def ascent(self, grad: Shift) -> Shift:
        """The limits, signed as the gradient: steepest for the maximum of the distances."""
        return Shift(*(limit * jnp.sign(g) for g, limit in zip(grad, self._limits)))

    def distance(self, ex: Example, theta: Shift) -> Array:
        """The largest of the changes, each over its limit."""
        del ex
        return jnp.stack([in_radii(jnp.abs(t).max(), limit) for t, limit in zip(theta, self._limits)]).max()

    def scaled(self, factor: float | Array) -> "ColourShift":
        """Every limit times `factor`; hue stops at 180, brightness and grey at 1. A limit of 0 stays out."""
        return replace(
            self,
            hue=_scaled(self.hue, factor, 180.0),
            saturation=_scaled(self.saturation, factor),
            brightness=_scaled(self.brightness, factor, 1.0),
            contrast=_scaled(self.contrast, factor),
            grey=_scaled(self.grey, factor, 1.0),
        )

    @property
    def grid_axes(self) -> tuple[str, ...]:
        """What `grid` takes the numbers of: the fields of `Shift`; nothing per pixel, which has no grid."""
        return () if self.per_pixel else Shift._fields

    def grid(self, granularity: tuple[int, ...]) -> Shift:
        """All shifts of a regular grid, limits included, in the order of `Shift`, grey varying fastest.

        Args:
            granularity: how many values of (hue, saturation, brightness, contrast, grey); 1, or a limit of 0,
                gives the identity's value alone. Grey goes from 0 to its limit, the others to both sides.

        Returns:
            Shifts with a leading axis `[n]`; they contain the identity where the granularity of every change
            but grey is odd.

        Raises:
            ValueError: if there is one shift for each pixel.
        """
        if self.per_pixel:
            raise ValueError("Expected per_pixel=False for a grid: one shift per pixel is too many to list.")
        axes = [
            _grid.axis(limit, num, one_sided=name == "grey")
            for name, limit, num in zip(Shift._fields, self._limits, granularity, strict=True)
        ]
        return Shift(*(jnp.maximum(v, low) for v, low in zip(_grid.product(*axes), self._lowest())))


def _is_zero(limit: float | Array) -> bool:
    """Whether a limit is known to be 0 while tracing."""
    return not isinstance(limit, jax.core.Tracer) and bool(limit == 0)


def _scaled(limit: float | Array, factor: float | Array, most: float = np.inf) -> float | Array:
    """`limit * factor`, at most `most`; a known 0 stays known, also for a traced factor."""
    if _is_zero(limit):
        return limit
    concrete = not any(isinstance(value, jax.core.Tracer) for value in (limit, factor))
    return min(limit * factor, most) if concrete else jnp.minimum(limit * factor, most)
