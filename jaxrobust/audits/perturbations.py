"""What is done to a region of an image: something that takes its place, or an attack confined to it.

An attack of the library needs no other form here: `confined` puts each of its neighbourhoods under a mask, so
that where and how are independent choices.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from scipy import ndimage

from jaxrobust import _validate
from jaxrobust.attacks import PGD
from jaxrobust.neighbourhoods import Compose, LInf, Masked
from jaxrobust.types import Attack, Neighbourhood


@runtime_checkable
class Replacement(Protocol):
    """A frozen dataclass: what a region's pixels are replaced by, whatever the model. NumPy, on the host."""

    def replaces(self, images: np.ndarray, fill: np.ndarray, numbers: np.ndarray, seed: int) -> np.ndarray:
        """Whole images, of which the region is then cut out.

        Args:
            images: float32 `[m, h, w, c]` in [0, 1].
            fill: float32 `[h, w, c]` in [0, 1], the audit's picture of "nothing here".
            numbers: int `[m]`, each row's number in its list; row i draws from (seed, i).
            seed: of what is drawn.

        Returns:
            float32 `[m, h, w, c]` in [0, 1].
        """
        ...


Perturbation: TypeAlias = Replacement | Attack


@dataclass(frozen=True, kw_only=True)
class Fill:
    """The audit's fill, which is the mean of the training images unless it is given; or one level.

    Args:
        level: in [0, 1], the same in all channels; None for the audit's fill.

    >>> image, mean = np.ones((1, 1, 2, 1), np.float32), np.zeros((1, 2, 1), np.float32)
    >>> Fill(level=0.5).replaces(image, mean, np.arange(1), 0).ravel().tolist()
    [0.5, 0.5]
    """

    level: float | None = None

    def __post_init__(self) -> None:
        if self.level is not None:
            _validate.within("level", self.level, 0.0, 1.0, "Pixels are in [0, 1].")

    def replaces(self, images: np.ndarray, fill: np.ndarray, numbers: np.ndarray, seed: int) -> np.ndarray:
        """See `Replacement`."""
        return np.broadcast_to(fill if self.level is None else np.float32(self.level), images.shape)


@dataclass(frozen=True, kw_only=True)
class Blur:
    """The image under a Gaussian, each channel by itself, the border reflected.

    Args:
        sigma: its deviation in pixels, > 0.
    """

    sigma: float = 4.0

    def __post_init__(self) -> None:
        _validate.positive("sigma", self.sigma)

    def replaces(self, images: np.ndarray, fill: np.ndarray, numbers: np.ndarray, seed: int) -> np.ndarray:
        """See `Replacement`."""
        return ndimage.gaussian_filter(images, (0, self.sigma, self.sigma, 0), mode="reflect")


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The image plus Gaussian noise, clipped to [0, 1].

    Args:
        sigma: its deviation, pixels being in [0, 1]; > 0.
    """

    sigma: float = 0.25

    def __post_init__(self) -> None:
        _validate.positive("sigma", self.sigma)

    def replaces(self, images: np.ndarray, fill: np.ndarray, numbers: np.ndarray, seed: int) -> np.ndarray:
        """See `Replacement`."""
        drawn = [np.random.default_rng((seed, int(i))).normal(size=images.shape[1:]) for i in numbers]
        return np.clip(images + self.sigma * np.stack(drawn), 0, 1).astype(np.float32)


def region_pgd(eps: float = 8 / 255, steps: int = 40) -> PGD:
    r"""PGD in the $\ell_\infty$ ball within the region, from a random start.

    A step is 2.5 eps / steps, at most eps, as Madry et al. (arXiv 1706.06083) have it in their code.

    >>> region_pgd(steps=20).step_size
    0.125
    """
    _validate.at_least("steps", steps, 1)
    return PGD(
        neighbourhood=Masked(neighbourhood=LInf(eps=eps)), steps=steps, step_size=min(1.0, 2.5 / steps)
    )


def patch(steps: int = 40) -> PGD:
    """PGD with eps 1: within the region every pixel may become anything, as under a sticker."""
    return region_pgd(1.0, steps)


REPLACEMENTS: dict[str, type] = {"fill": Fill, "blur": Blur, "noise": Noise}
REGION_ATTACKS = {"region_pgd": region_pgd, "patch": patch}


def confined(attack: Attack) -> Attack:
    """The same attack, of which every neighbourhood is confined to `Example.mask`.

    Raises:
        ValueError: for an attack without a neighbourhood, which nothing would confine.

    >>> from jaxrobust.attacks import MIFGSM
    >>> print(confined(MIFGSM(neighbourhood=LInf(eps=0.1))).neighbourhood)
    Masked(neighbourhood=LInf(eps=0.1))
    """
    found = _confined(attack)
    if found == attack and not _has_mask(attack):
        raise ValueError(
            f"Expected an attack within a neighbourhood, which can be confined to a region, got {attack!r}."
        )
    return found


def _has_mask(value: Any) -> bool:
    if isinstance(value, Masked):
        return True
    if isinstance(value, tuple):
        return any(map(_has_mask, value))
    return any(_has_mask(getattr(value, f.name)) for f in _fields(value))


def _confined(value: Any) -> Any:
    if isinstance(value, Masked):
        return value
    if isinstance(value, tuple):
        return type(value)(map(_confined, value))
    if isinstance(value, Compose):
        # Part by part, for some attacks ask for a composite.
        return dataclasses.replace(value, parts=_confined(value.parts))
    if isinstance(value, Neighbourhood):
        return Masked(neighbourhood=value)
    changed = {
        f.name: new
        for f in _fields(value)
        if (new := _confined(getattr(value, f.name))) is not getattr(value, f.name)
    }
    return dataclasses.replace(value, **changed) if changed else value


def _fields(value: Any) -> tuple[Any, ...]:
    return dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
