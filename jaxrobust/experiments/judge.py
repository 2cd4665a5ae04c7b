"""What a run is worth: risks, curves and certificates on test images, its own or stored ones."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrobust import _validate, data, evaluation
from jaxrobust.attacks import PGD, GridSearch
from jaxrobust.evaluation import EvalAttack, Report, ThreatModel
from jaxrobust.experiments.run import Run, load_data
from jaxrobust.models import Precision, in_precision, with_precision
from jaxrobust.training.runtime import agree

# Accuracy against radius is drawn on this many images: six radii cost as much as six attacks.
CURVE_IMAGES = 500


@in_precision
def evaluate_run(
    run: Run,
    *,
    attacks: Sequence[str] | None = None,
    dataset: str | None = None,
    num: int | None = None,
    data_dir: str | os.PathLike | None = None,
    changes: dict[str, Any] | None = None,
    batch_size: int = 250,
    precision: Precision = Precision.FLOAT32,
    seed: int = 0,
    robust_risk: bool = False,
    curves: bool = False,
    trust_checks: bool = True,
    name: str | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    refuse_batch_dependent: bool = True,
    save_adversarial: str | os.PathLike | None = None,
    transfer_from: Sequence[Run] = (),
    certify: float | None = None,
    certify_draws: int = 1_000,
    num_devices: int | None = None,
    log_fn: Callable[[str], None] = lambda text: None,
) -> Report:
    """Measures a run on test images, on all devices of all hosts.

    With several processes every one calls this, and process 0 alone writes the adversarial images.

    Args:
        run: from `load_run` or `train`.
        attacks: names that `evaluation.parse` reads; None for the experiment's.
        dataset: another set with images of the same shape and as many classes; None for the
            run's own, as it was at training.
        num: the first so many test images; None for all.
        data_dir: the folder of prepared sets; None reads TFDS_DATA_DIR.
        changes: fields of the experiment's `ThreatModel` to replace, e.g. `{"eps": 0.1}`. Radii of other
            balls that it lacks are those of `THREATS` under the name of the run's data set.
        batch_size: rows per compiled call on this host, all its devices together.
        precision: in which the run's model computes, for attacks, judge, curves and certificates alike.
        seed: of the attacks.
        robust_risk: also R_rob, eq. (3).
        curves: also accuracy against radius: under the longest PGD in each ball and the first grid, where
            there are such among the attacks, on the first 500 images; under minimum-norm attacks, whose one
            run has it, on all.
        trust_checks: as in `evaluation.evaluate`.
        name: of the model in the report; None for the folder's.
        size, channels: as `data.load` takes them; None for what the run's own images were made.
        refuse_batch_dependent: raise where the logits of an image depend on its batch; False warns.
        save_adversarial: an .npz file, or a folder, for the adversarial images; None keeps none.
        transfer_from: other runs, whose adversarial images the trust check `transfer` tries on this one.
        certify: also certificates by randomised smoothing under noise of this deviation, in pixels.
        certify_draws: noisy copies of each image that a certificate rests on.
        num_devices: devices of this host to use; None for all.
        log_fn: receives a line where class names of another set differ, and where images were saved.

    Returns:
        The `Report`.

    Raises:
        ValueError: for unknown attacks, radii out of range, images that do not fit the model, or the run's
            own set where it is no longer what it was at training.
    """
    run = dataclasses.replace(run, model=with_precision(run.model, precision))
    threat = dataclasses.replace(_threat(run), **(changes or {}))
    names = tuple(run.experiment.attacks if attacks is None else attacks)
    suite = evaluation.suite(names, threat)
    found = test_set(run, dataset, data_dir, {"size": size, "channels": channels}, log_fn)
    images, labels = found.test.images, found.test.labels
    if num is not None:
        _validate.at_least("num", num, 1)
        images, labels = images[:num], labels[:num]
    how: dict[str, Any] = {
        "batch_size": min(batch_size, len(labels)),
        "seed": seed,
        "num_devices": num_devices,
    }
    _check_counts(suite, run.model.image_shape)
    surrogates = _surrogates(run, transfer_from)
    if certify is not None:
        evaluation.check_smoothing(sigma=certify, num_certify=certify_draws)
    if save_adversarial is not None:
        _check_place(Path(save_adversarial))
    report = evaluation.evaluate(
        run.model,
        run.params,
        run.stats,
        images,
        labels,
        suite,
        precision=precision,
        robust_risk=robust_risk,
        trust_checks=trust_checks,
        refuse_batch_dependent=refuse_batch_dependent,
        keep_images=save_adversarial is not None,
        surrogates=surrogates,
        model_name=name or run.folder.name,
        dataset_name=found.name,
        fingerprint=found.fingerprint,
        class_names=run.class_names,
        **how,
    )
    if save_adversarial is not None:
        if jax.process_index() == 0:
            file = evaluation.save_adversarial(report, Path(save_adversarial), images)
            log_fn(f"Adversarial images: {file}")
        report = dataclasses.replace(report, images={})
    if certify is not None:
        report = _certified(run, report, images, labels, certify, certify_draws, how)
    if not curves:
        return report
    drawn = _curves(run, suite, images, labels, how)
    nearest = [row["attack"] for row in report.rows if row["minimum_norm"]]
    return dataclasses.replace(
        report,
        curves=(*drawn, *(evaluation.curve_of(report, attack) for attack in nearest), *report.curves),
    )


def _check_place(path: Path) -> None:
    """Refuses a place for adversarial images that process 0 cannot write, on every process."""
    message = ""
    if jax.process_index() == 0:
        try:
            evaluation.adversarial_file(path)
        except ValueError as error:
            message = str(error)
    # The others would wait for its rows.
    if agree(np.array(bool(message))):
        raise ValueError(message or f"Process 0 cannot write {path}. Choose another place.")


def _check_counts(suite: Mapping[str, EvalAttack], image_shape: tuple[int, int, int]) -> None:
    """Refuses radii that no image has: more changed values than there are, l2 beyond the farthest corner."""
    height, width, channels = image_shape
    for name, entry in suite.items():
        ball: Any = getattr(entry.attack, "neighbourhood", None)
        norm = getattr(ball, "norm", None)
        most: float | None = None
        if norm == 0:
            most = height * width * (channels if getattr(ball, "features", False) else 1)
        elif norm == 2:
            most = math.sqrt(height * width * channels)
        if most is not None and ball.eps > most:
            limit = "more to change" if norm == 0 else "two points farther apart"
            raise ValueError(
                f"Expected {name} with eps <= {most:g}, got eps={ball.eps:g}: images {list(image_shape)} "
                f"have no {limit}. Use a smaller radius."
            )


def _surrogates(run: Run, others: Sequence[Run]) -> dict[str, evaluation.Surrogate]:
    """Other runs by the names of their folders; they must take the same images and know as many classes."""
    for other in others:
        theirs, ours = ((tuple(one.model.image_shape), one.model.num_classes) for one in (other, run))
        if theirs != ours:
            raise ValueError(
                f"{other.folder} takes images {list(theirs[0])} of {theirs[1]} classes, {run.folder} "
                f"{list(ours[0])} of {ours[1]}; images transfer between models of one task only."
            )
    return {one.folder.name: evaluation.Surrogate(one.model, one.params, one.stats) for one in others}


def _certified(
    run: Run,
    report: Report,
    images: Any,
    labels: np.ndarray,
    sigma: float,
    draws: int,
    how: Mapping[str, Any],
) -> Report:
    """The report with a certificate, at 0 and four radii up to the largest that so many draws can certify."""
    found = evaluation.certify(
        run.model, run.params, run.stats, images, labels, sigma=sigma, num_certify=draws, **how
    )
    row = evaluation.certificate_row(found)
    radii = [row["largest_radius"] * share for share in (0.0, 0.25, 0.5, 0.75, 0.95)]
    return dataclasses.replace(
        report,
        certificate={**row, "radii": evaluation.certified_accuracy(found, radii)},
        curves=(*report.curves, evaluation.certified_curve(found)),
    )


@in_precision
def evaluate_stored(
    run: Run,
    path: str | os.PathLike,
    *,
    num: int | None = None,
    batch_size: int = 250,
    precision: Precision = Precision.FLOAT32,
    name: str | None = None,
    num_devices: int | None = None,
    log_fn: Callable[[str], None] = lambda text: None,
) -> Report:
    """What a run makes of saved adversarial images, of its own or of another model.

    Args:
        run: from `load_run` or `train`.
        path: the file, or its folder.
        num: the first so many images; None for all.
        batch_size, precision, name, num_devices: as in `evaluate_run`.
        log_fn: receives a line where the images are of other data than the run was trained on, or name their
            classes otherwise.

    Raises:
        ValueError: for a file that is none, or images that do not fit the model.
    """
    stored = evaluation.load_adversarial(Path(path))
    if num is not None:
        _validate.at_least("num", num, 1)
        stored = stored.first(num)
    if stored.clean.shape[1:] != tuple(run.model.image_shape):
        raise ValueError(
            f"{path} has images {list(stored.clean.shape[1:])}, the model takes "
            f"{list(run.model.image_shape)}; save them from a model of this shape."
        )
    fingerprint = stored.about["fingerprint"]
    if fingerprint and run.fingerprint and fingerprint != run.fingerprint:
        log_fn(
            f"Warning: {path} was made of {stored.about['dataset']} (fingerprint {fingerprint}), the run was "
            f"trained on other data ({run.fingerprint}): its images may have been among them."
        )
    if tuple(stored.about["class_names"]) != tuple(run.class_names):
        log_fn(
            f"Warning: {path} names its classes otherwise than the run's data; labels are compared by index."
        )
    rows = min(batch_size, len(stored.labels))
    return evaluation.evaluate_adversarial(
        run.model,
        run.params,
        run.stats,
        stored,
        batch_size=rows,
        model_name=name or run.folder.name,
        precision=precision,
        num_devices=num_devices,
    )


def _threat(run: Run) -> ThreatModel:
    """The run's threat model, with the published radii of its data set where it has none of a ball."""
    own, dataset = run.experiment.threat, run.experiment.data.dataset
    known = evaluation.THREATS.get(dataset.partition(":")[0].partition("/")[0])
    if known is None:
        return own
    lacking = {
        name: getattr(known, name)
        for name in ("eps_linf", "eps_l2", "eps_l0")
        if getattr(own, name) is None and name != f"eps_{own.ball}"
    }
    return dataclasses.replace(own, **lacking)


