"""From what happened to each image to the rows and flags of a report."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.evaluation import _programs, _provenance
from jaxrobust.evaluation._engine import Subject
from jaxrobust.evaluation._survivors import Share, members_of
from jaxrobust.evaluation._types import CLEAN, WORST, Seen
from jaxrobust.numerics.metrics import wilson_interval
from jaxrobust.types import RADIUS_TOLERANCE

CONFIDENCE = 0.95


class Outcome(NamedTuple):
    """One attack on the whole set by row; None where it does not apply.

    `moved` is 1{C(x') != C(x)} of eq. (3); `length` of a minimum-norm attack in its norm's units, inf where
    nothing was found; `target` and `reached` of a targeted attack; `broken_by` the member of an ensemble, -1
    where none, and `shares` what each did.
    """

    correct: np.ndarray
    correct_8bit: np.ndarray
    prediction: np.ndarray
    distance: np.ndarray
    attacked: int
    nonfinite: int
    moved: np.ndarray | None = None
    length: np.ndarray | None = None
    target: np.ndarray | None = None
    reached: np.ndarray | None = None
    broken_by: np.ndarray | None = None
    shares: tuple[Share, ...] = ()
    low: float = math.nan
    high: float = math.nan
    seconds: float = 0.0
    images_per_second: float = 0.0
    compiled: bool = False
    images: np.ndarray | None = None
    seen: Mapping[int, Seen] = {}


def common(s: Subject, model_name: str, dataset_name: str) -> dict[str, Any]:
    """What every row says of model, data and machine."""
    return {
        "model": model_name, "dataset": dataset_name, "n": s.n, "seed": s.seed, "batch_size": s.batch_size,
        "confidence": CONFIDENCE, "versions": _provenance.versions(), "hardware": _provenance.hardware(),
    }  # fmt: skip


def facts(attack: Any, every_image: bool) -> dict[str, Any]:
    """What a row says of the attack: exact radii and configuration, its norm where it has one ball."""
    return {
        "every_image": every_image,
        "minimum_norm": _programs.is_minimum_norm(attack),
        "norm": _provenance.norm_name(_provenance.single_norm(attack)),
        "radius": _provenance.radius_label(attack),
        "eps": _provenance.radii(attack),
        "config": _provenance.describe(attack),
        "members": [_provenance.member_label(member.attack) for member in members_of(attack)],
    }


def row(
    name: str, out: Outcome, about: Mapping[str, Any], right: np.ndarray, shared: Mapping[str, Any]
) -> dict[str, Any]:
    """The row of one attack; `about` is from `facts`, `right` says which clean images are right."""
    fooled = right & ~out.correct & np.isfinite(out.distance) if name != CLEAN else np.zeros_like(right)
    distances = out.distance[fooled]
    outside = int(np.sum(out.distance > 1 + RADIUS_TOLERANCE))
    return {
        "attack": name,
        **shared,
        "attacked": out.attacked,
        "every_image": about["every_image"],
        "correct": int(out.correct.sum()),
        **_rate("accuracy", out.correct),
        "accuracy_8bit": float(out.correct_8bit.mean()),
        **_risks(~out.correct | ~right, out.moved, right),
        "distance_mean": float(distances.mean()) if distances.size else None,
        "distance_median": float(np.median(distances)) if distances.size else None,
        # A minimum-norm attack looks at any distance: `length/<attack>` says how far.
        "outside": 0 if about["minimum_norm"] else outside,
        **_norms(out, about, right),
        **_targets(out),
        "broken_by": _members(out, about),
        "pixel_low": None if math.isnan(out.low) else out.low,
        "pixel_high": None if math.isnan(out.high) else out.high,
        "nonfinite": out.nonfinite,
        "radius": about["radius"],
        "eps": about["eps"],
        "config": about["config"],
        "seconds": round(out.seconds, 4),
        "images_per_second": round(out.images_per_second, 2),
        "compiled": out.compiled,
    }


def worst_row(
    outcomes: Mapping[str, Outcome],
    about: Mapping[str, Mapping[str, Any]],
    right: np.ndarray,
    shared: Mapping[str, Any],
) -> dict[str, Any]:
    """The per-example worst over all attacks, the clean image among the candidates."""
    robust = np.logical_and.reduce([out.correct for out in outcomes.values()])
    robust_8bit = np.logical_and.reduce([out.correct_8bit for out in outcomes.values()])
    moves = [out.moved for out in outcomes.values() if out.moved is not None]
    moved = np.logical_or.reduce(moves) if moves else None
    return {
        "attack": WORST,
        **shared,
        "over": list(outcomes),
        "radius": "",
        "eps": [radius for name in outcomes for radius in about[name]["eps"]],
        "attacked": max(out.attacked for out in outcomes.values()),
        "every_image": False,
        "minimum_norm": False,
        "correct": int(robust.sum()),
        **_rate("accuracy", robust),
        "accuracy_8bit": float(robust_8bit.mean()),
        **_risks(~robust, moved, right),
        "nonfinite": sum(out.nonfinite for out in outcomes.values()),
        "seconds": round(sum(out.seconds for out in outcomes.values()), 4),
    }


def flags(s: Subject, outcomes: Mapping[str, Outcome]) -> dict[str, np.ndarray]:
    """The per-example arrays of a report; see `Report.flags`."""
    found = {"label": s.labels}
    for name, out in outcomes.items():
        found[f"correct/{name}"] = out.correct
        found[f"correct_8bit/{name}"] = out.correct_8bit
        found[f"prediction/{name}"] = out.prediction
        found[f"distance/{name}"] = out.distance
        extra = {"moved": out.moved, "length": out.length, "target": out.target, "broken_by": out.broken_by}
        found |= {f"{kind}/{name}": values for kind, values in extra.items() if values is not None}
    found[f"correct/{WORST}"] = np.logical_and.reduce([out.correct for out in outcomes.values()])
    return found


def _rate(name: str, hits: np.ndarray) -> dict[str, float]:
    low, high = wilson_interval(int(hits.sum()), len(hits), CONFIDENCE)
    return {name: float(hits.mean()), f"{name}_low": low, f"{name}_high": high}


def _risks(adv: np.ndarray, moved: np.ndarray | None, right: np.ndarray) -> dict[str, Any]:
    """R_stand, R_adv and R_rob, and how many images break (6)."""
    risks = {**_rate("r_stand", ~right), **_rate("r_adv", adv)}
    if moved is None:
        return {**risks, "r_rob": None, "r_rob_low": None, "r_rob_high": None, "identity_violations": None}
    stand = ~right
    violations = int(np.sum(adv != (stand | (right & moved))))
    return {**risks, **_rate("r_rob", moved), "identity_violations": violations}


def _norms(out: Outcome, about: Mapping[str, Any], right: np.ndarray) -> dict[str, Any]:
    """The minimum norms over the images right from the start, in the norm's own units.

    The median counts a failure as infinitely far, so it is None where half of them failed; the mean is over
    what was found.
    """
    norms: dict[str, Any] = {"minimum_norm": about["minimum_norm"], "norm": about["norm"]}
    lengths = np.zeros(0) if out.length is None else out.length[right].astype(np.float64)
    finite = lengths[np.isfinite(lengths)]
    median = float(np.median(lengths)) if lengths.size else math.inf
    return {
        **norms,
        "found": finite.size / lengths.size if lengths.size else None,
        "norm_median": median if math.isfinite(median) else None,
        "norm_mean": float(finite.mean()) if finite.size else None,
    }


def _targets(out: Outcome) -> dict[str, Any]:
    """The share of the attacked images that reached the designated class, with its interval."""
    if out.reached is None or not out.attacked:
        return dict.fromkeys(("targeted_success", "targeted_success_low", "targeted_success_high"))
    hits = int(out.reached.sum())
    low, high = wilson_interval(hits, out.attacked, CONFIDENCE)
    rate = hits / out.attacked
    return {"targeted_success": rate, "targeted_success_low": low, "targeted_success_high": high}


def _members(out: Outcome, about: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """What each member of an ensemble did: given how many images, broke how many."""
    if out.broken_by is None:
        return None
    return [
        {"member": label, **share._asdict(), "seconds": round(share.seconds, 4)}
        for label, share in zip(about["members"], out.shares)
    ]
