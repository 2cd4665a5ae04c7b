"""Accuracy and its confidence interval, on the host in NumPy."""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from jaxrobust import _validate


def accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """The share of rows whose largest logit is the label's; NaN for no rows.

    Args:
        logits: `[n, k]`.
        labels: int `[n]`.

    >>> accuracy([[0.0, 1.0], [2.0, 1.0]], [1, 1])
    0.5
    """
    logits, labels = np.asarray(logits), np.asarray(labels)
    return float(np.mean(np.argmax(logits, axis=-1) == labels)) if labels.size else math.nan


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), p = successes / n (Wilson, JASA 22, 1927).

    Args:
        successes: 0 <= successes <= n.
        n: number of trials.
        confidence: in (0, 1).

    Returns:
        (low, high) in [0, 1]; (0, 1) for n = 0.

    Raises:
        ValueError: successes or confidence out of range.

    >>> low, high = wilson_interval(90, 100)
    >>> round(low, 3), round(high, 3)
    (0.826, 0.945)
    """
    _validate.within("successes", successes, 0, n)
    if not 0 < confidence < 1:
        raise ValueError(f"Expected 0 < confidence < 1, got confidence={confidence}. Use 0.95 for 95%.")
    if n == 0:
        return 0.0, 1.0
    z = float(stats.norm.ppf(0.5 + confidence / 2))
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
