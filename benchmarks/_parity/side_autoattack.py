"""The code of AutoAttack's authors, as the package pyautoattack carries it."""

from typing import Any

import torch
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack

from benchmarks._parity.twin import Victim

PACKAGES = ("pyautoattack", "torch")
_FAR = 1e6


def _apgd(norm: str, loss: str):
    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
        attack = APGDAttack(
            victim.net, n_iter=budget["steps"], norm=norm, eps=eps, seed=victim.seed, loss=loss, device="cpu"
        )
        return attack.perturb(victim.x, victim.y)

    return run


def _apgd_t(norm: str):
    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
        attack = APGDAttack_targeted(
            victim.net,
            n_iter=budget["steps"],
            norm=norm,
            eps=eps,
            seed=victim.seed,
            n_target_classes=budget["num_targets"],
            device="cpu",
        )
        return attack.perturb(victim.x, victim.y)

    return run


def _fab(norm: str, *, targeted: bool = False):
    """Untargeted it gives back only what lies within its eps: far, or norms could not be compared."""

    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
        attack = FABAttack_PT(
            victim.net,
            norm=norm,
            n_iter=budget["steps"],
            eps=eps if targeted else _FAR,
            seed=victim.seed,
            targeted=targeted,
            device="cpu",
            n_target_classes=budget.get("num_targets", 9),
        )
        return attack.perturb(victim.x, victim.y)

    return run


def _square(norm: str):
    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
        attack = SquareAttack(
            victim.net, norm=norm, n_queries=budget["queries"], eps=eps, seed=victim.seed, device="cpu"
        )
        return attack.perturb(victim.x, victim.y)

    return run


def _autoattack(norm: str):
    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
        attack = AutoAttack(
            victim.net, norm=norm, eps=eps, seed=victim.seed, version="standard", device="cpu"
        )
        attack.apgd.n_iter = attack.apgd_targeted.n_iter = attack.fab.n_iter = budget["steps"]
        attack.square.n_queries, attack.square.rescale_schedule = budget["queries"], True
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = budget["num_targets"]
        return attack.run_standard_evaluation(victim.x, victim.y, batch_size=len(victim.x))[0]

    return run


ATTACKS = {
    "fab_l2": ("FABAttack_PT", _fab("L2")),
    "fab_linf": ("FABAttack_PT", _fab("Linf")),
    "fab_t_linf": ("FABAttack_PT", _fab("Linf", targeted=True)),
    "apgd_ce": ("APGDAttack", _apgd("Linf", "ce")),
    "apgd_ce_l2": ("APGDAttack", _apgd("L2", "ce")),
    "apgd_dlr": ("APGDAttack", _apgd("Linf", "dlr")),
    "apgd_dlr_l2": ("APGDAttack", _apgd("L2", "dlr")),
    "apgd_t": ("APGDAttack_targeted", _apgd_t("Linf")),
    "apgd_t_l2": ("APGDAttack_targeted", _apgd_t("L2")),
    "square": ("SquareAttack", _square("Linf")),
    "square_l2": ("SquareAttack", _square("L2")),
    "autoattack": ("AutoAttack", _autoattack("Linf")),
    "autoattack_l2": ("AutoAttack", _autoattack("L2")),
}
OFFERED = ["APGDAttack", "APGDAttack_targeted", "AutoAttack", "FABAttack_PT", "SquareAttack"]
