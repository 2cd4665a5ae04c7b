"""One row or more for every registered attack, small: the shared tests walk this table."""

from typing import NamedTuple

from jaxrobust.attacks import (
    MIFGSM,
    PGD,
    GridSearch,
    RandomSearch,
    Sequence,
    fgsm,
    identity_start,
    near_start,
)
from jaxrobust.neighbourhoods import L2, Compose, LInf, RotationTranslation
from jaxrobust.numerics import losses
from jaxrobust.types import Attack

MOVES = RotationTranslation(max_angle=30.0, max_shift=1.5)


class Row(NamedTuple):
    """`name` in ATTACKS, a label for the test's id, the attack."""

    name: str
    label: str
    attack: Attack


ATTACK_ROWS = (
    Row("pgd", "linf", PGD(neighbourhood=LInf(eps=0.2), steps=4, step_size=0.4)),
    Row("pgd", "l2-restarts", PGD(neighbourhood=L2(eps=0.7), steps=3, step_size=0.5, restarts=3)),
    Row(
        "pgd",
        "last",
        PGD(neighbourhood=LInf(eps=0.2), steps=3, step_size=0.5, start_fn=near_start(), keep_worst=False),
    ),
    Row(
        "pgd",
        "poses-margin",
        PGD(neighbourhood=MOVES, steps=3, step_size=0.3, loss_fn=losses.margin, start_fn=identity_start),
    ),
    Row("pgd", "joint", PGD(neighbourhood=Compose(parts=(LInf(eps=0.1), MOVES)), steps=3, step_size=0.5)),
    Row("pgd", "fgsm", fgsm(LInf(eps=0.2))),
    Row("mi_fgsm", "linf", MIFGSM(neighbourhood=LInf(eps=0.2), steps=4)),
    Row("random_search", "poses", RandomSearch(neighbourhood=MOVES, num=5, chunk=2)),
    Row("grid", "poses", GridSearch(neighbourhood=MOVES, granularity=(3, 1, 5), chunk=4)),
    Row(
        "sequence",
        "pgd-then-grid",
        Sequence(
            stages=(
                PGD(neighbourhood=LInf(eps=0.1), steps=2, step_size=0.5),
                GridSearch(neighbourhood=MOVES, granularity=(1, 1, 5)),
            )
        ),
    ),
)
