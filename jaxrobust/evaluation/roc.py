r"""Verification's ROC from similarities: false accept rate, true accept rate, EER.

A pair is accepted where its similarity s >= tau, as in `numerics.similarity.pair_logits`. FAR(tau) is the
share of impostor pairs that are accepted, TAR(tau) that of genuine pairs; FRR = 1 - TAR. Every distinct
similarity is a threshold, so that the curve is exact: pairs of equal similarity are accepted together, and
nothing between two thresholds is lost. All in float64.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from jaxrobust import _validate


class Roc(NamedTuple):
    """An exact ROC: from nothing accepted (0, 0) to everything (1, 1).

    Attributes:
        far: float64 `[t]`, rising.
        tar: float64 `[t]`, rising.
        thresholds: float64 `[t]`, falling from inf; None where folds with thresholds of their own are pooled.
    """

    far: np.ndarray
    tar: np.ndarray
    thresholds: np.ndarray | None


class OperatingPoint(NamedTuple):
    """A point of an ROC.

    Attributes:
        asked: the FAR that was asked for; None for the point of the EER.
        far: the FAR that is achieved there.
        tar: the TAR there.
        threshold: pairs with s >= threshold are accepted; finite; None on a pooled curve.
    """

    asked: float | None
    far: float
    tar: float
    threshold: float | None


class Eer(NamedTuple):
    """The equal error rate, and the point of the curve nearest to it."""

    value: float
    point: OperatingPoint


WeightedRocFn: TypeAlias = Callable[[np.ndarray | None], Roc | None]
"""`fn(weights [m])` -> the ROC with every pair counted so many times; None where a rate is not defined."""


def check_pairs(similarities: ArrayLike, genuine: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """(float64 `[m]`, bool `[m]`), or a ValueError: lengths, NaN, and one kind of pair missing."""
    scores, flags = np.asarray(similarities), np.asarray(genuine)
    if scores.ndim != 1 or flags.shape != scores.shape:
        raise ValueError(
            f"Expected one similarity and one flag per pair, got shapes {scores.shape} and {flags.shape}."
        )
    if flags.dtype != np.bool_ and not np.isin(flags, (0, 1)).all():
        raise ValueError("Expected genuine flags True and False (or 1 and 0), got other values.")
    scores, flags = scores.astype(np.float64), flags.astype(bool)
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(
            f"The similarity of pair {row} is {scores[row]}; an embedding is not finite. Repair the model, "
            "or leave the pair out and say so."
        )
    for kind, count in (("genuine", int(flags.sum())), ("impostor", int((~flags).sum()))):
        if not count:
            raise ValueError(f"There is no {kind} pair among {len(flags)}; give pairs of both kinds.")
    return scores, flags


class _Fold(NamedTuple):
    """One fold's pairs, sorted by falling similarity: where blocks of equal similarity start."""

    order: np.ndarray
    starts: np.ndarray
    genuine: np.ndarray
    thresholds: np.ndarray


def _sorted_fold(rows: np.ndarray, scores: np.ndarray, flags: np.ndarray) -> _Fold:
    order = rows[np.argsort(-scores[rows], kind="stable")]
    values = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    return _Fold(order, starts, flags[order], values[starts])


def _curve(genuine: np.ndarray, impostor: np.ndarray, thresholds: np.ndarray | None) -> Roc | None:
    """From the weights of blocks in the order of acceptance."""
    accepted = [np.concatenate([[0.0], np.cumsum(block)]) for block in (impostor, genuine)]
    if not all(total[-1] > 0 for total in accepted):
        return None
    if thresholds is not None:
        thresholds = np.concatenate([[np.inf], thresholds])
    far, tar = (total / total[-1] for total in accepted)
    return Roc(far, tar, thresholds)


