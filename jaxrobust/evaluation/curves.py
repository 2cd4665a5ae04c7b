"""Accuracy against radius.

An attack of fixed radius runs at growing radii, in one compiled program (`accuracy_curve`); a minimum-norm
attack has said at which radius each image falls, so its one run is the whole curve (`curve_of`).
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxrobust.evaluation import _engine, _programs, _provenance, _survivors
from jaxrobust.evaluation._types import CLEAN, Curve, EvalAttack, Report
from jaxrobust.numerics.metrics import wilson_interval
from jaxrobust.types import RADIUS_TOLERANCE, Model, PyTree

FACTORS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# Of curves that cost nothing: every tenth of the radius, to twice of it. (A count grows by whole numbers.)
BUDGETS = tuple(i / 10 for i in range(21))


def accuracy_curve(
    model: Model,
    params: PyTree,
    stats: PyTree,
    images: Any,
    labels: np.ndarray,
    attack: EvalAttack,
    *,
    name: str,
    batch_size: int,
    seed: int,
    factors: Sequence[float] = FACTORS,
    num_devices: int | None = None,
    progress_fn: Callable[[str, int, int], None] | None = None,
) -> Curve:
    """Accuracy under an attack whose radii are multiplied by each factor, in growing order.

    The neighbourhoods are nested, so an image that is fooled at one radius counts as fooled at every larger
    one, and only those still right are attacked again: the curve never rises, its point at factor 0 is clean
    accuracy, and each point is the worst over the radii up to it. The radius is an argument of the compiled
    program, the same that `evaluate` uses at this batch size.

    Args:
        model, params, stats, images, labels, batch_size, seed, num_devices: as in `robust.evaluate`.
        attack: at its full radius, factor 1. `every_image` is not used: the clean image is a candidate.
        name: for the report; also seeds the draws.
        factors: shares of the full radius, >= 0; sorted, and 0 is added.
        progress_fn: called as `progress_fn(name, done, total)` after every radius.

    Returns:
        A `Curve` with 95% Wilson intervals.

    Raises:
        ValueError: no attack, a targeted or a minimum-norm attack, a negative factor, or bad images or labels
            as in `robust.evaluate`.
    """
    return curve_and_flags(
        model,
        params,
        stats,
        images,
        labels,
        attack,
        name=name,
        batch_size=batch_size,
        seed=seed,
        factors=factors,
        num_devices=num_devices,
        progress_fn=progress_fn,
    )[0]


def curve_and_flags(
    model: Model,
    params: PyTree,
    stats: PyTree,
    images: Any,
    labels: np.ndarray,
    attack: EvalAttack,
    *,
    name: str,
    batch_size: int,
    seed: int,
    factors: Sequence[float] = FACTORS,
    num_devices: int | None = None,
    progress_fn: Callable[[str, int, int], None] | None = None,
) -> tuple[Curve, np.ndarray]:
    """`accuracy_curve`, and which images, bool `[n]`, no radius up to the largest fools.

    With these flags two curves are compared image by image.
    """
    if attack.attack is None:
        raise ValueError("Expected an attack to draw a curve of, got the clean entry. Leave it out.")
    if attack.target_fn is not None:
        raise ValueError("Expected an untargeted attack to draw a curve of. Leave target_fn out.")
    if _programs.is_minimum_norm(attack.attack):
        raise ValueError(
            "A minimum-norm attack need not run at several radii: evaluate it once and take "
            "curve_of(report, name)."
        )
    ordered = _ordered(factors)
    start = time.perf_counter()
    s = _engine.subject(
        model, params, stats, images, labels, batch_size=batch_size, seed=seed, num_devices=num_devices
    )
    right = _engine.predict_set(s).correct(s.labels)
    counts = [int(right.sum())]
    for at, factor in enumerate(ordered[1:], start=1):
        index = np.flatnonzero(right)
        found = _survivors.run_attack(s, name, attack.attack, index, s.labels[index], factor=factor).found
        right[index] &= found.seen.correct(s.labels[index]) | ~found.inside()
        counts.append(int(right.sum()))
        if progress_fn is not None:
            progress_fn(name, at, len(ordered) - 1)
    curve = _curve(
        name,
        _provenance.radius_label(attack.attack),
        _provenance.single_eps(attack.attack),
        _provenance.single_norm(attack.attack),
        ordered,
        counts,
        s.n,
        time.perf_counter() - start,
    )
    return curve, right


def curve_of(report: Report, name: str, *, factors: Sequence[float] | None = None) -> Curve:
    """Accuracy against the budget under a minimum-norm attack, from its one run over all images.

    An image counts at a budget if it is right from the start and nothing was found at a length up to it.

    Args:
        report: from `robust.evaluate`.
        name: of a minimum-norm attack in it.
        factors: shares of the attack's radius, >= 0, beyond 1 too; sorted, and 0 is added. None: every tenth
            of it, or every whole number where it is a count, up to twice of it.

    Returns:
        A `Curve` with 95% Wilson intervals; at factor 1 it is the row's accuracy. `seconds` is 0: the row has
        the attack's.

    Raises:
        ValueError: an unknown name, an attack of fixed radius, or a negative factor.
    """
    row = report.row(name)
    if not row["minimum_norm"] or f"length/{name}" not in report.flags:
        raise ValueError(f"{name} is no minimum-norm attack; draw its curve with accuracy_curve.")
    eps = float(row["eps"][0]["eps"])
    if factors is None:
        factors = [count / eps for count in range(2 * int(eps) + 1)] if row["norm"] == 0 else BUDGETS
    ordered = _ordered(factors)
    right, lengths = report.flags[f"correct/{CLEAN}"], report.flags[f"length/{name}"].astype(np.float64)
    budgets = [factor * eps * (1 + RADIUS_TOLERANCE) for factor in ordered]
    # At budget 0 the clean image is the only candidate, by the clean row's word.
    counts = [int(right.sum()), *(int(np.sum(right & (lengths > budget))) for budget in budgets[1:])]
    return _curve(name, row["radius"], eps, float(row["norm"]), ordered, counts, row["n"], 0.0)


def _ordered(factors: Sequence[float]) -> list[float]:
    if any(not (math.isfinite(factor) and factor >= 0) for factor in factors):
        raise ValueError(f"Expected finite factors >= 0, got {tuple(factors)}.")
    return sorted({0.0, *map(float, factors)})


def _curve(
    name: str,
    radius: str,
    eps: float | None,
    norm: float | None,
    factors: Sequence[float],
    counts: Sequence[int],
    n: int,
    seconds: float,
) -> Curve:
    """From how many images are right at each factor."""
    intervals = [wilson_interval(count, n) for count in counts]
    return Curve(
        attack=name,
        radius=radius,
        eps=eps,
        norm=norm,
        factors=tuple(factors),
        accuracy=tuple(count / n for count in counts),
        low=tuple(low for low, _ in intervals),
        high=tuple(high for _, high in intervals),
        n=n,
        seconds=seconds,
    )
