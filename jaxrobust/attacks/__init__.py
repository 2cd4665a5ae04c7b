"""Attacks: frozen dataclasses, called as `attack(keys [b], score_fn, example) -> AttackResult`.

For a model of your own, `jaxrobust.attack` wraps one call around all of this.
"""

from jaxrobust.attacks._checks import goals
from jaxrobust.attacks._gradients import BPDA, EOT, bpda, eot, exact_gradient
from jaxrobust.attacks._starts import NearStart, identity_start, near_start, uniform_start
from jaxrobust.attacks.apgd import APGD
from jaxrobust.attacks.autoattack import Ensemble, autoattack
from jaxrobust.attacks.cw import CarliniWagner
from jaxrobust.attacks.ddn import DDN
from jaxrobust.attacks.fab import FAB
from jaxrobust.attacks.grid import GridSearch
from jaxrobust.attacks.joint import JointSearch
from jaxrobust.attacks.jsma import (
    JSMA,
    MostLikely,
    every_class,
    papernot,
    relative_logit,
    relative_others,
    runner_up,
    sum_of_others,
    target_logit,
)
from jaxrobust.attacks.mi_fgsm import MIFGSM
from jaxrobust.attacks.pgd import PGD, fgsm
from jaxrobust.attacks.pointwise import PointWise
from jaxrobust.attacks.random_search import RandomSearch
from jaxrobust.attacks.sequence import Sequence
from jaxrobust.attacks.square import Square

ATTACKS = {
    "pgd": PGD,
    "mi_fgsm": MIFGSM,
    "random_search": RandomSearch,
    "grid": GridSearch,
    "sequence": Sequence,
    "joint": JointSearch,
    "apgd": APGD,
    "square": Square,
    "cw": CarliniWagner,
    "ddn": DDN,
    "ensemble": Ensemble,
    "fab": FAB,
    "jsma": JSMA,
    "pointwise": PointWise,
}
STARTS = {"identity": identity_start, "uniform": uniform_start, "near": NearStart}
GRADIENTS = {"exact": exact_gradient, "bpda": BPDA, "eot": EOT}
DESIGNATIONS = {"every_class": every_class, "runner_up": runner_up, "most_likely": MostLikely}
FORWARD_DERIVATIVES = {
    "relative_logit": relative_logit,
    "relative_others": relative_others,
    "target_logit": target_logit,
    "sum_of_others": sum_of_others,
}

__all__ = [
    "APGD",
    "ATTACKS",
    "BPDA",
    "DDN",
    "DESIGNATIONS",
    "EOT",
    "FAB",
    "FORWARD_DERIVATIVES",
    "GRADIENTS",
    "JSMA",
    "MIFGSM",
    "PGD",
    "STARTS",
    "CarliniWagner",
    "Ensemble",
    "GridSearch",
    "JointSearch",
    "MostLikely",
    "NearStart",
    "PointWise",
    "RandomSearch",
    "Sequence",
    "Square",
    "autoattack",
    "bpda",
    "eot",
    "every_class",
    "exact_gradient",
    "fgsm",
    "goals",
    "identity_start",
    "near_start",
    "papernot",
    "relative_logit",
    "relative_others",
    "runner_up",
    "sum_of_others",
    "target_logit",
    "uniform_start",
]
