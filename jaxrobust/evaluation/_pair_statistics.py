"""Rates and medians over pairs with intervals over people, all from the same draws."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust.evaluation._verification_report import Estimate
from jaxrobust.evaluation.minimum_eps import weighted_median
from jaxrobust.evaluation.subject_bootstrap import subject_bootstrap

_ENOUGH = 0.9
_TAIL = 0.025


class Statistic(NamedTuple):
    """A mean, or a median, of `values` `[m]` over the pairs under `mask` bool `[m]`."""

    name: str
    values: np.ndarray
    mask: np.ndarray
    is_median: bool = False

    def of(self, weights: np.ndarray | None) -> float:
        """With each pair counted so many times; NaN where there is none."""
        counts = self.mask.astype(np.float64) if weights is None else self.mask * weights
        own = counts > 0
        if not own.any():
            return float("nan")
        if self.is_median:
            return weighted_median(self.values[own], counts[own])
        return float(np.average(self.values[own], weights=counts[own]))


def estimates(
    statistics: Sequence[Statistic], whose: np.ndarray, fold: np.ndarray, *, num_draws: int, seed: int
) -> tuple[dict[str, Estimate], np.ndarray]:
    """By name, each statistic with its interval; and the draws `[num_draws, s]`.

    An infinite median (half of the pairs unbroken) is drawn like any other value; its estimate, and an end of
    the interval that is infinite, are None.
    """

    def all_of(weights: np.ndarray | None) -> np.ndarray:
        return np.asarray([statistic.of(weights) for statistic in statistics])

    draws = subject_bootstrap(all_of, whose, fold, num_draws=num_draws, seed=seed).draws
    found = {}
    for statistic, value, column in zip(statistics, all_of(None), draws.T):
        there = np.sort(column[~np.isnan(column)])
        low = high = np.nan
        if len(there) >= _ENOUGH * num_draws:
            # Order statistics, outwards: nothing is interpolated between a number and infinity.
            low = np.quantile(there, _TAIL, method="lower")
            high = np.quantile(there, 1 - _TAIL, method="higher")
        found[statistic.name] = Estimate(*(float(v) if np.isfinite(v) else None for v in (value, low, high)))
    return found, draws
