"""Designated classes of targeted attacks: functions of the clean logits `[n, k]` and the labels `[n]`."""

import numpy as np

from jaxrobust.evaluation._types import TargetFn


def _others(logits: np.ndarray, labels: np.ndarray, at_label: float) -> np.ndarray:
    """The logits with the label's replaced, so that it is never chosen."""
    is_label = np.arange(logits.shape[-1]) == np.asarray(labels)[:, None]
    return np.where(is_label, at_label, np.nan_to_num(logits, nan=-at_label))


def least_likely(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The class of the smallest logit: the hardest to reach.

    >>> least_likely(np.array([[3.0, 1.0, 2.0]]), np.array([1])).tolist()
    [2]
    """
    return np.argmin(_others(logits, labels, np.inf), axis=-1)


def runner_up(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The class of the largest logit that is not the label: the easiest to reach.

    >>> runner_up(np.array([[3.0, 1.0, 2.0]]), np.array([0])).tolist()
    [2]
    """
    return np.argmax(_others(logits, labels, -np.inf), axis=-1)


def next_class(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(y + 1) mod k: the same for every model.

    >>> next_class(np.zeros((1, 3)), np.array([2])).tolist()
    [0]
    """
    return (np.asarray(labels) + 1) % logits.shape[-1]


TARGETS: dict[str, TargetFn] = {
    "least_likely": least_likely,
    "runner_up": runner_up,
    "next_class": next_class,
}
