"""From images and verdicts to numbers, and from numbers to bars. NumPy alone."""

from typing import Any

import numpy as np

from benchmarks._parity import cases

TOLERANCE = 1e-5
# A feature that went through a change of units and back is not a feature changed.
_UNCHANGED = 1e-6
_RESAMPLES = 2000


def norms(kind: str, clean: np.ndarray, images: np.ndarray) -> np.ndarray:
    """`[n]` lengths of `images - clean` `[n, h, w, c]` in float64.

    `linf`, `l2`, `l1`; `l0` counts features, `l0_pixels` pixels; `free` is 0 everywhere.

    >>> clean = np.zeros((1, 2, 1, 2), np.float32)
    >>> images = np.array([3, 4, 0, 0], np.float32).reshape(clean.shape)
    >>> [float(norms(kind, clean, images)[0]) for kind in ("linf", "l2", "l1", "l0", "l0_pixels", "free")]
    [4.0, 5.0, 7.0, 2.0, 1.0, 0.0]
    """
    delta = np.abs(images.astype(np.float64) - clean.astype(np.float64))
    if kind == "l0_pixels":
        return (delta > _UNCHANGED).any(-1).sum((1, 2)).astype(np.float64)
    flat = delta.reshape(len(delta), -1)
    measures = {
        "linf": lambda: flat.max(1),
        "l2": lambda: np.sqrt((flat**2).sum(1)),
        "l1": lambda: flat.sum(1),
        "l0": lambda: (flat > _UNCHANGED).sum(1).astype(np.float64),
        "free": lambda: np.zeros(len(flat)),
    }
    return measures[kind]()


def measure(case: cases.Case, eps: float, clean: np.ndarray, images: np.ndarray, fooled: np.ndarray) -> dict:
    """What one library's images are worth.

    Args:
        case: the attack.
        eps: its radius.
        clean, images: `[n, h, w, c]`.
        fooled: bool `[n]`, the verdict.

    Returns:
        `found` and `lengths` per image (inf where not found), `resisted` per image (not adversarial within
        eps, to 1e-5 of it) and `robust`, their number, `outside` (adversarial images of a fixed-radius attack
        beyond eps, which count as robust), `n`.
    """
    lengths = norms(case.norm, clean, images)
    valid = (images >= 0).all((1, 2, 3)) & (images <= 1).all((1, 2, 3)) & np.isfinite(images).all((1, 2, 3))
    found = fooled & valid
    within = found & (lengths <= eps * (1 + TOLERANCE))
    fixed = cases.NORM not in case.bars and case.norm not in ("free",)
    resisted = ~found if case.norm in ("l0", "l0_pixels") else ~within
    return {
        "n": len(images),
        "found": found,
        "lengths": np.where(found, lengths, np.inf),
        "resisted": resisted,
        "robust": int(resisted.sum()),
        "outside": int((found & ~within).sum()) if fixed else 0,
    }


def summary(one: dict[str, Any]) -> dict[str, Any]:
    """The numbers of one library that stand alone."""
    found = one["lengths"][one["found"]]
    return {
        "n": one["n"],
        "robust": one["robust"],
        "robust_accuracy": one["robust"] / one["n"],
        "outside": one["outside"],
        "found": int(one["found"].sum()),
        "mean_found": float(found.mean()) if len(found) else None,
        "median_all": float(np.median(one["lengths"])),
    }


