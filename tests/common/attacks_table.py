"""One row or more for every registered attack, small: the shared tests walk this table."""

from dataclasses import replace
from typing import NamedTuple

from jaxrobust.attacks import (
    APGD,
    DDN,
    FAB,
    JSMA,
    MIFGSM,
    PGD,
    CarliniWagner,
    Ensemble,
    GridSearch,
    JointSearch,
    PointWise,
    RandomSearch,
    Sequence,
    Square,
    fgsm,
    identity_start,
    near_start,
    papernot,
    runner_up,
)
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
)
from jaxrobust.numerics import losses
from jaxrobust.types import Attack

MOVES = RotationTranslation(max_angle=30.0, max_shift=1.5)
COLOURS = ColourShift(hue=120.0, saturation=1.0, brightness=0.3, contrast=1.0, grey=1.0)


class Row(NamedTuple):
    """`name` in ATTACKS, a label for the test's id, the attack; `channels` of the images it is tried on."""

    name: str
    label: str
    attack: Attack
    channels: int = 1


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
    Row(
        "mi_fgsm",
        "masked-l1",
        MIFGSM(neighbourhood=Masked(neighbourhood=L1(eps=4.0)), steps=4, step_size=0.5),
    ),
    Row("pgd", "l1", PGD(neighbourhood=L1(eps=4.0, sparsity=0.9), steps=4, step_size=0.5)),
    Row("pgd", "l0", PGD(neighbourhood=L0(eps=5), steps=4, step_size=1.0), channels=3),
    Row("pgd", "masked", PGD(neighbourhood=Masked(neighbourhood=LInf(eps=0.4)), steps=4, step_size=0.4)),
    Row("random_search", "noise", RandomSearch(neighbourhood=GaussianNoise(sigma=0.5), num=6)),
    Row("apgd", "linf", APGD(neighbourhood=LInf(eps=0.2), steps=6)),
    Row("apgd", "l2-dlr-restarts", APGD(neighbourhood=L2(eps=0.7), steps=5, restarts=2, loss_fn=losses.dlr)),
    Row("apgd", "targets", APGD(neighbourhood=LInf(eps=0.2), steps=5, num_targets=9)),
    Row("square", "linf", Square(neighbourhood=LInf(eps=0.5), queries=60)),
    Row("square", "l2-restarts", Square(neighbourhood=L2(eps=2.5), queries=40, restarts=2)),
    Row("random_search", "poses", RandomSearch(neighbourhood=MOVES, num=5, chunk=2)),
    Row(
        "pgd",
        "l2-stops",
        PGD(neighbourhood=L2(eps=0.8), steps=3, step_size=0.5, restarts=5, stop_at_success=True),
    ),
    Row("random_search", "stops", RandomSearch(neighbourhood=MOVES, num=7, chunk=2, stop_at_success=True)),
    Row(
        "grid",
        "stops",
        GridSearch(neighbourhood=MOVES, granularity=(3, 1, 5), chunk=4, stop_at_success=True),
    ),
    Row("grid", "poses", GridSearch(neighbourhood=MOVES, granularity=(3, 1, 5), chunk=4)),
    Row("pgd", "colours", PGD(neighbourhood=COLOURS, steps=4, step_size=0.5, restarts=2), channels=3),
    Row(
        "pgd",
        "colours-per-pixel",
        PGD(neighbourhood=replace(COLOURS, per_pixel=True), steps=3, step_size=0.5),
        channels=3,
    ),
    Row("random_search", "colours", RandomSearch(neighbourhood=COLOURS, num=6, chunk=4), channels=3),
    Row("grid", "colours", GridSearch(neighbourhood=COLOURS, granularity=(5, 1, 3, 1, 2)), channels=3),
    Row(
        "joint",
        "pixels-then-poses",
        JointSearch(
            neighbourhood=Compose(parts=(LInf(eps=0.1), MOVES)),
            granularity=(1, 1, 5),
            steps=2,
            step_size=0.5,
            chunk=2,
        ),
    ),
    Row(
        "joint",
        "colours-then-l2",
        JointSearch(
            neighbourhood=Compose(parts=(COLOURS, L2(eps=0.5))),
            granularity=(3, 1, 3, 1, 1),
            steps=2,
            step_size=0.5,
            restarts=2,
            start_fn=identity_start,
        ),
        channels=3,
    ),
    Row("jsma", "every-class", JSMA(neighbourhood=L0(eps=4, features=True), upsilon=0.5, chunk=2)),
    Row(
        "jsma",
        "paper",
        papernot(L0(eps=4), upsilon=0.5, theta=-1.0, target_fn=runner_up),
        channels=3,
    ),
    Row(
        "pointwise",
        "features",
        PointWise(neighbourhood=L0(eps=4, features=True), starts=2, draws=8, shares=8),
    ),
    Row(
        "pointwise",
        "pixels",
        PointWise(neighbourhood=L0(eps=4), starts=2, draws=8, shares=8, bisections=2),
        channels=3,
    ),
    Row(
        "sequence",
        "colours-pixels-poses",
        Sequence(
            stages=(
                PGD(neighbourhood=COLOURS, steps=2, step_size=0.5),
                PGD(neighbourhood=LInf(eps=0.05), steps=2, step_size=0.5),
                GridSearch(neighbourhood=MOVES, granularity=(1, 3, 1)),
            )
        ),
        channels=3,
    ),
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
    Row(
        "ensemble",
        "poses-then-pixels",
        Ensemble(
            attacks=(
                GridSearch(neighbourhood=MOVES, granularity=(1, 1, 3)),
                PGD(neighbourhood=LInf(eps=0.2), steps=3, step_size=0.5),
            )
        ),
    ),
    Row(
        "cw",
        "l2",
        CarliniWagner(neighbourhood=L2(eps=1.0), searches=3, steps=30, learning_rate=0.1, initial_const=1.0),
    ),
    Row(
        "cw",
        "kappa-to-the-end",
        CarliniWagner(
            neighbourhood=L2(eps=1.0),
            searches=3,
            steps=20,
            learning_rate=0.2,
            initial_const=0.1,
            kappa=0.1,
            abort_early=False,
        ),
    ),
    Row("ddn", "l2", DDN(neighbourhood=L2(eps=1.0), steps=20)),
    Row("ddn", "unrounded", DDN(neighbourhood=L2(eps=1.0), steps=20, levels=None)),
    Row("fab", "linf", FAB(neighbourhood=LInf(eps=0.2), steps=4)),
    Row("fab", "l2-restarts", FAB(neighbourhood=L2(eps=0.7), steps=3, restarts=2, chunk=1)),
    Row("fab", "linf-targets", FAB(neighbourhood=LInf(eps=0.2), steps=3, num_targets=9)),
)