def test_set(
    run: Run,
    dataset: str | None,
    data_dir: str | os.PathLike | None,
    options: Mapping[str, Any],
    log_fn: Callable[[str], None],
) -> data.Dataset:
    """The run's own data as it was trained on, or another set that fits its model; see `evaluate_run`."""
    options = {name: value for name, value in options.items() if value is not None}
    if dataset is None or dataset == run.experiment.image_data.dataset:
        config = dataclasses.replace(run.experiment.image_data, **options)
        found = load_data(config, data_dir)
    else:
        # Which of its own images are test images is the other set's affair.
        own = {k: v for k, v in run.experiment.image_data.options.items() if k != "test_fraction"}
        folder = None if data_dir is None else Path(data_dir)
        found = data.load(dataset, data_dir=folder, **{**own, **options})
    if found.image_shape != run.model.image_shape:
        raise ValueError(
            f"{found.name} has images {list(found.image_shape)}, "
            f"the model takes {list(run.model.image_shape)}; convert them (--size, --channels)."
        )
    if found.num_classes != run.model.num_classes:
        raise ValueError(
            f"{found.name} has {found.num_classes} classes, the model knows {run.model.num_classes}."
        )
    renamed = [
        f"{i}: {a} -> {b}" for i, (a, b) in enumerate(zip(run.class_names, found.class_names)) if a != b
    ]
    if dataset is None and run.fingerprint not in ("", found.fingerprint):
        what = f"classes ({', '.join(renamed[:5])})" if renamed else "images, labels or their order"
        raise ValueError(
            f"{found.name} is not what the run was trained on: its {what} changed (fingerprint "
            f"{run.fingerprint}, now {found.fingerprint}), so test images may have been trained on. Restore "
            f"the set, or name it to evaluate on it all the same: --dataset {run.experiment.data.dataset}."
        )
    if renamed:
        log_fn(
            f"Warning: {found.name} names its classes otherwise than the run's data "
            f"({', '.join(renamed[:5])}); labels are compared by index."
        )
    return found


