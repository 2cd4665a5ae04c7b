"""One row or more for every registered neighbourhood: the shared tests walk this table."""

from typing import NamedTuple

from jaxrobust.neighbourhoods import (
    L0,
    L1,
    L2,
    ColourShift,
    Compose,
    GaussianNoise,
    LInf,
    Masked,
    RotationTranslation,
    UniformNoise,
)
from jaxrobust.types import Neighbourhood


class Row(NamedTuple):
    """`name` in NEIGHBOURHOODS, a label for the test's id, the neighbourhood.

    `small`: a factor so small that the box does not cut a step of one radius from a grey image. `channels` of
    the images it is tried on.
    """

    name: str
    label: str
    neighbourhood: Neighbourhood
    small: float = 0.01
    channels: int = 2


MOVES = RotationTranslation(max_angle=30.0, max_shift=1.5)

NEIGHBOURHOOD_ROWS = (
    Row("linf", "small", LInf(eps=8 / 255)),
    Row("linf", "all", LInf(eps=1.0)),
    Row("l2", "small", L2(eps=0.5)),
    Row("l2", "beyond-the-box", L2(eps=20.0)),
    Row("rotation_translation", "both", MOVES),
    Row("rotation_translation", "rotation", RotationTranslation(max_angle=180.0, max_shift=0.0)),
    Row(
        "colour",
        "image",
        ColourShift(hue=60.0, saturation=1.5, brightness=0.3, contrast=0.5, grey=0.8),
        channels=3,
    ),
    Row("colour", "pixels", ColourShift(hue=180.0, brightness=0.1, grey=1.0, per_pixel=True), channels=3),
    Row("colour", "grey-levels", ColourShift(brightness=0.2, contrast=2.0)),
    Row("l1", "small", L1(eps=3.0)),
    Row("l1", "beyond-the-box", L1(eps=100.0, sparsity=0.0)),
    Row("l0", "pixels", L0(eps=3), small=1.0),
    Row("l0", "features", L0(eps=7, features=True), small=1.0),
    Row("l0", "all", L0(eps=100), small=0.05),
    Row("uniform_noise", "small", UniformNoise(eps=0.1)),
    Row("gaussian_noise", "small", GaussianNoise(sigma=0.1)),
    Row("gaussian_noise", "beyond-the-box", GaussianNoise(sigma=2.0)),
    Row("masked", "linf", Masked(neighbourhood=LInf(eps=0.2))),
    Row("masked", "poses", Masked(neighbourhood=MOVES)),
    Row("masked", "joint", Masked(neighbourhood=Compose(parts=(MOVES, LInf(eps=0.1))))),
    Row("compose", "pixels-then-poses", Compose(parts=(L2(eps=0.5), MOVES))),
    Row("compose", "poses-then-pixels", Compose(parts=(MOVES, LInf(eps=0.1)))),
)
