"""Perturbed neighbourhoods N_{eps,T}(x): what an attack may do to an image, eq. (18) of CN111401445A.

Each is a frozen, hashable dataclass that works on one example and satisfies `jaxrobust.types.Neighbourhood`.
"""

from jaxrobust.neighbourhoods.colour import ColourShift, Shift
from jaxrobust.neighbourhoods.compose import Compose
from jaxrobust.neighbourhoods.lp import L0, L1, L2, LInf
from jaxrobust.neighbourhoods.masked import Masked
from jaxrobust.neighbourhoods.noise import GaussianNoise, UniformNoise
from jaxrobust.neighbourhoods.spatial import Pose, RotationTranslation

NEIGHBOURHOODS = {
    "linf": LInf,
    "l2": L2,
    "l1": L1,
    "l0": L0,
    "rotation_translation": RotationTranslation,
    "colour": ColourShift,
    "uniform_noise": UniformNoise,
    "gaussian_noise": GaussianNoise,
    "masked": Masked,
    "compose": Compose,
}

__all__ = [
    "L0",
    "L1",
    "L2",
    "NEIGHBOURHOODS",
    "ColourShift",
    "Compose",
    "GaussianNoise",
    "LInf",
    "Masked",
    "Pose",
    "RotationTranslation",
    "Shift",
    "UniformNoise",
]
