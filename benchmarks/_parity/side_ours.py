"""This library, through `jaxrobust.attack` on a classifier of plain JAX functions."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxrobust
from benchmarks._parity import cases
from jaxrobust import attacks, neighbourhoods
from jaxrobust.numerics.losses import cross_entropy, dlr

PACKAGES = ("jaxrobust", "jax", "jaxlib")

Make = Callable[[float, dict[str, Any]], Any]


def _pgd(ball: Any) -> Make:
    return lambda eps, b: attacks.PGD(neighbourhood=ball(eps=eps), steps=b["steps"], step_size=b["step"])


def _pgd_l1(eps: float, b: dict[str, Any]) -> Any:
    ball = neighbourhoods.L1(eps=eps, sparsity=b["sparsity"])
    start = attacks.identity_start
    return attacks.PGD(neighbourhood=ball, steps=b["steps"], step_size=b["step"], start_fn=start)


def _pointwise(eps: float, b: dict[str, Any]) -> Any:
    return attacks.PointWise(neighbourhood=neighbourhoods.L0(eps=eps, features=True), **b)


def _apgd(ball: Any, loss_fn: Any, *, targets: bool = False) -> Make:
    def make(eps: float, b: dict[str, Any]) -> Any:
        num = b["num_targets"] if targets else 0
        return attacks.APGD(neighbourhood=ball(eps=eps), steps=b["steps"], loss_fn=loss_fn, num_targets=num)

    return make


def _fab(ball: Any) -> Make:
    return lambda eps, b: attacks.FAB(
        neighbourhood=ball(eps=eps), steps=b["steps"], num_targets=b.get("num_targets", 0)
    )


def _cw(eps: float, b: dict[str, Any]) -> Any:
    return attacks.CarliniWagner(neighbourhood=neighbourhoods.L2(eps=eps), **b)


def _ddn(eps: float, b: dict[str, Any]) -> Any:
    return attacks.DDN(neighbourhood=neighbourhoods.L2(eps=eps), levels=None, **b)


def _autoattack(ball: Any) -> Make:
    return lambda eps, b: attacks.autoattack(ball(eps=eps), **b)


def _moves(b: dict[str, Any]) -> Any:
    return neighbourhoods.RotationTranslation(max_angle=float(b["angle"]), max_shift=float(b["shift"]))


def _grid(eps: float, b: dict[str, Any]) -> Any:
    return attacks.GridSearch(neighbourhood=_moves(b), granularity=(b["shifts"], b["shifts"], b["angles"]))


def _draws(neighbourhood_fn: Callable[[float, dict[str, Any]], Any]) -> Make:
    return lambda eps, b: attacks.RandomSearch(neighbourhood=neighbourhood_fn(eps, b), num=b["draws"])


LINF, L2 = neighbourhoods.LInf, neighbourhoods.L2

ATTACKS: dict[str, tuple[str, Make]] = {
    "fgsm": ("fgsm", lambda eps, b: attacks.fgsm(LINF(eps=eps))),
    "fgm_l2": ("fgsm", lambda eps, b: attacks.fgsm(L2(eps=eps))),
    "pgd": ("PGD", _pgd(LINF)),
    "pgd_targeted": ("PGD", _pgd(LINF)),
    "pgd_l2": ("PGD", _pgd(L2)),
    "pgd_l1": ("PGD", _pgd_l1),
    "mi_fgsm": ("MIFGSM", lambda eps, b: attacks.MIFGSM(neighbourhood=LINF(eps=eps), **b)),
    "noise_linf": ("RandomSearch", _draws(lambda eps, b: neighbourhoods.UniformNoise(eps=eps))),
    "noise_l2": ("RandomSearch", _draws(lambda eps, b: L2(eps=eps))),
    "cw": ("CarliniWagner", _cw),
    "cw_constants": ("CarliniWagner", _cw),
    "cw_slow": ("CarliniWagner", _cw),
    "cw_targeted": ("CarliniWagner", _cw),
    "ddn": ("DDN", _ddn),
    "ddn_targeted": ("DDN", _ddn),
    "fab_l2": ("FAB", _fab(L2)),
    "fab_linf": ("FAB", _fab(LINF)),
    "fab_t_linf": ("FAB", _fab(LINF)),
    "apgd_ce": ("APGD", _apgd(LINF, cross_entropy)),
    "apgd_ce_l2": ("APGD", _apgd(L2, cross_entropy)),
    "apgd_dlr": ("APGD", _apgd(LINF, dlr)),
    "apgd_dlr_l2": ("APGD", _apgd(L2, dlr)),
    "apgd_t": ("APGD", _apgd(LINF, dlr, targets=True)),
    "apgd_t_l2": ("APGD", _apgd(L2, dlr, targets=True)),
    "square": ("Square", lambda eps, b: attacks.Square(neighbourhood=LINF(eps=eps), **b)),
    "square_l2": ("Square", lambda eps, b: attacks.Square(neighbourhood=L2(eps=eps), **b)),
    "autoattack": ("autoattack", _autoattack(LINF)),
    "autoattack_l2": ("autoattack", _autoattack(L2)),
    "jsma": ("JSMA", lambda eps, b: attacks.JSMA(neighbourhood=neighbourhoods.L0(eps=eps), **b)),
    "pointwise": ("PointWise", _pointwise),
    "spatial_grid": ("GridSearch", _grid),
    "spatial_random": ("RandomSearch", _draws(lambda eps, b: _moves(b))),
}
OFFERED = sorted(set(attacks.ATTACKS))


def make(name: str, dataset: str) -> Any:
    """The attack of a case."""
    case = cases.CASES[name]
    attack = ATTACKS[name][1](case.eps(dataset), case.budget(dataset))
    return dataclasses.replace(attack, targeted=True) if case.targeted else attack


def run(attack: Any, logits_fn: Any, images: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """The attacked images `[n, h, w, c]`."""
    result = jaxrobust.attack(attack, logits_fn, images, y, key=jax.random.key(seed))
    return np.asarray(jax.block_until_ready(result.image))
