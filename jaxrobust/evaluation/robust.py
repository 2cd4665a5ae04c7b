"""Standard, robust and adversarial risk: which images an attack fools, counted honestly.

Each attack is run on fixed-shape batches gathered on the host, and judged by the model on what it returned.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxrobust.evaluation import _engine, _programs, _provenance, _survivors, _tally, trust
from jaxrobust.evaluation._engine import Predictions, Subject
from jaxrobust.evaluation._tally import Outcome
from jaxrobust.evaluation._types import CLEAN, WORST, EvalAttack, Level, Report, Sample, Seen, Surrogate
from jaxrobust.evaluation._view import look
from jaxrobust.models import Precision, computes_in, in_precision, with_precision
from jaxrobust.numerics import losses
from jaxrobust.types import Model, PyTree


@in_precision
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
    draws: int = _engine.DRAWS,
    num_devices: int | None = None,
    precision: Precision = Precision.FLOAT32,
    surrogates: Mapping[str, Surrogate] | None = None,
    model_name: str = "model",
    dataset_name: str = "",
    fingerprint: str = "",
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
    the model, asked again, is wrong about it (so a minimum-norm attack counts what it found within the
    radius of its ball); of an ensemble, each member sees the images that the members before it left right.
    Logits that are not finite are wrong, and so is an image on whose way the attack met NaN (`nonfinite` in
    the rows counts both). Results do not depend on the batch size, nor on which other attacks are run: row i
    of an attack draws from `fold_in(fold_in(key(seed), crc32(name)), i)`.

    The images are divided over the devices of this host and over the processes of `jax.distributed`, where
    there are several: each must then make this call with the same arguments, and each gets the whole report.

    Rows of minimum-norm attacks (`minimum_norm`) also have `norm` (0, 1, 2 or "inf"), `found`, the share of
    the images right from the start for which the model is wrong about what was found, at any distance, and in
    the norm's own units `norm_median`, a failure counting as infinitely far (None where half failed), and
    `norm_mean` over what was found. Rows of targeted attacks have `targeted_success`, the share of the
    attacked images that reached their class within the radius; rows of ensembles `broken_by`, how many images
    each member was given and broke.

    Args:
        model: a `types.Model`; a foreign one through `models.from_callable`.
        params, stats: its weights; arguments of the compiled programs, which other weights use again.
        images: uint8 `[n, h, w, c]`, or float in [0, 1], or a lazy source (`len`, `[i] -> [h, w, c]`).
        labels: integers `[n]` in [0, k).
        attacks: `EvalAttack`s by name, e.g. from `suites.suite`; the clean row `none` is always there.
        batch_size: rows per compiled call on this host, all its devices together, rounded up to a multiple of
            their number; the last batch is padded and its padding masked. On CPU the members of an ensemble
            take some 32 rows at a time, of which fewer are padding when few images are left.
        seed: of every draw.
        robust_risk: also attack every image against C(x), for R_rob; about doubles the time.
        trust_checks: look for the signs of an evaluation that cannot be trusted (see `trust`).
        refuse_batch_dependent: raise where the logits of an image depend on its batch; False warns.
        num_samples: images kept for the gallery, the first of each class that the model has right.
        keep_images: keep all adversarial images (float32, n images per attack) in the report.
        draws: of a random model (`Model.random`): the mean logits over so many draws are attacked, with the
            mean of their gradients (EOT, arXiv 1707.07397), and the mean over so many others judges.
        num_devices: devices of this host to use; None for all.
        precision: in which the model computes, for the attacks and for the judge alike; rows record it.
        surrogates: other models of the same task by name, whose adversarial images the trust check `transfer`
            tries on this one.
        model_name, dataset_name, class_names: for the report.
        fingerprint: of the data set, for the report and for saved images; see `data.Dataset`.
        progress_fn: called as `progress_fn(attack, done, total)` after every batch, of this process's images.

    Returns:
        A `Report`: rows, per-example flags, samples and verdicts.

    Raises:
        ValueError: empty set, pixels out of [0, 1], labels out of range, more devices than there are, a model
            whose logits of an image depend on the other images of its batch.

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
    model = with_precision(model, precision)
    subject = _engine.subject(
        model,
        params,
        stats,
        images,
        labels,
        batch_size=batch_size,
        seed=seed,
        draws=draws,
        num_devices=num_devices,
    )
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
    shared = _tally.common(subject, model_name, dataset_name) | {"precision": computes_in(model, precision)}
    entries = {CLEAN: EvalAttack(None), **attacks}
    about = {name: _tally.facts(entry.attack, entry.every_image) for name, entry in entries.items()}
    rows = [_tally.row(name, out, about[name], right, shared) for name, out in outcomes.items()]
    rows.append({**dict.fromkeys(rows[0]), **_tally.worst_row(outcomes, about, right, shared)})
    meta = {
        **shared,
        "fingerprint": fingerprint,
        "class_names": list(class_names) or [str(i) for i in range(model.num_classes)],
        "image_shape": list(model.image_shape),
        "num_classes": model.num_classes,
        "radius": {name: _provenance.radius_label(entry.attack) for name, entry in attacks.items()},
    }
    report = Report(
        rows=tuple(rows),
        flags=_tally.flags(subject, outcomes),
        samples=_samples(subject, clean, outcomes, chosen),
        meta=meta,
        images={name: out.images for name, out in outcomes.items() if out.images is not None},
    )
    if not trust_checks:
        return report
    return replace(report, verdicts=trust.check(look(subject, attacks, report, surrogates)))


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
) -> Outcome:
    """One attack on the images it counts, and, if asked, on every image against C(x)."""
    assert entry.attack is not None
    right = clean.correct(s.labels)
    index = np.arange(s.n) if entry.every_image else np.flatnonzero(right)
    targets = _targets(entry, clean, s.labels)
    keep = range(s.n) if keep_images else chosen
    found, shares, broken_by = _survivors.run_attack(
        s, name, entry.attack, index, targets[index], keep=keep, progress_fn=progress_fn
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
    length = np.where(found.seen.correct(s.labels[index]), np.inf, found.length).astype(np.float32)
    reached = inside & (found.seen.prediction == targets[index])
    is_ensemble = _survivors.is_ensemble(entry.attack)
    return Outcome(
        correct=spread(correct, right),
        correct_8bit=spread(correct_8bit, right),
        prediction=spread(found.seen.prediction, clean.prediction),
        distance=spread(found.distance, np.full(s.n, np.nan, np.float32)),
        attacked=len(index),
        nonfinite=int(np.sum(~found.seen.finite)),
        moved=_moved(s, name, entry, clean, progress_fn) if robust_risk else None,
        length=spread(length, np.zeros(s.n, np.float32)) if _programs.is_minimum_norm(entry.attack) else None,
        target=None if entry.target_fn is None else targets,
        reached=None if entry.target_fn is None else reached,
        broken_by=spread(broken_by, np.full(s.n, -1, np.int32)) if is_ensemble else None,
        shares=shares,
        low=found.low,
        high=found.high,
        seconds=found.seconds,
        images_per_second=found.images_per_second,
        compiled=found.compiled,
        images=_all_images(s, found.images) if keep_images else None,
        seen={
            int(index[at]): Seen(
                image=found.images[int(index[at])],
                prediction=int(found.seen.prediction[at]),
                confidence=float(found.seen.confidence[at]),
            )
            for at in np.flatnonzero(np.isin(index, chosen))
        },
    )


def _targets(entry: EvalAttack, clean: Predictions, labels: np.ndarray) -> np.ndarray:
    """What each image is led away from, or, of a targeted attack, to."""
    if entry.target_fn is None:
        return labels
    targets = np.asarray(entry.target_fn(clean.logits, labels))
    if targets.shape != labels.shape or not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(
            f"Expected target_fn to give one integer class per image [{len(labels)}], got {targets.dtype} of "
            f"shape {targets.shape}."
        )
    losses.check_labels(targets, clean.logits.shape[-1])
    return targets.astype(np.int32)


def _all_images(s: Subject, found: Mapping[int, np.ndarray]) -> np.ndarray:
    """The images of the whole set, clean where they were not attacked."""
    kept = _engine.gather(s.images, np.arange(s.n))
    for row, image in found.items():
        kept[row] = image
    return kept


def _moved(s: Subject, name: str, entry: EvalAttack, clean: Predictions, progress_fn) -> np.ndarray:
    """max over x' of 1{C(x') != C(x)}, eq. (3), for every image; the same draws as against the label."""
    index, targets = np.arange(s.n), _targets(entry, clean, clean.prediction)
    assert entry.attack is not None
    found = _survivors.run_attack(s, name, entry.attack, index, targets, progress_fn=progress_fn).found
    return (~found.seen.correct(clean.prediction) | ~clean.finite) & found.inside()


def _clean_outcome(s: Subject, clean: Predictions, robust_risk: bool) -> Outcome:
    """The clean images; they are the only candidates, so nothing moves."""
    return Outcome(
        correct=clean.correct(s.labels),
        correct_8bit=_engine.predict_rows(s, np.arange(s.n), rounded=True).correct(s.labels),
        prediction=clean.prediction,
        distance=np.zeros(s.n, np.float32),
        attacked=0,
        nonfinite=int(np.sum(~clean.finite)),
        moved=~clean.finite if robust_risk else None,
    )


def _first_of_each_class(s: Subject, right: np.ndarray, num: int) -> np.ndarray:
    """For the gallery, chosen before any attack: the first image that is right of each class, by class."""
    firsts = [np.flatnonzero(right & (s.labels == label))[:1] for label in np.unique(s.labels)]
    chosen = np.concatenate(firsts) if firsts else np.zeros(0, int)
    return chosen[:num]


def _samples(
    s: Subject, clean: Predictions, outcomes: Mapping[str, Outcome], chosen: np.ndarray
) -> tuple[Sample, ...]:
    samples = []
    for i in map(int, chosen):
        image = _engine.gather(s.images, np.array([i]))[0]
        start = Seen(image=image, prediction=int(clean.prediction[i]), confidence=float(clean.confidence[i]))
        attacked = {name: out.seen.get(i, start) for name, out in outcomes.items() if name != CLEAN}
        samples.append(Sample(index=i, label=int(s.labels[i]), clean=start, attacked=attacked))
    return tuple(samples)
