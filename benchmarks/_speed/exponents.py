"""How a time grows: the exponent of a power law, with its interval. NumPy and SciPy."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Growth(NamedTuple):
    """seconds = scale * size ** exponent; the exponent's 95% interval, the share of variance explained."""

    exponent: float
    low: float
    high: float
    scale: float
    explained: float


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> Growth:
    """Least squares of log seconds on log size, with Student's interval for the slope.

    Args:
        sizes: at least three, not all equal, > 0.
        seconds: as many, > 0.

    Raises:
        ValueError: for fewer than three points.

    >>> found = fit([1, 2, 4, 8], [3, 12, 48, 192])
    >>> round(found.exponent, 6), round(found.scale, 6)
    (2.0, 3.0)
    """
    if len(sizes) < 3 or len(sizes) != len(seconds):
        raise ValueError(
            f"Expected at least 3 sizes and as many times, got {len(sizes)} and {len(seconds)}. Measure more."
        )
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(seconds, float))
    line = stats.linregress(x, y)
    half = float(stats.t.ppf(0.975, len(x) - 2) * line.stderr)
    slope = float(line.slope)
    return Growth(slope, slope - half, slope + half, float(np.exp(line.intercept)), float(line.rvalue**2))
