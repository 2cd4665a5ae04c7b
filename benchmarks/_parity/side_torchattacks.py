"""torchattacks, configured to be at its best."""

from typing import Any

import torch
import torchattacks

from benchmarks._parity.twin import Victim, nearest

PACKAGES = ("torchattacks", "torch")
_FAR = 1e6
_CONSTS = (1e-2, 1e-1, 1.0, 1e1, 1e2)


def _call(attack: Any, victim: Victim) -> torch.Tensor:
    if victim.targeted:
        attack.set_mode_targeted_by_label(quiet=True)
    return attack(victim.x.clone(), victim.y)


def _pgd(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    attack = torchattacks.PGD(victim.net, eps=eps, alpha=eps * budget["step"], steps=budget["steps"])
    return _call(attack, victim)


def _pgd_l2(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    attack = torchattacks.PGDL2(victim.net, eps=eps, alpha=eps * budget["step"], steps=budget["steps"])
    return _call(attack, victim)


def _mi_fgsm(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    steps = budget["steps"]
    return _call(
        torchattacks.MIFGSM(victim.net, eps=eps, alpha=eps / steps, steps=steps, decay=budget["decay"]),
        victim,
    )


def _cw(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    """It has no search for c: as many constants as the others have searches, and the nearest for each image.

    Pixels at 0 and 1 never move in it (arctanh is infinite there), so it gets images drawn in by 5e-7.
    """
    inner = victim._replace(x=0.5 + (victim.x - 0.5) * 0.999999)
    candidates = [
        _call(torchattacks.CW(victim.net, c=c, steps=budget["steps"], lr=budget["learning_rate"]), inner)
        for c in _CONSTS[: budget["searches"]]
    ]
    return nearest(victim, candidates, 2)


def _cw_constants(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    """The case that has no search either."""
    assert budget["constants"] == _CONSTS
    return _cw(victim, eps, {**budget, "searches": len(_CONSTS)})


def _fab(norm: str, *, targeted: bool = False):
    """Untargeted it gives back only what lies within its eps: far, or norms could not be compared."""

    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
        attack = torchattacks.FAB(
            victim.net,
            norm=norm,
            eps=eps if targeted else _FAR,
            steps=budget["steps"],
            seed=victim.seed,
            multi_targeted=targeted,
            n_classes=victim.num_classes,
        )
        return _call(attack, victim)

    return run


def _apgd_attack(victim: Victim, norm: str, loss: str, eps: float, budget: dict[str, Any]) -> Any:
    return torchattacks.APGD(
        victim.net, norm=norm, eps=eps, steps=budget["steps"], seed=victim.seed, loss=loss
    )


def _apgd(norm: str, loss: str):
    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
        return _call(_apgd_attack(victim, norm, loss, eps, budget), victim)

    return run


def _apgd_t_attack(victim: Victim, norm: str, eps: float, budget: dict[str, Any]) -> Any:
    return torchattacks.APGDT(
        victim.net,
        norm=norm,
        eps=eps,
        steps=budget["steps"],
        seed=victim.seed,
        n_classes=budget["num_targets"] + 1,
    )


def _apgd_t(norm: str):
    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
        return _call(_apgd_t_attack(victim, norm, eps, budget), victim)

    return run


def _square_attack(victim: Victim, norm: str, eps: float, budget: dict[str, Any]) -> Any:
    return torchattacks.Square(victim.net, norm=norm, eps=eps, n_queries=budget["queries"], seed=victim.seed)


def _square(norm: str):
    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
        return _call(_square_attack(victim, norm, eps, budget), victim)

    return run


def _autoattack(norm: str):
    """The parts of its AutoAttack('standard') at the common budget, which its class does not let one set."""

    def run(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
        fab = torchattacks.FAB(
            victim.net,
            norm=norm,
            eps=eps,
            steps=budget["steps"],
            seed=victim.seed,
            multi_targeted=True,
            n_classes=budget["num_targets"] + 1,
        )
        parts = [
            _apgd_attack(victim, norm, "ce", eps, budget),
            _apgd_t_attack(victim, norm, eps, budget),
            fab,
            _square_attack(victim, norm, eps, budget),
        ]
        return _call(torchattacks.MultiAttack(parts), victim)

    return run


def _jsma(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    attack = torchattacks.JSMA(victim.net, theta=budget["theta"], gamma=budget["upsilon"])
    attack.set_mode_targeted_by_label(quiet=True)
    candidates = [
        attack(victim.x.clone(), (victim.y + shift) % victim.num_classes)
        for shift in range(1, victim.num_classes)
    ]
    return nearest(victim, candidates, 0)


ATTACKS = {
    "fgsm": ("FGSM", lambda v, eps, b: _call(torchattacks.FGSM(v.net, eps=eps), v)),
    "pgd": ("PGD", _pgd),
    "pgd_targeted": ("PGD", _pgd),
    "pgd_l2": ("PGDL2", _pgd_l2),
    "mi_fgsm": ("MIFGSM", _mi_fgsm),
    "cw": ("CW", _cw),
    "cw_constants": ("CW", _cw_constants),
    "cw_slow": ("CW", _cw),
    "cw_targeted": ("CW", _cw),
    "fab_l2": ("FAB", _fab("L2")),
    "fab_linf": ("FAB", _fab("Linf")),
    "fab_t_linf": ("FAB", _fab("Linf", targeted=True)),
    "apgd_ce": ("APGD", _apgd("Linf", "ce")),
    "apgd_ce_l2": ("APGD", _apgd("L2", "ce")),
    "apgd_dlr": ("APGD", _apgd("Linf", "dlr")),
    "apgd_dlr_l2": ("APGD", _apgd("L2", "dlr")),
    "apgd_t": ("APGDT", _apgd_t("Linf")),
    "apgd_t_l2": ("APGDT", _apgd_t("L2")),
    "square": ("Square", _square("Linf")),
    "square_l2": ("Square", _square("L2")),
    "autoattack": ("MultiAttack", _autoattack("Linf")),
    "autoattack_l2": ("MultiAttack", _autoattack("L2")),
    "jsma": ("JSMA", _jsma),
}
OFFERED = sorted(name for name in torchattacks.__all__ if name not in ("VANILA", "MultiAttack", "LGV"))
