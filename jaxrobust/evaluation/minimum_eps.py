"""The least radius that breaks each pair, by bisection, and what the pairs' least radii come to."""

from collections.abc import Callable

import numpy as np

from jaxrobust import _validate


def bisect(broken_fn: Callable[[np.ndarray], np.ndarray], num: int, *, bisections: int) -> np.ndarray:
    r"""The least share of a radius, in (0, 1], at which each row breaks; inf where it did at none.

    With $[l, u] = [0, 1]$ at first the middle m is tried: $u \leftarrow m$ if the row broke, else $l
    \leftarrow m$. After the full radius and k halvings the answer is at most $2^{-k}$ above the least radius,
    for an attack that succeeds at every radius above its least. Not all do (a longer step may pass over a
    hole), so what is returned is the least radius at which it *did* succeed, which no failure at a larger
    one takes back: the monotone envelope. A row that the full radius did not break is looked for below all
    the same.

    Args:
        broken_fn: shares `[num]` -> bool `[num]`, whether each row breaks at its own.
        num: how many rows there are.
        bisections: k >= 1.

    Returns:
        float64 `[num]`.

    Raises:
        ValueError: fewer than one bisection.

    >>> borders = np.array([0.3, 0.8, 2.0])
    >>> bisect(lambda shares: shares >= borders, 3, bisections=4)
    array([0.3125, 0.8125,    inf])
    """
    _validate.at_least("bisections", bisections, 1, "Each halves what is left of the radius.")
    best = np.where(broken_fn(np.ones(num)), 1.0, np.inf)
    low, high = np.zeros(num), np.ones(num)
    for _ in range(bisections):
        middle = (low + high) / 2
        broke = broken_fn(middle)
        best = np.where(broke, np.minimum(best, middle), best)
        low, high = np.where(broke, low, middle), np.where(broke, middle, high)
    return best


def weighted_median(values: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The least value that half of the weight does not exceed; inf counts, and is the answer where half is.

    The lower of two middle values, not their mean: it is a value that occurred, and finite whenever half of
    the rows broke. NaN without any weight.

    >>> weighted_median(np.array([3.0, 1.0, np.inf])), weighted_median(np.array([1.0, 2.0]))
    (3.0, 1.0)
    >>> weighted_median(np.array([3.0, 1.0, np.inf]), np.array([1.0, 0.0, 2.0]))
    inf
    """
    weights = np.ones(len(values)) if weights is None else weights
    total = weights.sum()
    if not total > 0:
        return float("nan")
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order]) >= total / 2
    return float(values[order][np.argmax(reached)])