def weighted_roc_fn(
    similarities: ArrayLike, genuine: ArrayLike, fold: ArrayLike | None = None
) -> WeightedRocFn:
    """`pooled_roc` as a function of the pairs' weights, sorted once: for the bootstrap.

    Args:
        similarities, genuine, fold: as in `pooled_roc`; None is one fold.

    Returns:
        `fn(weights float [m] or None) -> Roc`, or None where a fold has no impostor pair of positive weight,
        or none has a genuine one.

    Raises:
        ValueError: as `pooled_roc`.
    """
    scores, flags = check_pairs(similarities, genuine)
    number = np.zeros(len(scores), np.int64) if fold is None else np.asarray(fold)
    if number.shape != scores.shape:
        raise ValueError(f"Expected one fold per pair, got shapes {number.shape} and {scores.shape}.")
    for one in np.unique(number):
        if flags[number == one].all():
            raise ValueError(
                f"Fold {one} has no impostor pair, so its false accept rate is not known; give it impostor "
                "pairs or leave it out."
            )
    folds = [_sorted_fold(np.flatnonzero(number == one), scores, flags) for one in np.unique(number)]

    def weighted(weights: np.ndarray | None = None) -> Roc | None:
        weights = np.ones(len(scores)) if weights is None else weights
        parts, levels = [], []
        for one in folds:
            weight = weights[one.order]
            accepted = np.add.reduceat(np.where(one.genuine, weight, 0.0), one.starts)
            false = np.add.reduceat(np.where(one.genuine, 0.0, weight), one.starts)
            parts.append((accepted, false))
            total = np.cumsum(false)
            if not total[-1] > 0:
                return None
            # The FAR of this fold half way through the block: pairs between two impostors come after the
            # first and before the second, as on the fold's own curve.
            levels.append((total - false / 2) / total[-1])
        if len(folds) == 1:
            return _curve(*parts[0], folds[0].thresholds)
        level = np.concatenate(levels)
        order = np.argsort(level, kind="stable")
        starts = np.flatnonzero(np.concatenate([[True], np.diff(level[order]) > 0]))
        genuine, impostor = (
            np.add.reduceat(np.concatenate(kind)[order], starts) for kind in zip(*parts, strict=True)
        )
        return _curve(genuine, impostor, None)

    return weighted


def roc(similarities: ArrayLike, genuine: ArrayLike) -> Roc:
    """The exact ROC of one model's similarities.

    Args:
        similarities: `[m]`, larger is more alike; any finite numbers, cosines in [-1, 1] mostly.
        genuine: bool `[m]`, whether the pair is of one person.

    Returns:
        The `Roc`, one point per distinct similarity after the first, (0, 0) at threshold inf.

    Raises:
        ValueError: lengths that differ, NaN or infinite similarities, or one kind of pair missing.

    >>> roc([0.9, 0.4, 0.4, 0.1], [True, True, False, False]).tar.tolist()
    [0.0, 0.5, 1.0, 1.0]
    """
    curve = weighted_roc_fn(similarities, genuine)(None)
    assert curve is not None
    return curve


def pooled_roc(similarities: ArrayLike, genuine: ArrayLike, fold: ArrayLike) -> Roc:
    """One ROC over folds whose similarities are not comparable, as each fold has its own model.

    Decisions are pooled, not scores: at every level each fold accepts down to the same FAR on its own
    impostor pairs, and the decisions are counted together. (With equal counts per fold that is the mean of
    the folds' TAR at equal FAR.) So the folds' thresholds are read from the pairs that are judged, as every
    ROC and EER does; for thresholds from other people see `verify`'s decisions.

    Args:
        similarities: `[m]`, comparable within a fold.
        genuine: bool `[m]`.
        fold: int `[m]`.

    Returns:
        The `Roc`; with a single fold that of `roc`, else without thresholds.

    Raises:
        ValueError: as `roc`; a fold without impostor pairs.

    A model whose similarities are a shifted copy of another's changes nothing:

    >>> s, same = np.array([0.9, 0.4, 0.5, 0.1]), np.array([True, True, False, False])
    >>> both = pooled_roc(np.concatenate([s, s / 10 - 0.5]), np.tile(same, 2), np.repeat([0, 1], 4))
    >>> eer(both).value, eer(roc(s, same)).value
    (0.5, 0.5)
    """
    curve = weighted_roc_fn(similarities, genuine, fold)(None)
    assert curve is not None
    return curve


