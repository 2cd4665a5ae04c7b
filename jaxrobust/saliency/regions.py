"""The part of an image that a map points at: `region(maps [b, h, w]) -> Regions`, in NumPy on the host.

Maps are smoothed first, by a Gaussian whose border reflects the image with its outermost pixels repeated
(`d c b a | a b c d | d c b a`), cut off at four deviations.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from scipy import ndimage

from jaxrobust import _validate
from jaxrobust.saliency._arrays import as_inside, as_maps

_FLAT = 1e-6


class Regions(NamedTuple):
    """One region for each map.

    Attributes:
        inside: bool `[b, h, w]`.
        constant: bool `[b]`; whether the map is constant up to rounding (a range of at most 1e-6 of its
            largest magnitude), so that its region says nothing.
    """

    inside: np.ndarray
    constant: np.ndarray

    @property
    def area(self) -> np.ndarray:
        """Pixels of each region, int `[b]`."""
        return self.inside.sum(axis=(1, 2))

    @property
    def masks(self) -> np.ndarray:
        """float32 `[b, h, w, 1]` of zeros and ones, for `Example.mask` and masked neighbourhoods."""
        return example_masks(self.inside)


@runtime_checkable
class Region(Protocol):
    """A frozen, hashable dataclass."""

    def __call__(self, maps: Any) -> Regions:
        """The regions of maps `[b, h, w]`; ValueError for maps of another shape, or not finite."""
        ...


@dataclass(frozen=True, kw_only=True)
class TopFraction:
    """The floor(q h w) pixels of the largest values; of equal ones those of the smaller index, row by row.

    q is taken as the decimal that it is written as: 0.29 of 100 pixels are 29, although 0.29 * 100 < 29 in
    floating point.

    Args:
        fraction: q in (0, 1).
        sigma: of the Gaussian in pixels, >= 0; 0 for none.

    Raises:
        ValueError: for a fraction or sigma out of range; when used, for a fraction of less than one pixel.

    Example:
        >>> maps = np.array([[[3.0, 1.0], [1.0, 0.0]]])
        >>> TopFraction(fraction=0.5, sigma=0)(maps).inside.tolist()
        [[[True, True], [False, False]]]
    """

    fraction: float = 0.1
    sigma: float = 1.5

    def __post_init__(self) -> None:
        _check_fraction(self.fraction)
        _check_sigma(self.sigma)

    def __call__(self, maps: Any) -> Regions:
        maps = as_maps(maps)
        return Regions(_top(smooth(maps, self.sigma), self.fraction), constant_maps(maps))


@dataclass(frozen=True, kw_only=True)
class LargestComponent:
    """The largest connected part of `TopFraction`'s region, with at most as many pixels.

    Pixels are connected that share an edge; of equal parts the one with the smallest index is taken.

    Args:
        fraction, sigma: see `TopFraction`.

    Example:
        >>> maps = np.array([[[3.0, 0.0, 2.0], [0.0, 0.0, 2.0]]])
        >>> LargestComponent(fraction=0.5, sigma=0)(maps).inside.tolist()
        [[[False, False, True], [False, False, True]]]
    """

    fraction: float = 0.1
    sigma: float = 1.5

    def __post_init__(self) -> None:
        _check_fraction(self.fraction)
        _check_sigma(self.sigma)

    def __call__(self, maps: Any) -> Regions:
        maps = as_maps(maps)
        parts = [_largest(row) for row in _top(smooth(maps, self.sigma), self.fraction)]
        return Regions(np.stack(parts), constant_maps(maps))


@dataclass(frozen=True, kw_only=True)
class BestBox:
    """The side x side window with the largest sum; of equal ones the upper, then the left.

    Args:
        side: in pixels, >= 1.
        sigma: see `TopFraction`.

    Raises:
        ValueError: for a side or sigma out of range; when used, for a side larger than the map's.

    Example:
        >>> maps = np.array([[[0.0, 1.0, 1.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]])
        >>> BestBox(side=2, sigma=0)(maps).inside[0].astype(int).tolist()
        [[0, 1, 1], [0, 1, 1], [0, 0, 0]]
    """

    side: int = 8
    sigma: float = 1.5

    def __post_init__(self) -> None:
        _validate.at_least("side", self.side, 1)
        _check_sigma(self.sigma)

    def __call__(self, maps: Any) -> Regions:
        maps = as_maps(maps)
        b, h, w = maps.shape
        if self.side > min(h, w):
            raise ValueError(f"Expected side <= {min(h, w)}, the map's shorter side, got side={self.side}.")
        windows = np.lib.stride_tricks.sliding_window_view
        rows = windows(smooth(maps, self.sigma), self.side, axis=1).sum(axis=-1)
        sums = windows(rows, self.side, axis=2).sum(axis=-1)
        top, left = np.divmod(sums.reshape(b, -1).argmax(axis=1), sums.shape[2])
        down = np.arange(h) - top[:, None]
        across = np.arange(w) - left[:, None]
        inside = _within(down, self.side)[:, :, None] & _within(across, self.side)[:, None, :]
        return Regions(inside, constant_maps(maps))


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The pixels whose value is above a level: of any number, perhaps none.

    Args:
        level: in the map's units.
        sigma: see `TopFraction`.

    Example:
        >>> Threshold(level=1.0, sigma=0)(np.array([[[3.0, 1.0]]])).inside.tolist()
        [[[True, False]]]
    """

    level: float
    sigma: float = 1.5

    def __post_init__(self) -> None:
        _validate.within("level", self.level, -math.inf, math.inf)
        _check_sigma(self.sigma)

    def __call__(self, maps: Any) -> Regions:
        maps = as_maps(maps)
        return Regions(smooth(maps, self.sigma) > self.level, constant_maps(maps))


REGIONS: dict[str, type[Region]] = {
    "top_fraction": TopFraction,
    "largest_component": LargestComponent,
    "best_box": BestBox,
    "threshold": Threshold,
}


def smooth(maps: Any, sigma: float = 1.5) -> np.ndarray:
    """Maps `[b, h, w]` under a Gaussian of deviation `sigma` pixels, float64; see the module's border."""
    maps = as_maps(maps)
    return ndimage.gaussian_filter(maps, (0, sigma, sigma), mode="reflect", truncate=4.0) if sigma else maps


def constant_maps(maps: Any) -> np.ndarray:
    """bool `[b]`: whether a map `[b, h, w]` has a range of at most 1e-6 of its largest magnitude.

    >>> constant_maps(np.array([[[0.5, 0.5]], [[0.0, 0.5]]])).tolist()
    [True, False]
    """
    maps = as_maps(maps)
    return np.ptp(maps, axis=(1, 2)) <= _FLAT * np.abs(maps).max(axis=(1, 2))


def example_masks(inside: Any) -> np.ndarray:
    """Regions bool `[b, h, w]` as float32 `[b, h, w, 1]`, for `Example.mask`."""
    return as_inside(inside)[..., None].astype(np.float32)


def _check_fraction(fraction: float) -> None:
    _validate.within("fraction", fraction, 0.0, 1.0)
    if fraction in (0, 1):
        raise ValueError(f"Expected 0 < fraction < 1, got fraction={fraction}: a part of the image.")


def _check_sigma(sigma: float) -> None:
    _validate.non_negative("sigma", sigma, "It is in pixels; 0 does not smooth.")


def _top(values: np.ndarray, fraction: float) -> np.ndarray:
    b, h, w = values.shape
    count = math.floor(Fraction(str(float(fraction))) * h * w)
    if count == 0:
        raise ValueError(
            f"Expected a fraction of at least one of {h * w} pixels, got fraction={fraction}. Take "
            f"{math.ceil(1e4 / (h * w)) / 1e4} or more."
        )
    order = np.argsort(-values.reshape(b, -1), axis=1, kind="stable")[:, :count]
    inside = np.zeros((b, h * w), bool)
    np.put_along_axis(inside, order, True, axis=1)
    return inside.reshape(b, h, w)


def _largest(inside: np.ndarray) -> np.ndarray:
    # Labels go by the first pixel of a part, row by row, and argmax takes the first of equals.
    labels, num = ndimage.label(inside)
    sizes = np.bincount(labels.ravel(), minlength=num + 1)
    return labels == 1 + sizes[1:].argmax()


def _within(offset: np.ndarray, side: int) -> np.ndarray:
    return (offset >= 0) & (offset < side)
