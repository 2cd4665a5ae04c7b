"""How far two maps, or two regions, agree. NumPy, on the host."""

from typing import Any

import numpy as np
from scipy import stats

from jaxrobust.saliency._arrays import as_inside, as_maps


def spearman(first: Any, second: Any) -> np.ndarray:
    """Spearman's rank correlation of maps over their pixels, float64 `[b]` in [-1, 1].

    Equal values share the mean of their ranks. NaN where a map is constant: it has no ranks.

    Args:
        first, second: `[b, h, w]`.

    Raises:
        ValueError: for maps of different shapes, or not finite.

    >>> float(spearman(np.array([[[1.0, 2.0, 3.0]]]), np.array([[[1.0, 4.0, 9.0]]]))[0])
    1.0
    """
    first, second = as_maps(first), as_maps(second)
    _check_shapes("maps", first, second)
    ranks = [stats.rankdata(maps.reshape(len(maps), -1), axis=1) for maps in (first, second)]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    length = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    found = np.divide((a * b).sum(axis=1), length, out=np.full(len(a), np.nan), where=length > 0)
    return np.clip(found, -1, 1)


def iou(first: Any, second: Any) -> np.ndarray:
    """Intersection over union of regions, float64 `[b]` in [0, 1]; NaN where both are empty.

    Args:
        first, second: bool `[b, h, w]`.

    Raises:
        ValueError: for regions of different shapes, or not of bools.

    >>> iou(np.array([[[True, True, False]]]), np.array([[[False, True, True]]])).round(3).tolist()
    [0.333]
    """
    first, second = as_inside(first), as_inside(second)
    _check_shapes("regions", first, second)
    union = (first | second).sum(axis=(1, 2))
    both = (first & second).sum(axis=(1, 2))
    return np.divide(both, union, out=np.full(len(first), np.nan), where=union > 0)


def _check_shapes(what: str, first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"Expected {what} of one shape, got {list(first.shape)} and {list(second.shape)}: row i is "
            "compared with row i."
        )
