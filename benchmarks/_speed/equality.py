"""Whether two libraries have done the same: successes within the radius, image by image. NumPy alone."""

from typing import Any

import numpy as np

from benchmarks._parity.bars import TOLERANCE, norms

POINT = 0.01


def lengths(norm: str, clean: np.ndarray, images: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """How far the images `[n, h, w, c]` lie that the model is wrong about, inf for the others, `[n]`."""
    inside = (images >= 0).all((1, 2, 3)) & (images <= 1).all((1, 2, 3))
    return np.where(wrong & inside, norms(norm, clean, images), np.inf)


def successes(eps: float, found: np.ndarray) -> np.ndarray:
    """Which lengths are within the radius, to a relative 1e-5.

    >>> successes(1.0, np.array([0.5, 1.000001, 1.1, np.inf])).tolist()
    [True, True, False, False]
    """
    return found <= eps * (1 + TOLERANCE)


def compare(ours: np.ndarray, peer: np.ndarray, *, by_verdicts: bool = False) -> dict[str, Any]:
    """Successes `[seeds, n]` of both on the same images.

    They count as the same where the rates, averaged over the seeds, differ by at most one point, or by one
    image where a point is less than that; `by_verdicts`: where at most as large a share of the verdicts, seed
    by seed, are others, which is asked of a model whose successes mean nothing. There chance may keep apart
    what is the same, and other numbers of seeds cannot be compared: neither counts as the same.

    Returns:
        `rate`, `rate_peer`, `difference` (ours less the peer's) with its 95% `interval`, paired over the
        images, `agreement`, the share of verdicts that are equal seed by seed (None of other numbers of
        seeds), `same`.

    >>> ours, peer = np.ones((1, 4), bool), np.array([[True, True, True, False]])
    >>> found = compare(ours, peer)
    >>> found["difference"], found["same"], found["agreement"]
    (0.25, True, 0.75)
    """
    num = peer.shape[1]
    ours = ours[:, :num]
    each = ours.mean(0) - peer.mean(0)
    difference = float(each.mean())
    half = 1.96 * float(each.std(ddof=1)) / num**0.5 if num > 1 else float("inf")
    agreement = float((ours == peer).mean()) if len(ours) == len(peer) else None
    allowed = max(POINT, 1 / num) + 1e-9
    if by_verdicts:
        same = agreement is not None and 1 - agreement <= allowed
    else:
        same = abs(difference) <= allowed
    return {
        "rate": float(ours.mean()),
        "rate_peer": float(peer.mean()),
        "difference": difference,
        "interval": [difference - half, difference + half],
        "agreement": agreement,
        "same": bool(same),
    }
