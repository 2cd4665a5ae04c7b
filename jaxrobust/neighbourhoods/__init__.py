"""Perturbed neighbourhoods N_{eps,T}(x): what an attack may do to an image, eq. (18) of CN111401445A.

Each is a frozen, hashable dataclass that works on one example and satisfies `jaxrobust.types.Neighbourhood`.
"""

from jaxrobust.neighbourhoods.colour import ColourShift, Shift
from jaxrobust.neighbourhoods.compose import Compose
from jaxrobust.neighbourhoods.lp import L2, LInf
from jaxrobust.neighbourhoods.spatial import Pose, RotationTranslation

NEIGHBOURHOODS = {
    "linf": LInf,
    "l2": L2,
    "rotation_translation": RotationTranslation,
    "colour": ColourShift,
    "compose": Compose,
}

__all__ = ["L2", "NEIGHBOURHOODS", "ColourShift", "Compose", "LInf", "Pose", "RotationTranslation", "Shift"]
