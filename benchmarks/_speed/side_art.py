"""The Adversarial Robustness Toolbox, called as in the parity benchmark; PGD from the clean image.

No PGD+: its grid leads away from what the model says of the image it is given, and so back from what PGD did.
"""

from typing import Any

import numpy as np
from art.attacks import evasion

from benchmarks._parity import side_art as parity
from benchmarks._parity.side_art import PACKAGES
from benchmarks._parity.twin import Victim
from benchmarks._speed._torch import bound, load, logits, seed_all, to_numpy

__all__ = ["ATTACKS", "PACKAGES", "bound", "load", "logits", "seed_all", "to_numpy"]


def _pgd(victim: Victim, eps: float, budget: dict[str, Any]) -> np.ndarray:
    attack = evasion.ProjectedGradientDescent(
        parity._classifier(victim),
        norm=np.inf,
        eps=eps,
        eps_step=eps * budget["step"],
        max_iter=budget["steps"],
        num_random_init=0,
        batch_size=len(victim.x),
        verbose=False,
    )
    return parity._generate(attack, victim)


ATTACKS = {
    "fgsm": parity.ATTACKS["fgsm"],
    "pgd": ("ProjectedGradientDescent", _pgd),
    "mi_fgsm": parity.ATTACKS["mi_fgsm"],
    "cw": parity.ATTACKS["cw"],
    "jsma": parity.ATTACKS["jsma"],
    "apgd": parity.ATTACKS["apgd_ce"],
    "grid_adv": parity.ATTACKS["spatial_grid"],
}