def compare(case: cases.Case, ours: dict[str, Any], peer: dict[str, Any]) -> dict[str, Any]:
    """Ours against one peer, and whether the bars hold.

    `accuracy`: robust accuracy at most the peer's plus 0.5 points. `norm`: the mean over images that both
    found and the median over all (inf where not found) at most 1.01 times the peer's, and at most 0.5% of the
    images fewer found.

    `chance` is true where a bar is missed, and only by differences whose 95% interval, paired over the
    images, holds the tie too: the peer is not shown to be ahead.
    """
    both = ours["found"] & peer["found"]
    result: dict[str, Any] = {"both": int(both.sum())}
    met, tied = [], []
    if cases.ACCURACY in case.bars:
        allowed = peer["robust"] / peer["n"] + cases.ACCURACY_SLACK
        result["accuracy_met"] = ours["robust"] / ours["n"] <= allowed + 1e-9
        interval = result["difference_interval"] = _difference(case, ours["resisted"], peer["resisted"])
        met.append(result["accuracy_met"])
        tied.append(interval[0] <= 0)
    if cases.NORM in case.bars:
        pairs = {
            "mean": _means(ours["lengths"], peer["lengths"], both),
            "median": (float(np.median(ours["lengths"])), float(np.median(peer["lengths"]))),
        }
        intervals = _ratios(ours["lengths"], peer["lengths"])
        for name, (own, other) in pairs.items():
            result[f"{name}_ours"], result[f"{name}_peer"] = own, other
            result[f"{name}_ratio"] = _ratio(own, other)
            result[f"{name}_interval"] = intervals[name]
            met.append(own <= cases.NORM_FACTOR * other or _ratio(own, other) is None)
            tied.append(intervals[name] is not None and intervals[name][0] <= 1)
        result["norm_met"] = all(met[-2:])
        lost = int(peer["found"].sum()) - int(ours["found"].sum())
        result["found_met"] = lost <= cases.ACCURACY_SLACK * peer["n"]
        met.append(result["found_met"])
        tied.append(_difference(case, ~ours["found"], ~peer["found"])[0] <= 0)
    result["met"] = bool(all(met))
    result["chance"] = not result["met"] and all(m or t for m, t in zip(met, tied, strict=True))
    return result


def _difference(case: cases.Case, ours: np.ndarray, peer: np.ndarray) -> tuple[float, float]:
    """95% interval of robust accuracy, ours less the peer's, paired over images; an image's mean over seeds.

    >>> every = np.array([True, True, False, False])
    >>> [round(float(end), 2) for end in _difference(cases.CASES["fgsm"], every, ~every)]
    [-1.13, 1.13]
    """
    means = [one.reshape(case.seeds, -1).mean(0) for one in (ours, peer)]
    difference = means[0] - means[1]
    middle = float(difference.mean())
    half = 1.96 * float(difference.std(ddof=1)) / len(difference) ** 0.5 if len(difference) > 1 else np.inf
    return middle - half, middle + half


def _ratios(ours: np.ndarray, peer: np.ndarray) -> dict[str, tuple[float, float] | None]:
    """95% intervals of the ratios of means (where both found) and of medians, by resampling the images."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(ours), size=(_RESAMPLES, len(ours)))
    own, other = ours[drawn], peer[drawn]
    both = np.isfinite(own) & np.isfinite(other)
    found = {
        "mean": [np.where(both, one, 0).sum(1) for one in (own, other)],
        "median": [np.median(one, axis=1) for one in (own, other)],
    }
    intervals: dict[str, tuple[float, float] | None] = {}
    for name, (above, below) in found.items():
        usable = np.isfinite(above) & np.isfinite(below) & (below > 0)
        ratios = above[usable] / below[usable]
        enough = usable.mean() > 0.99
        intervals[name] = tuple(map(float, np.quantile(ratios, [0.025, 0.975]))) if enough else None
    return intervals


def _means(ours: np.ndarray, peer: np.ndarray, both: np.ndarray) -> tuple[float, float]:
    if not both.any():
        return float("nan"), float("nan")
    return float(ours[both].mean()), float(peer[both].mean())


def _ratio(own: float, other: float) -> float | None:
    """None where there is nothing to compare: neither found half of the images, or none was found by both."""
    if np.isnan(own) or np.isnan(other) or (np.isinf(own) and np.isinf(other)):
        return None
    if other == 0:
        return 1.0 if own == 0 else float("inf")
    return own / other if np.isfinite(other) else 0.0
