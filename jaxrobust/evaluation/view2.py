"""LFW's View 2: accuracy over folds with thresholds from the other folds, and its standard error."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxrobust.evaluation.roc import check_pairs


class View2(NamedTuple):
    """Accuracy over folds.

    Attributes:
        mean: of the folds' accuracies.
        standard_error: their standard deviation (with n - 1) over the root of their number.
        accuracies: of each fold, ascending by its number.
        thresholds: of each fold, from all others.
    """

    mean: float
    standard_error: float
    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]


def best_threshold(similarities: ArrayLike, genuine: ArrayLike) -> float:
    """The threshold of the highest accuracy, in the middle between two neighbouring similarities.

    Accepting everything and nothing are candidates too. Of several equally good ones the middle one.

    >>> best_threshold([0.9, 0.5, 0.1], [True, True, False])
    0.3
    """
    scores, flags = check_pairs(similarities, genuine)
    values, place = np.unique(scores, return_inverse=True)
    # Pairs that are right with s >= t, for t below all values, between neighbours, and above all.
    accepted = np.bincount(place, flags, len(values))
    rejected = np.bincount(place, ~flags, len(values))
    right = flags.sum() + np.concatenate([[0], np.cumsum(rejected - accepted)])
    ends = np.nextafter(values[[0, -1]], [-np.inf, np.inf])
    # Half way between neighbouring floats is one of them.
    middle = np.maximum((values[:-1] + values[1:]) / 2, np.nextafter(values[:-1], np.inf))
    candidates = np.concatenate([ends[:1], middle, ends[1:]])
    best = np.flatnonzero(right == right.max())
    return float(candidates[best[len(best) // 2]])


def view2_accuracy(similarities: ArrayLike, genuine: ArrayLike, fold: ArrayLike) -> View2:
    r"""Mean accuracy and its standard error $\hat\sigma / \sqrt{n}$ over n folds, ten for LFW.

    Each fold is judged with the threshold of the highest accuracy on all the others together (Huang et al.,
    UMass Amherst TR 07-49, section 4.1), so that one model's similarities must be comparable over folds.
    The standard error says how much folds differ; they share the model, so it is no interval for training.

    Args:
        similarities: `[m]`.
        genuine: bool `[m]`; accuracy counts pairs, so both kinds should be equally many, as in LFW.
        fold: int `[m]`, at least two different ones.

    Returns:
        The `View2`.

    Raises:
        ValueError: as `roc`; fewer than two folds.
    """
    scores, flags = check_pairs(similarities, genuine)
    number = np.asarray(fold)
    folds = np.unique(number)
    if number.shape != scores.shape or len(folds) < 2:
        raise ValueError(
            f"Expected at least two folds and one fold per pair, got {len(folds)} in shape {number.shape} "
            f"for {len(scores)} pairs; thresholds come from the other folds."
        )
    accuracies, thresholds = [], []
    for one in folds:
        own = number == one
        thresholds.append(best_threshold(scores[~own], flags[~own]))
        accuracies.append(float(np.mean((scores[own] >= thresholds[-1]) == flags[own])))
    error = float(np.std(accuracies, ddof=1) / np.sqrt(len(folds)))
    return View2(float(np.mean(accuracies)), error, tuple(accuracies), tuple(thresholds))