def _curves(
    run: Run,
    suite: Mapping[str, EvalAttack],
    images: Any,
    labels: np.ndarray,
    how: Mapping[str, Any],
) -> tuple[evaluation.Curve, ...]:
    """Of the longest PGD in each ball, and of the first grid."""
    longest: dict[Any, tuple[int, str, EvalAttack]] = {}
    for name, entry in suite.items():
        attack = entry.attack
        kind: Any
        if entry.target_fn is None and isinstance(attack, GridSearch):
            kind, length = "grid", 0
        elif entry.target_fn is None and isinstance(attack, PGD):
            kind, length = getattr(attack.neighbourhood, "norm", None), attack.steps * attack.restarts
        else:
            continue
        if length != 1 and (kind not in longest or length > longest[kind][0]):
            longest[kind] = (length, name, entry)
    return tuple(
        _curve(run, name, entry, images[:CURVE_IMAGES], labels[:CURVE_IMAGES], how)
        for _, name, entry in longest.values()
    )


def _curve(
    run: Run, name: str, entry: EvalAttack, images: Any, labels: np.ndarray, how: Mapping[str, Any]
) -> evaluation.Curve:
    return evaluation.accuracy_curve(
        run.model, run.params, run.stats, images, labels, entry, name=name, **how
    )


def curve_of_run(
    run: Run,
    attack: str,
    *,
    num: int | None = None,
    data_dir: str | os.PathLike | None = None,
    batch_size: int = 250,
    seed: int = 0,
) -> tuple[evaluation.Curve, np.ndarray]:
    """Accuracy of a run against the radii of one attack, on test images of its own set.

    With it which images, bool `[n]`, no radius up to the full one fools.

    Args:
        run: from `load_run` or `train`.
        attack: a name that `evaluation.parse` reads, of fixed radius.
        num, data_dir, batch_size, seed: as in `evaluate_run`.

    Raises:
        ValueError: as `evaluate_run` and `evaluation.accuracy_curve`.
    """
    name, entry = evaluation.parse(attack, _threat(run))
    found = test_set(run, None, data_dir, {}, lambda text: None)
    images, labels = found.test.images[:num], found.test.labels[:num]
    return evaluation.curve_and_flags(
        run.model,
        run.params,
        run.stats,
        images,
        labels,
        entry,
        name=name,
        batch_size=min(batch_size, len(labels)),
        seed=seed,
    )
