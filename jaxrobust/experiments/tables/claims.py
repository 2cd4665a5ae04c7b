"""What the source claims, judged by what was measured: holds, does not hold, or within noise."""

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from jaxrobust.experiments._results import mean_interval, unpack
from jaxrobust.experiments.tables.numbers import Measured
from jaxrobust.experiments.tables.spec import Claim, Place

# Fewer discordant images than this, and McNemar's test is to be exact (Agresti, Categorical Data Analysis).
_FEW = 25


class Verdict(enum.Enum):
    """What the 95% interval of the difference says."""

    HOLDS = "holds"
    FAILS = "does not hold"
    NOISE = "within noise"
    UNKNOWN = "not measured"


class Judged(NamedTuple):
    """A claim with the difference of its two accuracies, in [-1, 1], and its 95% interval.

    `basis`: of which spread the interval is, that over `images` or over `seeds`, whichever is wider; `seeds`:
    how many both have.
    """

    claim: Claim
    verdict: Verdict
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    basis: str = ""
    seeds: int = 0


def judge(claim: Claim, find: Callable[[Place], Sequence[Measured]]) -> Judged:
    """Judges a claim; `find(place)` gives the measured rows of a place, one a seed.

    The difference is paired: the same images, in the seeds that both places have. Each seed has its own
    training, but all share the test images, so with several seeds there are two intervals: Student's over
    seeds, and that over images of their mean difference over seeds. The wider of both is taken.
    """
    first, second = ({row["run_seed"]: row for row in find(place)} for place in (claim.first, claim.second))
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return Judged(claim, Verdict.UNKNOWN)
    each = _differences([(first[seed], second[seed]) for seed in seeds])
    difference = float(each.mean())
    low, high = over_images(each.mean(axis=0))
    basis = "images"
    if len(seeds) > 1:
        half = mean_interval(each.mean(axis=1).tolist())[1]
        assert half is not None
        if 2 * half > high - low:
            basis = "seeds"
        low, high = min(low, difference - half), max(high, difference + half)
    if low > claim.margin:
        verdict = Verdict.HOLDS
    elif high < claim.margin:
        verdict = Verdict.FAILS
    else:
        verdict = Verdict.NOISE
    return Judged(claim, verdict, difference, low, high, basis, len(seeds))


def _differences(pairs: Sequence[tuple[Measured, Measured]]) -> np.ndarray:
    """Right by the first minus right by the second, -1, 0 or 1, as `[seeds, images]`."""
    n = min(row["n"] for pair in pairs for row in pair)
    flags = [[unpack(row["right"], row["n"])[:n].astype(int) for row in pair] for pair in pairs]
    return np.array([first - second for first, second in flags])


def over_images(differences: np.ndarray) -> tuple[float, float]:
    """The 95% interval of a mean paired difference over images.

    Wald's; with one seed that is (b - c) / n with the standard error sqrt(b + c - (b - c)^2 / n) / n, for b
    images that only the first has right and c that only the second has. Where few images differ it is too
    narrow: then it is widened to the Clopper-Pearson interval of b out of b + c, which has 0 inside exactly
    where McNemar's exact test has p >= 5%.

    Args:
        differences: `[n]` in [-1, 1], a mean over seeds.

    >>> low, high = over_images(np.array([1] * 4 + [0] * 496))
    >>> low < 0 < high
    True
    """
    n, mean = len(differences), float(np.mean(differences))
    half = float(stats.norm.ppf(0.975) * np.std(differences) / np.sqrt(n))
    low, high = mean - half, mean + half
    b, c = int(np.sum(differences > 0)), int(np.sum(differences < 0))
    if 0 < b + c < _FEW:
        # The size of a difference, 1 with one seed, times the share of images that differ.
        scale = float(np.abs(differences).sum()) / n
        share = stats.binomtest(b, b + c).proportion_ci(0.95, method="exact")
        low, high = min(low, scale * (2 * share.low - 1)), max(high, scale * (2 * share.high - 1))
    return low, high
