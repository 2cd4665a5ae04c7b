"""Foolbox, configured to be at its best."""

from typing import Any

import foolbox
import torch
from foolbox import attacks

from benchmarks._parity.twin import Victim

PACKAGES = ("foolbox", "torch")


def _model(victim: Victim) -> foolbox.PyTorchModel:
    return foolbox.PyTorchModel(victim.net, bounds=(0, 1))


def _criterion(victim: Victim) -> Any:
    criteria = foolbox.criteria
    return (criteria.TargetedMisclassification if victim.targeted else criteria.Misclassification)(victim.y)


def _inside(attack: Any, victim: Victim, eps: float) -> torch.Tensor:
    _, clipped, _ = attack(_model(victim), victim.x, _criterion(victim), epsilons=eps)
    return clipped


def _nearest(attack: Any, victim: Victim) -> torch.Tensor:
    """Its C&W gives up a row as a black image, which would count as found: the clean image instead."""
    found, _, _ = attack(_model(victim), victim.x, _criterion(victim), epsilons=None)
    gave_up = found.flatten(1).abs().sum(1) == 0
    found[gave_up] = victim.x[gave_up]
    return found


def _pgd(kind: str):
    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
        attack = getattr(attacks, kind)(steps=budget["steps"], rel_stepsize=budget["step"])
        return _inside(attack, victim, eps)

    return run


def _pgd_l1(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    attack = attacks.SparseL1DescentAttack(
        quantile=budget["sparsity"], steps=budget["steps"], rel_stepsize=budget["step"]
    )
    return _inside(attack, victim, eps)


def _mi_fgsm(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    attack = attacks.LinfMomentumIterativeFastGradientMethod(
        momentum=budget["decay"], steps=budget["steps"], rel_stepsize=1 / budget["steps"]
    )
    return _inside(attack, victim, eps)


def _noise(kind: str):
    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
        return _inside(getattr(attacks, kind)(repeats=budget["draws"]), victim, eps)

    return run


def _cw(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    del eps
    attack = attacks.L2CarliniWagnerAttack(
        binary_search_steps=budget["searches"],
        steps=budget["steps"],
        stepsize=budget["learning_rate"],
        initial_const=budget["initial_const"],
        abort_early=budget["abort_early"],
    )
    return _nearest(attack, victim)


def _ddn(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    del eps
    attack = attacks.DDNAttack(
        init_epsilon=budget["initial_norm"], steps=budget["steps"], gamma=budget["gamma"]
    )
    return _nearest(attack, victim)


def _pointwise(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    """From its own salt-and-pepper start; a row without one is left out, or it would end the whole batch."""
    del eps, budget
    start = attacks.SaltAndPepperNoiseAttack(steps=1000).run(_model(victim), victim.x, _criterion(victim))
    has_start = victim.fooled(start)
    found = victim.x.clone()
    found[has_start] = attacks.PointwiseAttack().run(
        _model(victim),
        victim.x[has_start],
        foolbox.criteria.Misclassification(victim.y[has_start]),
        starting_points=start[has_start],
    )
    return found


def _spatial(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    del eps
    common = {"max_translation": budget["shift"], "max_rotation": budget["angle"]}
    if "draws" in budget:
        attack = attacks.SpatialAttack(**common, grid_search=False, random_steps=budget["draws"])
    else:
        attack = attacks.SpatialAttack(
            **common, num_translations=budget["shifts"], num_rotations=budget["angles"]
        )
    return attack.run(_model(victim), victim.x, _criterion(victim))


ATTACKS = {
    "fgsm": ("LinfFastGradientAttack", lambda v, eps, b: _inside(attacks.LinfFastGradientAttack(), v, eps)),
    "fgm_l2": ("L2FastGradientAttack", lambda v, eps, b: _inside(attacks.L2FastGradientAttack(), v, eps)),
    "pgd": ("LinfProjectedGradientDescentAttack", _pgd("LinfProjectedGradientDescentAttack")),
    "pgd_targeted": ("LinfProjectedGradientDescentAttack", _pgd("LinfProjectedGradientDescentAttack")),
    "pgd_l2": ("L2ProjectedGradientDescentAttack", _pgd("L2ProjectedGradientDescentAttack")),
    "pgd_l1": ("SparseL1DescentAttack", _pgd_l1),
    "mi_fgsm": ("LinfMomentumIterativeFastGradientMethod", _mi_fgsm),
    "noise_linf": (
        "LinfRepeatedAdditiveUniformNoiseAttack",
        _noise("LinfRepeatedAdditiveUniformNoiseAttack"),
    ),
    "noise_l2": (
        "L2ClippingAwareRepeatedAdditiveGaussianNoiseAttack",
        _noise("L2ClippingAwareRepeatedAdditiveGaussianNoiseAttack"),
    ),
    "cw": ("L2CarliniWagnerAttack", _cw),
    "cw_slow": ("L2CarliniWagnerAttack", _cw),
    "cw_targeted": ("L2CarliniWagnerAttack", _cw),
    "ddn": ("DDNAttack", _ddn),
    "ddn_targeted": ("DDNAttack", _ddn),
    "pointwise": ("PointwiseAttack", _pointwise),
    "spatial_grid": ("SpatialAttack", _spatial),
    "spatial_random": ("SpatialAttack", _spatial),
}
OFFERED = sorted(name for name in dir(attacks) if name.endswith(("Attack", "Method")))
