"""What the source claims, judged by what was measured: holds, does not hold, or within noise."""

import enum
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from jaxrobust.experiments._results import mean_interval, paired_difference, unpack
from jaxrobust.experiments.tables.specs import Claim, Place

Measured = dict[str, Any]
"""A row of the results: `accuracy`, `n`, `run_seed`, and `right` (packed flags) where they are kept."""


class Verdict(enum.Enum):
    """What the 95% interval of the difference says."""

    HOLDS = "holds"
    FAILS = "does not hold"
    NOISE = "within noise"
    UNKNOWN = "not measured"


class Judged(NamedTuple):
    """A claim with the difference of its two accuracies (in [-1, 1]) and the half-width of its 95% interval.

    `basis`: over what the interval is taken: `seeds`, `images` (the same for both), or `samples` (unpaired).
    """

    claim: Claim
    verdict: Verdict
    difference: float | None = None
    half: float | None = None
    basis: str = ""


def judge(claim: Claim, find: Callable[[Place], Sequence[Measured]]) -> Judged:
    """Judges a claim; `find(place)` gives the measured rows of a place, one a seed.

    With two or more seeds that both places have, the interval is Student's over seeds; with one it is that of
    a paired difference over images, or of two independent shares where it is not known which images were
    right.
    """
    first, second = ({row["run_seed"]: row for row in find(place)} for place in (claim.first, claim.second))
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return Judged(claim, Verdict.UNKNOWN)
    if len(seeds) > 1:
        difference, half = mean_interval([_difference(first[s], second[s])[0] for s in seeds])
        basis = "seeds"
    else:
        difference, half, basis = _difference(first[seeds[0]], second[seeds[0]])
    assert half is not None
    if difference - half > claim.margin:
        verdict = Verdict.HOLDS
    elif difference + half < claim.margin:
        verdict = Verdict.FAILS
    else:
        verdict = Verdict.NOISE
    return Judged(claim, verdict, difference, half, basis)


def _difference(one: Measured, other: Measured) -> tuple[float, float, str]:
    if "right" in one and "right" in other:
        # Slow attacks are tried on the first images of the others' set.
        n = min(one["n"], other["n"])
        flags = (unpack(row["right"], row["n"])[:n] for row in (one, other))
        return (*paired_difference(*flags), "images")
    shares = np.array([one["accuracy"], other["accuracy"]])
    sizes = np.array([one["n"], other["n"]])
    error = float(np.sqrt((shares * (1 - shares) / sizes).sum()))
    return float(shares[0] - shares[1]), float(stats.norm.ppf(0.975)) * error, "samples"
