"""Foolbox on PyTorch, called as in the parity benchmark; PGD from the clean image, PGD+ of its parts."""

from typing import Any

import foolbox
import torch
from foolbox import attacks

from benchmarks._parity import side_foolbox as parity
from benchmarks._parity.side_foolbox import PACKAGES
from benchmarks._parity.twin import Victim
from benchmarks._speed._torch import bound, load, logits, seed_all, to_numpy

__all__ = ["ATTACKS", "PACKAGES", "bound", "load", "logits", "seed_all", "to_numpy"]


def _pgd(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    attack = attacks.LinfPGD(steps=budget["steps"], rel_stepsize=budget["step"], random_start=False)
    return parity._inside(attack, victim, eps)


def _pointwise(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    """A row without a start is left out, or it would end the whole batch."""
    model, criterion = parity._model(victim), parity._criterion(victim)
    start = attacks.SaltAndPepperNoiseAttack(steps=budget["noise_steps"]).run(model, victim.x, criterion)
    has_start = victim.fooled(start)
    found = victim.x.clone()
    if has_start.any():
        found[has_start] = attacks.PointwiseAttack(l2_binary_search=budget["bisections"] > 0).run(
            model,
            victim.x[has_start],
            foolbox.criteria.Misclassification(victim.y[has_start]),
            starting_points=start[has_start],
        )
    return found


def _pgd_plus(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    pgd = attacks.LinfPGD(steps=budget["steps"], rel_stepsize=budget["step"]).repeat(budget["restarts"])
    moved = victim._replace(x=parity._inside(pgd, victim, budget["pixel_eps"]))
    return parity._spatial(moved, eps, budget)


ATTACKS = {
    "fgsm": parity.ATTACKS["fgsm"],
    "pgd": ("LinfPGD", _pgd),
    "mi_fgsm": parity.ATTACKS["mi_fgsm"],
    "cw": parity.ATTACKS["cw"],
    "ddn": parity.ATTACKS["ddn"],
    "pointwise": ("PointwiseAttack", _pointwise),
    "rand_adv": parity.ATTACKS["spatial_random"],
    "grid_adv": parity.ATTACKS["spatial_grid"],
    "grid_first": parity.ATTACKS["spatial_grid"],
    "pgd_plus": ("LinfPGD, SpatialAttack", _pgd_plus),
}
