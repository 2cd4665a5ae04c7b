"""Standard, robust and adversarial risk: which images an attack fools, counted honestly.

Each attack is run on fixed-shape batches gathered on the host, and judged by the model on what it returned.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.evaluation import _engine, _provenance, trust
from jaxrobust.evaluation._engine import Predictions, Subject
from jaxrobust.evaluation._types import CLEAN, WORST, EvalAttack, Level, Report, Sample, Seen
from jaxrobust.evaluation._view import look
from jaxrobust.numerics.metrics import wilson_interval
from jaxrobust.types import Attack, Model, PyTree

CONFIDENCE = 0.95


class _Outcome(NamedTuple):
    """One attack on the whole set by row; `moved` is 1{C(x') != C(x)} of eq. (3), None where not asked."""

    correct: np.ndarray
    correct_8bit: np.ndarray
    prediction: np.ndarray
    distance: np.ndarray
    moved: np.ndarray | None
    attacked: int
    nonfinite: int
    low: float
    high: float
    seconds: float
    images_per_second: float
    compiled: bool
    images: np.ndarray | None
    seen: dict[int, Seen]


def evaluate(
    model: Model,
    params: PyTree,
    stats: PyTree,
    images: Any,
    labels: np.ndarray,
    attacks: Mapping[str, EvalAttack],
    *,
    batch_size: int,
    seed: int,
    robust_risk: bool = False,
    trust_checks: bool = True,
    refuse_batch_dependent: bool = True,
    num_samples: int = 10,
    keep_images: bool = False,
    model_name: str = "model",
    dataset_name: str = "",
    class_names: tuple[str, ...] = (),
    progress_fn: Callable[[str, int, int], None] | None = None,
) -> Report:
    """Measures a model under attacks: the three risks of CN111401445A with 95% Wilson intervals.

    Per example, over a set D, with N(x) searched by the attack and x itself among the candidates:
    (1) `R_stand = E[1{C(x) != y}]`, (3) `R_rob = E[max_{x'} 1{C(x') != C(x)}]`,
    (5) `R_adv = E[max_{x'} 1{C(x') != y}]`, tied by (6) `R_adv(x) = R_stand(x) + (1 - R_stand(x)) R_rob(x)`,
    which is checked on what was measured.

    Accuracy and R_adv attack the images that are right before the attack (an attack with `every_image`
    attacks all, and its accuracy counts the attacked image alone). The last row, `worst`, is the per-example
    worst over all attacks and the clean image. A found image counts if it lies inside the neighbourhood and
    the model, asked again, is wrong about it; logits that are not finite are wrong, and so is an image on
    whose way the attack met NaN (`nonfinite` in the rows counts both). Results do not depend on the batch
    size, nor on which other attacks are run: row i of an attack draws from
    `fold_in(fold_in(key(seed), crc32(name)), i)`.

    Args:
        model: a `types.Model`; a foreign one through `models.from_callable`.
        params, stats: its weights; arguments of the compiled programs, which other weights use again.
        images: uint8 `[n, h, w, c]`, or float in [0, 1], or a lazy source (`len`, `[i] -> [h, w, c]`).
        labels: integers `[n]` in [0, k).
        attacks: `EvalAttack`s by name, e.g. from `suites.suite`; the clean row `none` is always there.
        batch_size: rows per compiled call; the last batch is padded and its padding masked.
        seed: of every draw.
        robust_risk: also attack every image against C(x), for R_rob; about doubles the time.
        trust_checks: look for the signs of an evaluation that cannot be trusted (see `trust`).
        refuse_batch_dependent: raise where the logits of an image depend on its batch; False warns.
        num_samples: images kept for the gallery, the first of each class that the model has right.
        keep_images: keep all adversarial images (float32, n images per attack) in the report.
        model_name, dataset_name, class_names: for the report.
        progress_fn: called as `progress_fn(attack, done, total)` after every batch.

    Returns:
        A `Report`: rows, per-example flags, samples and verdicts.

    Raises:
        ValueError: empty set, pixels out of [0, 1], labels out of range, a model whose logits of an image
            depend on the other images of its batch.

    >>> import jax.numpy as jnp, numpy as np
    >>> from jaxrobust.types import Model, Outputs
    >>> def apply(w, stats, x, *, train, keys=None, axis_name=None):
    ...     return Outputs(x.reshape(len(x), -1) @ w), stats
    >>> model = Model(lambda key: (None, {}), apply, (1, 2, 1), 2)
    >>> images = np.array([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 1, 2, 1)
    >>> report = evaluate(model, jnp.eye(2), {}, images, np.array([0, 1]), {}, batch_size=2, seed=0)
    >>> report.row("none")["accuracy"]
    1.0
    """
    subject = _engine.subject(model, params, stats, images, labels, batch_size=batch_size, seed=seed)
    attacks = _checked(attacks)
    if refuse_batch_dependent:
        _refuse(trust.batch_independence(look(subject, {})))
    clean = _engine.predict_set(subject)
    right = clean.correct(subject.labels)
    chosen = _first_of_each_class(subject, right, num_samples)
    outcomes = {
        name: _run(subject, name, entry, clean, chosen, robust_risk, keep_images, progress_fn)
        for name, entry in attacks.items()
    }
    outcomes = {CLEAN: _clean_outcome(subject, clean, robust_risk), **outcomes}
    common = _common(subject, model_name, dataset_name)
    entries = {CLEAN: EvalAttack(None), **attacks}
    rows = [_row(name, out, entries[name], right, common) for name, out in outcomes.items()]
    rows.append({**dict.fromkeys(rows[0]), **_worst_row(outcomes, entries, right, common)})
    meta = {
        **common,
        "class_names": list(class_names) or [str(i) for i in range(model.num_classes)],
        "image_shape": list(model.image_shape),
        "num_classes": model.num_classes,
        "radius": {name: _provenance.radius_label(entry.attack) for name, entry in attacks.items()},
    }
    report = Report(
        rows=tuple(rows),
        flags=_flags(subject, outcomes),
        samples=_samples(subject, clean, outcomes, chosen),
        meta=meta,
        images={name: out.images for name, out in outcomes.items() if out.images is not None},
    )
    if not trust_checks:
        return report
    return replace(report, verdicts=trust.check(look(subject, attacks, report)))


def _checked(attacks: Mapping[str, EvalAttack]) -> dict[str, EvalAttack]:
    """The attacks without the clean entry, which is always measured."""
    for name, entry in attacks.items():
        if name == WORST:
            raise ValueError(f"The name {WORST!r} is taken by the worst over all attacks. Choose another.")
        if not isinstance(entry, EvalAttack):
            raise ValueError(f"Expected an EvalAttack under {name!r}, got {type(entry).__name__}. Wrap it.")
    return {name: entry for name, entry in attacks.items() if entry.attack is not None}


def _refuse(verdict) -> None:
    if verdict.level == Level.FAIL:
        raise ValueError(
            f"{verdict.advice} To measure it all the same: --allow-batch-dependent on the command line, "
            "refuse_batch_dependent=False in Python."
        )


def _run(
    s: Subject,
    name: str,
    entry: EvalAttack,
    clean: Predictions,
    chosen: np.ndarray,
    robust_risk: bool,
    keep_images: bool,
    progress_fn,
) -> _Outcome:
    """One attack on the images it counts, and, if asked, on every image against C(x)."""
    assert entry.attack is not None
    right = clean.correct(s.labels)
    index = np.arange(s.n) if entry.every_image else np.flatnonzero(right)
    found = _engine.run_attack(
        s,
        name,
        entry.attack,
        index,
        s.labels[index],
        keep=range(s.n) if keep_images else chosen,
        progress_fn=progress_fn,
    )
    inside = found.inside()

    def spread(values, start):
        # Rows that were not attacked keep what the clean image gave.
        full = np.array(start)
        full[index] = values
        return full

    # An image outside the neighbourhood is no success: the row falls back to the clean image.
    correct = np.where(inside, found.seen.correct(s.labels[index]), right[index])
    correct_8bit = np.where(inside, found.seen_8bit.correct(s.labels[index]), right[index])
    seen = {
        int(index[at]): Seen(
            image=found.images[int(index[at])],
            prediction=int(found.seen.prediction[at]),
            confidence=float(found.seen.confidence[at]),
        )
        for at in np.flatnonzero(np.isin(index, chosen))
    }
    kept = None
    if keep_images:
        kept = _engine.gather(s.images, np.arange(s.n))
        for row, image in found.images.items():
            kept[row] = image
    return _Outcome(
        correct=spread(correct, right),
        correct_8bit=spread(correct_8bit, right),
        prediction=spread(found.seen.prediction, clean.prediction),
        distance=spread(found.distance, np.full(s.n, np.nan, np.float32)),
        moved=_moved(s, name, entry.attack, clean, progress_fn) if robust_risk else None,
        attacked=len(index),
        nonfinite=int(np.sum(~found.seen.finite)),
        low=found.low,
        high=found.high,
        seconds=found.seconds,
        images_per_second=found.images_per_second,
        compiled=found.compiled,
        images=kept,
        seen=seen,
    )


def _moved(s: Subject, name: str, attack: Attack, clean: Predictions, progress_fn) -> np.ndarray:
    """max over x' of 1{C(x') != C(x)}, eq. (3), for every image; the same draws as against the label."""
    index = np.arange(s.n)
    found = _engine.run_attack(s, name, attack, index, clean.prediction, progress_fn=progress_fn)
    return (~found.seen.correct(clean.prediction) | ~clean.finite) & found.inside()


def _clean_outcome(s: Subject, clean: Predictions, robust_risk: bool) -> _Outcome:
    right = clean.correct(s.labels)
    rounded = [
        _engine.predict(s, _engine.to_8bit(_engine.gather(s.images, rows))).correct(s.labels[rows])
        for rows in np.split(np.arange(s.n), range(s.batch_size, s.n, s.batch_size))
    ]
    # The clean image is the only candidate, so nothing moves.
    moved = ~clean.finite if robust_risk else None
    return _Outcome(
        right, np.concatenate(rounded), clean.prediction, np.zeros(s.n, np.float32), moved, 0,
        int(np.sum(~clean.finite)), math.nan, math.nan, 0.0, 0.0, False, None, {},
    )  # fmt: skip


def _rate(name: str, hits: np.ndarray) -> dict[str, float]:
    low, high = wilson_interval(int(hits.sum()), len(hits), CONFIDENCE)
    return {name: float(hits.mean()), f"{name}_low": low, f"{name}_high": high}


def _common(s: Subject, model_name: str, dataset_name: str) -> dict[str, Any]:
    return {
        "model": model_name, "dataset": dataset_name, "n": s.n, "seed": s.seed, "batch_size": s.batch_size,
        "confidence": CONFIDENCE, "versions": _provenance.versions(), "hardware": _provenance.hardware(),
    }  # fmt: skip


def _risks(adv: np.ndarray, moved: np.ndarray | None, right: np.ndarray) -> dict[str, Any]:
    """R_stand, R_adv and R_rob, and how many images break (6)."""
    risks = {**_rate("r_stand", ~right), **_rate("r_adv", adv)}
    if moved is None:
        return {**risks, "r_rob": None, "r_rob_low": None, "r_rob_high": None, "identity_violations": None}
    stand = ~right
    violations = int(np.sum(adv != (stand | (right & moved))))
    return {**risks, **_rate("r_rob", moved), "identity_violations": violations}


def _row(
    name: str, out: _Outcome, entry: EvalAttack, right: np.ndarray, common: dict[str, Any]
) -> dict[str, Any]:
    fooled = right & ~out.correct & np.isfinite(out.distance) if name != CLEAN else np.zeros_like(right)
    distances = out.distance[fooled]
    return {
        "attack": name,
        **common,
        "attacked": out.attacked,
        "every_image": entry.every_image,
        "correct": int(out.correct.sum()),
        **_rate("accuracy", out.correct),
        "accuracy_8bit": float(out.correct_8bit.mean()),
        **_risks(~out.correct | ~right, out.moved, right),
        "distance_mean": float(distances.mean()) if distances.size else None,
        "distance_median": float(np.median(distances)) if distances.size else None,
        "outside": int(np.sum(out.distance > 1 + _engine.RADIUS_TOLERANCE)),
        "pixel_low": None if math.isnan(out.low) else out.low,
        "pixel_high": None if math.isnan(out.high) else out.high,
        "nonfinite": out.nonfinite,
        "radius": _provenance.radius_label(entry.attack),
        "eps": _provenance.radii(entry.attack),
        "config": _provenance.describe(entry.attack),
        "seconds": round(out.seconds, 4),
        "images_per_second": round(out.images_per_second, 2),
        "compiled": out.compiled,
    }


def _worst_row(
    outcomes: dict[str, _Outcome],
    entries: Mapping[str, EvalAttack],
    right: np.ndarray,
    common: dict[str, Any],
) -> dict[str, Any]:
    """The per-example worst over all attacks, the clean image among the candidates."""
    robust = np.logical_and.reduce([out.correct for out in outcomes.values()])
    robust_8bit = np.logical_and.reduce([out.correct_8bit for out in outcomes.values()])
    moves = [out.moved for out in outcomes.values() if out.moved is not None]
    moved = np.logical_or.reduce(moves) if moves else None
    return {
        "attack": WORST,
        **common,
        "over": list(outcomes),
        "radius": "",
        "eps": [radius for name in outcomes for radius in _provenance.radii(entries[name].attack)],
        "attacked": max(out.attacked for out in outcomes.values()),
        "every_image": False,
        "correct": int(robust.sum()),
        **_rate("accuracy", robust),
        "accuracy_8bit": float(robust_8bit.mean()),
        **_risks(~robust, moved, right),
        "nonfinite": sum(out.nonfinite for out in outcomes.values()),
        "seconds": round(sum(out.seconds for out in outcomes.values()), 4),
    }


def _flags(s: Subject, outcomes: dict[str, _Outcome]) -> dict[str, np.ndarray]:
    flags = {"label": s.labels}
    for name, out in outcomes.items():
        flags[f"correct/{name}"] = out.correct
        flags[f"correct_8bit/{name}"] = out.correct_8bit
        flags[f"prediction/{name}"] = out.prediction
        flags[f"distance/{name}"] = out.distance
        if out.moved is not None:
            flags[f"moved/{name}"] = out.moved
    flags[f"correct/{WORST}"] = np.logical_and.reduce([out.correct for out in outcomes.values()])
    return flags


def _first_of_each_class(s: Subject, right: np.ndarray, num: int) -> np.ndarray:
    """For the gallery, chosen before any attack: the first image that is right of each class, by class."""
    firsts = [np.flatnonzero(right & (s.labels == label))[:1] for label in np.unique(s.labels)]
    chosen = np.concatenate(firsts) if firsts else np.zeros(0, int)
    return chosen[:num]


def _samples(
    s: Subject, clean: Predictions, outcomes: dict[str, _Outcome], chosen: np.ndarray
) -> tuple[Sample, ...]:
    samples = []
    for i in map(int, chosen):
        image = _engine.gather(s.images, np.array([i]))[0]
        start = Seen(image=image, prediction=int(clean.prediction[i]), confidence=float(clean.confidence[i]))
        attacked = {name: out.seen.get(i, start) for name, out in outcomes.items() if name != CLEAN}
        samples.append(Sample(index=i, label=int(s.labels[i]), clean=start, attacked=attacked))
    return tuple(samples)