def eer(curve: Roc) -> Eer:
    """The equal error rate: FAR = FRR.

    FAR - FRR rises strictly from -1 to 1 along the curve's points. Where it is 0 at a point, that is the EER.
    Mostly it jumps over 0 between two neighbours; then the EER is where the straight line between them meets
    FAR = FRR. On a step of genuine or of impostor pairs alone this is the level of that step; where pairs of
    both kinds tie, the line is what a fair coin among the tied pairs would reach. So constant similarities
    have an EER of 1/2, and separable ones of 0.

    Args:
        curve: from `roc` or `pooled_roc`.

    Returns:
        The `Eer`: its value in [0, 1], and the neighbour with the smaller |FAR - FRR| (of equal ones the
        stricter), since no threshold need reach the value itself.
    """
    gap = curve.far - (1 - curve.tar)
    after = int(np.argmax(gap >= 0))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    value = curve.far[after - 1] + share * (curve.far[after] - curve.far[after - 1])
    nearest = after - 1 if -gap[after - 1] <= gap[after] else after
    return Eer(float(np.clip(value, 0, 1)), _point(curve, nearest, None))


def tar_at_far(curve: Roc, far: float = 0.01) -> OperatingPoint:
    """The largest TAR whose FAR is at most the asked one, with the FAR that it achieves.

    No interpolation: the threshold is a similarity that occurred, the lowest that keeps the FAR. On
    validation pairs it is the tau for test pairs.

    Args:
        curve: from `roc` or `pooled_roc`.
        far: in (0, 1).

    Returns:
        The `OperatingPoint`. Where even one accepted impostor pair is too many, `far` is 0 and the threshold
        lies above the best impostor, and above all pairs if that is the best of all.

    Raises:
        ValueError: a FAR outside (0, 1).

    >>> tar_at_far(roc([0.9, 0.8, 0.4, 0.1], [True, False, True, False]), 0.5)
    OperatingPoint(asked=0.5, far=0.5, tar=1.0, threshold=0.4)
    """
    check_far(far)
    # Rates are quotients of counts, so that equality is by rounding only.
    index = int(np.searchsorted(curve.far, far * (1 + 1e-9), side="right")) - 1
    return _point(curve, index, far)


class Rates(NamedTuple):
    """What decisions come to: FAR, TAR, and (1 - FAR + TAR) / 2; NaN where there is no such pair."""

    far: float
    tar: float
    balanced_accuracy: float


def decision_rates(accepted: ArrayLike, genuine: ArrayLike, weights: ArrayLike | None = None) -> Rates:
    """FAR and TAR of decisions, whatever thresholds they were made with: how folds are pooled.

    Args:
        accepted: bool `[m]`, for instance s >= the threshold of the pair's fold.
        genuine: bool `[m]`.
        weights: `[m]`, how often each pair counts; None is once.

    Returns:
        The `Rates`. Their accuracy weighs genuine and impostor pairs alike, however many there are of each.

    >>> decision_rates([True, False, True, False], [True, True, False, False])
    Rates(far=0.5, tar=0.5, balanced_accuracy=0.5)
    """
    taken, same = np.asarray(accepted, bool), np.asarray(genuine, bool)
    counts = np.ones(len(same)) if weights is None else np.asarray(weights, np.float64)

    def share(chosen: np.ndarray) -> float:
        total = counts[chosen].sum()
        return float(counts[chosen & taken].sum() / total) if total > 0 else float("nan")

    far, tar = share(~same), share(same)
    return Rates(far, tar, (1 - far + tar) / 2)


def check_far(far: float) -> None:
    """Raises ValueError unless 0 < far < 1."""
    _validate.positive("far", far, "A false accept rate is a share, e.g. 0.01 for 1%.")
    _validate.within("far", far, 0, 1, "A false accept rate is a share, e.g. 0.01 for 1%.")
    if far == 1:
        raise ValueError("Expected far < 1, got far=1: it accepts everything. Use 0.01 for 1%.")


def _point(curve: Roc, index: int, asked: float | None) -> OperatingPoint:
    threshold = None
    if curve.thresholds is not None:
        # Nothing is accepted just above the largest similarity, and that is a number JSON can hold.
        largest = np.nextafter(curve.thresholds[1], np.inf)
        threshold = float(min(curve.thresholds[index], largest))
    return OperatingPoint(asked, float(curve.far[index]), float(curve.tar[index]), threshold)
