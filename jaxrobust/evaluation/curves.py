"""Accuracy against radius: one attack at growing radii, one compiled program for all of them."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxrobust.evaluation import _engine, _provenance
from jaxrobust.evaluation._types import Curve, EvalAttack
from jaxrobust.numerics.metrics import wilson_interval
from jaxrobust.types import Model, PyTree

FACTORS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


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
    progress_fn: Callable[[str, int, int], None] | None = None,
) -> Curve:
    """Accuracy under an attack whose radii are multiplied by each factor, in growing order.

    The neighbourhoods are nested, so an image that is fooled at one radius counts as fooled at every larger
    one, and only those still right are attacked again: the curve never rises, its point at factor 0 is clean
    accuracy, and each point is the worst over the radii up to it. The radius is an argument of the compiled
    program, the same that `evaluate` uses at this batch size.

    Args:
        model, params, stats, images, labels, batch_size, seed: as in `robust.evaluate`.
        attack: at its full radius, factor 1. `every_image` is not used: the clean image is a candidate.
        name: for the report; also seeds the draws.
        factors: shares of the full radius, >= 0; sorted, and 0 is added.
        progress_fn: called as `progress_fn(name, done, total)` after every radius.

    Returns:
        A `Curve` with 95% Wilson intervals.

    Raises:
        ValueError: no attack, a negative factor, or bad images or labels as in `robust.evaluate`.
    """
    if attack.attack is None:
        raise ValueError("Expected an attack to draw a curve of, got the clean entry. Leave it out.")
    if any(not (math.isfinite(factor) and factor >= 0) for factor in factors):
        raise ValueError(f"Expected finite factors >= 0, got {tuple(factors)}.")
    start = time.perf_counter()
    s = _engine.subject(model, params, stats, images, labels, batch_size=batch_size, seed=seed)
    ordered = sorted({0.0, *map(float, factors)})
    right = _engine.predict_set(s).correct(s.labels)
    counts = [int(right.sum())]
    for at, factor in enumerate(ordered[1:], start=1):
        index = np.flatnonzero(right)
        found = _engine.run_attack(s, name, attack.attack, index, s.labels[index], factor=factor)
        right[index] &= found.seen.correct(s.labels[index]) | ~found.inside()
        counts.append(int(right.sum()))
        if progress_fn is not None:
            progress_fn(name, at, len(ordered) - 1)
    intervals = [wilson_interval(count, s.n) for count in counts]
    return Curve(
        attack=name,
        radius=_provenance.radius_label(attack.attack),
        eps=_provenance.single_eps(attack.attack),
        factors=tuple(ordered),
        accuracy=tuple(count / s.n for count in counts),
        low=tuple(low for low, _ in intervals),
        high=tuple(high for _, high in intervals),
        n=s.n,
        seconds=time.perf_counter() - start,
    )
