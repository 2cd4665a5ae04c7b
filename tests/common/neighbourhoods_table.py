"""One row or more for every registered neighbourhood: the shared tests walk this table."""

from typing import NamedTuple

from jaxrobust.neighbourhoods import L2, Compose, LInf, RotationTranslation
from jaxrobust.types import Neighbourhood


class Row(NamedTuple):
    """`name` in NEIGHBOURHOODS, a label for the test's id, the neighbourhood."""

    name: str
    label: str
    neighbourhood: Neighbourhood


MOVES = RotationTranslation(max_angle=30.0, max_shift=1.5)

NEIGHBOURHOOD_ROWS = (
    Row("linf", "small", LInf(eps=8 / 255)),
    Row("linf", "all", LInf(eps=1.0)),
    Row("l2", "small", L2(eps=0.5)),
    Row("l2", "beyond-the-box", L2(eps=20.0)),
    Row("rotation_translation", "both", MOVES),
    Row("rotation_translation", "rotation", RotationTranslation(max_angle=180.0, max_shift=0.0)),
    Row("compose", "pixels-then-poses", Compose(parts=(L2(eps=0.5), MOVES))),
    Row("compose", "poses-then-pixels", Compose(parts=(MOVES, LInf(eps=0.1)))),
)
