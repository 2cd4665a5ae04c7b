"""Families: the rows of a table as experiments that differ in their objective and in what a step sees."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxrobust.attacks import PGD, RandomSearch, Sequence, near_start
from jaxrobust.experiments.experiment import BatchForm, Experiment, needs_pseudo_labels, standard_teacher
from jaxrobust.numerics import losses
from jaxrobust.objectives import AT, KLR, RST, RT, SRT, TRADES, UAT, Standard
from jaxrobust.types import Objective


def family(
    base: Experiment,
    attack: PGD,
    *,
    lam: float,
    beta: float,
    warmup: float = 0.0,
    lam_warmup: float = 0.0,
) -> dict[str, Experiment]:
    """The rows of one table of pixels: the same data, net, steps and batch, with another objective.

    `rt` is the source's form, the labelled share of each of SRT's steps; `rt_full` has full batches. `uat` is
    UAT++ with weight 1 for both of its terms. The teacher of `uat` and `rst` is `standard`, its checkpoint
    chosen by clean accuracy.

    Args:
        base: the SRT experiment; its objective is replaced.
        attack: the inner maximisation of AT, UAT, RT and SRT. TRADES and RST have the same PGD on their own
            loss and from their own start.
        lam: the weight of the robust term of RT and SRT.
        beta: the same of TRADES and RST.
        warmup: the fraction of the run over which the attack's radius grows from 0.
        lam_warmup: the fraction of the run over which lam of RT and SRT grows from 0.
    """
    robust: dict[str, Any] = {"attack": attack, "lam": lam, "warmup": warmup, "lam_warmup": lam_warmup}
    climb = dataclasses.replace(attack, loss_fn=losses.kl, start_fn=near_start(sigma=0.001))
    trades: dict[str, Any] = {"attack": climb, "beta": beta, "warmup": warmup}
    return _rows(
        base,
        {
            "standard": (Standard(), BatchForm.LABELLED),
            "at": (AT(attack=attack, warmup=warmup), BatchForm.LABELLED),
            "trades": (TRADES(**trades), BatchForm.LABELLED),
            "uat": (UAT(attack=attack, warmup=warmup), BatchForm.MIXED),
            "rst": (RST(**trades), BatchForm.MIXED),
            "rt": (RT(**robust), BatchForm.LABELLED_SHARE),
            "rt_full": (RT(**robust), BatchForm.LABELLED),
            "srt": (SRT(**robust), BatchForm.MIXED),
        },
    )


def geometry(
    base: Experiment,
    poses: RandomSearch,
    *,
    pixels: PGD,
    lam: float,
    klr_lam: float = 1.0,
    joint_pass: bool = True,
    warmup: float = 0.0,
    lam_warmup: float = 0.0,
) -> dict[str, Experiment]:
    """The rows of one table of rotation and translation; `at` is the adversarial training of *pixels*.

    Args:
        base: the SRT experiment; its objective is replaced.
        poses: the inner maximisation of Worst-of-k, KLR, RT and SRT.
        pixels: that of AT.
        lam: the weight of the robust term of RT and SRT.
        klr_lam: the weight of KLR's; 1 in its authors' published configuration.
        joint_pass: clean and transformed images go through the net as one batch.
        warmup: the fraction of the run over which the radius of AT's pixels grows from 0, as in `family`.
        lam_warmup: the fraction of the run over which lam of RT and SRT grows from 0.
    """
    robust: dict[str, Any] = {
        "attack": poses,
        "lam": lam,
        "joint_pass": joint_pass,
        "lam_warmup": lam_warmup,
    }
    return _rows(
        base,
        {
            "standard": (Standard(), BatchForm.LABELLED),
            "at": (AT(attack=pixels, warmup=warmup), BatchForm.LABELLED),
            "worst_of_k": (AT(attack=poses), BatchForm.LABELLED),
            "klr": (KLR(attack=poses, lam=klr_lam, joint_pass=joint_pass), BatchForm.LABELLED),
            "rt": (RT(**robust), BatchForm.LABELLED_SHARE),
            "rt_full": (RT(**robust), BatchForm.LABELLED),
            "srt": (SRT(**robust), BatchForm.MIXED),
        },
    )


def composite(
    base: Experiment,
    pixels: PGD,
    poses: RandomSearch,
    *,
    lam: float,
    warmup: float = 0.0,
    lam_warmup: float = 0.0,
) -> dict[str, Experiment]:
    """AT+ and SRT+ in both orders: T1 is pixels, then geometry; T2 geometry, then pixels.

    Each stage has its own radii; what comes first is frozen, and the order is part of the name.

    Args:
        base: the SRT experiment; its objective is replaced.
        pixels, poses: the stages; `warmup` scales both.
        lam: the weight of the robust term of SRT+.
        warmup: the fraction of the run over which the radii grow from 0.
        lam_warmup: the fraction of the run over which lam of SRT+ grows from 0.
    """
    orders = {"t1": Sequence(stages=(pixels, poses)), "t2": Sequence(stages=(poses, pixels))}
    rows: dict[str, tuple[Objective, BatchForm]] = {}
    for order, attack in orders.items():
        rows[f"at_{order}"] = (AT(attack=attack, warmup=warmup), BatchForm.LABELLED)
        srt = SRT(attack=attack, lam=lam, warmup=warmup, lam_warmup=lam_warmup)
        rows[f"srt_{order}"] = (srt, BatchForm.MIXED)
    return _rows(base, rows)


def _rows(base: Experiment, rows: Mapping[str, tuple[Objective, BatchForm]]) -> dict[str, Experiment]:
    """The base with each objective, and with a standard teacher where that needs one."""
    return {
        name: dataclasses.replace(
            base,
            objective=objective,
            batches=batches,
            teacher=standard_teacher(base) if needs_pseudo_labels(objective) else None,
        )
        for name, (objective, batches) in rows.items()
    }
