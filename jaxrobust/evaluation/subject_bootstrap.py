"""Intervals over people: pairs share people and images, so that resampling pairs would be too sure."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrobust import _validate

_ENOUGH = 0.9


class Bootstrap(NamedTuple):
    """What resampling people gave.

    Attributes:
        low, high: float64 `[s]`, the percentile interval of each statistic; NaN where fewer than nine tenths
            of the draws have it.
        draws: float64 `[num_draws, s]`, NaN where a draw has no such statistic; with one seed the draws of
            two models on the same pairs are of the same people, so their difference is a paired one.
    """

    low: np.ndarray
    high: np.ndarray
    draws: np.ndarray


def subject_bootstrap(
    statistic_fn: Callable[[np.ndarray], np.ndarray],
    people: np.ndarray,
    fold: np.ndarray,
    *,
    num_draws: int = 1000,
    seed: int,
    confidence: float = 0.95,
) -> Bootstrap:
    """Resamples people with replacement, within their folds.

    A person drawn c times counts c times: a genuine pair of that person c times, an impostor pair of people
    drawn c and d times c d times. A person's own copies make no pairs with each other. (The subsets bootstrap
    of Bolle, Ratha and Pankanti, "Error analysis of pattern recognition systems", CVIU 93, 2004, with both
    people of an impostor pair resampled.) Folds keep their number of people; a person who is in several folds
    belongs to the first.

    Args:
        statistic_fn: `fn(weights float64 [m]) -> [s]`, statistics with each pair counted so many times; NaN
            where there is none.
        people: int `[m, 2]`, whose the two images of each pair are.
        fold: int `[m]`.
        num_draws: how many samples of people.
        seed: of the draws.
        confidence: of the interval, in (0, 1).

    Returns:
        The `Bootstrap`.

    Raises:
        ValueError: fewer than two people, or numbers out of range.

    >>> everyone = np.array([[0, 0], [0, 1], [1, 1]])
    >>> found = subject_bootstrap(lambda w: w[:1], everyone, np.zeros(3, int), num_draws=50, seed=0)
    >>> sorted(set(found.draws[:, 0].tolist()))
    [0.0, 1.0, 2.0]
    """
    _validate.at_least("num_draws", num_draws, 2)
    _validate.at_least("seed", seed, 0)
    if not 0 < confidence < 1:
        raise ValueError(f"Expected 0 < confidence < 1, got confidence={confidence}. Use 0.95 for 95%.")
    known, index = np.unique(people, return_inverse=True)
    if len(known) < 2:
        raise ValueError(f"The pairs are of {len(known)} person; resampling needs at least two people.")
    first, second = index.reshape(people.shape).T
    home = np.full(len(known), np.iinfo(np.int64).max)
    np.minimum.at(home, first, fold)
    np.minimum.at(home, second, fold)
    groups = [np.flatnonzero(home == one) for one in np.unique(home)]
    rng, rows, same = np.random.default_rng(seed), [], first == second
    for _ in range(num_draws):
        count = np.zeros(len(known))
        for group in groups:
            count[group] = rng.multinomial(len(group), np.full(len(group), 1 / len(group)))
        rows.append(statistic_fn(np.where(same, count[first], count[first] * count[second])))
    draws = np.asarray(rows, np.float64).reshape(num_draws, -1)
    low, high = np.full((2, draws.shape[1]), np.nan)
    for s, column in enumerate(draws.T):
        there = column[np.isfinite(column)]
        if len(there) >= _ENOUGH * num_draws:
            low[s], high[s] = np.quantile(there, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Bootstrap(low, high, draws)
