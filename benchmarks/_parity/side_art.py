"""The Adversarial Robustness Toolbox, configured to be at its best."""

import inspect
from typing import Any

import numpy as np
import torch
from art.attacks import evasion
from art.estimators.classification import PyTorchClassifier

from benchmarks._parity.twin import Victim, nearest

PACKAGES = ("adversarial-robustness-toolbox", "torch")
_ORDER = {"linf": np.inf, "l2": 2, "l1": 1}


def _classifier(victim: Victim) -> PyTorchClassifier:
    return PyTorchClassifier(
        model=victim.net,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=tuple(victim.x.shape[1:]),
        nb_classes=victim.num_classes,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def _generate(attack: Any, victim: Victim) -> np.ndarray:
    return attack.generate(
        victim.x.numpy().copy(), np.eye(victim.num_classes, dtype=np.float32)[victim.y.numpy()]
    )


def _fgm(norm: str):
    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> np.ndarray:
        attack = evasion.FastGradientMethod(
            _classifier(victim), norm=_ORDER[norm], eps=eps, batch_size=len(victim.x)
        )
        return _generate(attack, victim)

    return run


def _pgd(norm: str):
    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> np.ndarray:
        attack = evasion.ProjectedGradientDescent(
            _classifier(victim),
            norm=_ORDER[norm],
            eps=eps,
            eps_step=eps * budget["step"],
            max_iter=budget["steps"],
            num_random_init=0 if norm == "l1" else 1,
            targeted=victim.targeted,
            batch_size=len(victim.x),
            verbose=False,
        )
        return _generate(attack, victim)

    return run


def _mi_fgsm(victim: Victim, eps: float, budget: dict[str, Any]) -> np.ndarray:
    attack = evasion.MomentumIterativeMethod(
        _classifier(victim),
        eps=eps,
        eps_step=eps / budget["steps"],
        max_iter=budget["steps"],
        decay=budget["decay"],
        batch_size=len(victim.x),
        verbose=False,
    )
    return _generate(attack, victim)


def _cw(victim: Victim, eps: float, budget: dict[str, Any]) -> np.ndarray:
    """With its line search (up to 10 more forward passes a step), which is part of it."""
    attack = evasion.CarliniL2Method(
        _classifier(victim),
        learning_rate=budget["learning_rate"],
        binary_search_steps=budget["searches"],
        max_iter=budget["steps"],
        initial_const=budget["initial_const"],
        targeted=victim.targeted,
        batch_size=len(victim.x),
        verbose=False,
    )
    return _generate(attack, victim)


def _apgd_attack(victim: Victim, norm: str, loss: str, eps: float, budget: dict[str, Any]) -> Any:
    return evasion.AutoProjectedGradientDescent(
        _classifier(victim),
        norm=_ORDER[norm],
        eps=eps,
        eps_step=2 * eps,
        max_iter=budget["steps"],
        nb_random_init=1,
        batch_size=len(victim.x),
        loss_type=loss,
        verbose=False,
    )


def _apgd(norm: str, loss: str):
    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> np.ndarray:
        return _generate(_apgd_attack(victim, norm, loss, eps, budget), victim)

    return run


def _square_attack(victim: Victim, norm: str, eps: float, budget: dict[str, Any]) -> Any:
    return evasion.SquareAttack(
        _classifier(victim),
        norm=_ORDER[norm],
        eps=eps,
        max_iter=budget["queries"],
        batch_size=len(victim.x),
        verbose=False,
    )


def _square(norm: str):
    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> np.ndarray:
        return _generate(_square_attack(victim, norm, eps, budget), victim)

    return run


def _autoattack(norm: str):
    """Its own list (APGD-CE, APGD-DLR, DeepFool, Square) at the common budget."""

    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> np.ndarray:
        classifier, size = _classifier(victim), len(victim.x)
        parts = [
            _apgd_attack(victim, norm, "cross_entropy", eps, budget),
            _apgd_attack(victim, norm, "difference_logits_ratio", eps, budget),
            evasion.DeepFool(
                classifier,
                max_iter=budget["steps"],
                epsilon=1e-3,
                nb_grads=10,
                batch_size=size,
                verbose=False,
            ),
            _square_attack(victim, norm, eps, budget),
        ]
        attack = evasion.AutoAttack(
            classifier, norm=_ORDER[norm], eps=eps, eps_step=2 * eps, attacks=parts, batch_size=size
        )
        return _generate(attack, victim)

    return run


def _jsma(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    attack = evasion.SaliencyMapMethod(
        _classifier(victim),
        theta=budget["theta"],
        gamma=budget["upsilon"],
        batch_size=len(victim.x),
        verbose=False,
    )
    candidates = []
    for shift in range(1, victim.num_classes):
        target = np.eye(victim.num_classes, dtype=np.float32)[
            ((victim.y + shift) % victim.num_classes).numpy()
        ]
        candidates.append(torch.from_numpy(attack.generate(victim.x.numpy().copy(), target)))
    return nearest(victim, candidates, 0)


def _spatial_grid(victim: Victim, eps: float, budget: dict[str, Any]) -> np.ndarray:
    """Image by image, for it looks for one transform that fools as many images of its batch as possible."""
    found = []
    for image in victim.x.numpy():
        attack = evasion.SpatialTransformation(
            _classifier(victim),
            max_translation=100 * budget["shift"] / image.shape[-1],
            num_translations=budget["shifts"],
            max_rotation=budget["angle"],
            num_rotations=budget["angles"],
            verbose=False,
        )
        found.append(attack.generate(image[None].copy()))
    return np.concatenate(found)


ATTACKS = {
    "fgsm": ("FastGradientMethod", _fgm("linf")),
    "fgm_l2": ("FastGradientMethod", _fgm("l2")),
    "pgd": ("ProjectedGradientDescent", _pgd("linf")),
    "pgd_targeted": ("ProjectedGradientDescent", _pgd("linf")),
    "pgd_l2": ("ProjectedGradientDescent", _pgd("l2")),
    "pgd_l1": ("ProjectedGradientDescent", _pgd("l1")),
    "mi_fgsm": ("MomentumIterativeMethod", _mi_fgsm),
    "cw": ("CarliniL2Method", _cw),
    "cw_targeted": ("CarliniL2Method", _cw),
    "apgd_ce": ("AutoProjectedGradientDescent", _apgd("linf", "cross_entropy")),
    "apgd_ce_l2": ("AutoProjectedGradientDescent", _apgd("l2", "cross_entropy")),
    "apgd_dlr": ("AutoProjectedGradientDescent", _apgd("linf", "difference_logits_ratio")),
    "apgd_dlr_l2": ("AutoProjectedGradientDescent", _apgd("l2", "difference_logits_ratio")),
    "square": ("SquareAttack", _square("linf")),
    "square_l2": ("SquareAttack", _square("l2")),
    "autoattack": ("AutoAttack", _autoattack("linf")),
    "autoattack_l2": ("AutoAttack", _autoattack("l2")),
    "jsma": ("SaliencyMapMethod", _jsma),
    "spatial_grid": ("SpatialTransformation", _spatial_grid),
}
OFFERED = sorted(name for name, value in vars(evasion).items() if inspect.isclass(value))
