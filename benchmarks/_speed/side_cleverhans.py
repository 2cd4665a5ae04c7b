"""CleverHans on PyTorch. Its JAX attacks import `jax.experimental.stax`, which is gone from JAX."""

import math
from typing import Any

import torch
from cleverhans.torch.attacks.carlini_wagner_l2 import carlini_wagner_l2
from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method
from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

from benchmarks._parity.twin import Victim
from benchmarks._speed._torch import bound, load, logits, seed_all, to_numpy

__all__ = ["ATTACKS", "PACKAGES", "bound", "load", "logits", "seed_all", "to_numpy"]

PACKAGES = ("cleverhans", "torch")
_BOX = {"clip_min": 0, "clip_max": 1}


def _fgsm(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    return fast_gradient_method(victim.net, victim.x, eps, math.inf, y=victim.y, **_BOX)


def _pgd(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    return projected_gradient_descent(
        victim.net,
        victim.x,
        eps,
        eps * budget["step"],
        budget["steps"],
        math.inf,
        y=victim.y,
        rand_init=False,
        sanity_checks=False,
        **_BOX,
    )


def _cw(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    return carlini_wagner_l2(
        victim.net,
        victim.x,
        victim.num_classes,
        y=victim.y,
        lr=budget["learning_rate"],
        initial_const=budget["initial_const"],
        binary_search_steps=budget["searches"],
        max_iterations=budget["steps"],
    )


ATTACKS = {
    "fgsm": ("fast_gradient_method", _fgsm),
    "pgd": ("projected_gradient_descent", _pgd),
    "cw": ("carlini_wagner_l2", _cw),
}
