"""torchattacks, called as in the parity benchmark; PGD from the clean image."""

from typing import Any

import torch
import torchattacks

from benchmarks._parity import side_torchattacks as parity
from benchmarks._parity.side_torchattacks import PACKAGES
from benchmarks._parity.twin import Victim
from benchmarks._speed._torch import bound, load, logits, seed_all, to_numpy

__all__ = ["ATTACKS", "PACKAGES", "bound", "load", "logits", "seed_all", "to_numpy"]


def _pgd(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    attack = torchattacks.PGD(
        victim.net, eps=eps, alpha=eps * budget["step"], steps=budget["steps"], random_start=False
    )
    return attack(victim.x, victim.y)


ATTACKS = {
    "fgsm": parity.ATTACKS["fgsm"],
    "pgd": ("PGD", _pgd),
    "mi_fgsm": parity.ATTACKS["mi_fgsm"],
    "cw": parity.ATTACKS["cw"],
    "jsma": parity.ATTACKS["jsma"],
    "apgd": parity.ATTACKS["apgd_ce"],
    "autoattack": parity.ATTACKS["autoattack"],
}
