"""Runs: training an experiment into a folder, loading it again, evaluating it, predicting with it.

A run's folder holds `config.json` (the resolved configuration with the classes and the data's fingerprint),
`checkpoints/` (each with the same configuration), `metrics.jsonl`, `tensorboard/`, and `result.json` once
finished.
"""

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from jaxrobust import data, evaluation, models, training
from jaxrobust.experiments import codec
from jaxrobust.experiments._files import read_rows, write_text
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.training import Runtime, TrainState
from jaxrobust.training.runtime import agree
from jaxrobust.types import Model, PyTree

CONFIG_FILE, RESULT_FILE = "config.json", "result.json"
# Rows of a validation's compiled call; a larger batch gains nothing on CPU and costs memory on small devices.
_VALIDATION_BATCH = 250


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A trained model with what is needed to use it.

    Attributes:
        folder: the run's folder.
        experiment: what was trained.
        model: takes pixels in [0, 1].
        params, stats: its weights.
        step: the checkpoint they are from.
        class_names: one per class.
        validation: the validation metrics of that checkpoint, where there are any.
        fingerprint: of the data it was trained on, see `data.Dataset`; "" where unknown.
    """

    folder: Path
    experiment: Experiment
    model: Model
    params: PyTree
    stats: PyTree
    step: int
    class_names: tuple[str, ...]
    validation: Mapping[str, float] = field(default_factory=dict)
    fingerprint: str = ""

    @property
    def logits_fn(self) -> Callable[[jax.Array], jax.Array]:
        """`images [b, h, w, c] -> logits [b, k]`, for `jaxrobust.attack`; a pytree of its parameters."""
        return jax.tree_util.Partial(functools.partial(_logits, self.model), self.params, self.stats)


def _logits(model: Model, params: PyTree, stats: PyTree, images: jax.Array) -> jax.Array:
    return model.apply(params, stats, images, train=False)[0].logits


def train(
    experiment: Experiment,
    run_dir: str | os.PathLike,
    *,
    runtime: Runtime | None = None,
    data_dir: str | os.PathLike | None = None,
    resume: bool = True,
    init_from: str | os.PathLike | None = None,
    checkpoint_every: int | None = None,
    keep: int = 2,
    progress: bool = True,
    log_fn: Callable[[str], None] = lambda text: None,
) -> Run | None:
    """Trains an experiment, from its last checkpoint if it has one, and returns the best checkpoint.

    Best is the highest validation accuracy under `experiment.validation_attack` (clean accuracy without one);
    the test set is not read. A finished run is returned without training. With several processes, every one
    calls this; process 0 alone writes and reads the folder, so the others need not see its files.

    Args:
        experiment: what to train.
        run_dir: its folder, made if absent.
        runtime: where and how it executes; None for the default.
        data_dir: the folder of prepared sets; None reads TFDS_DATA_DIR.
        resume: False refuses a folder that has checkpoints.
        init_from: another run, a checkpoint, or a state dict of PyTorch (.safetensors, .npz) to start from;
            the run's configuration keeps its name and a hash of the weights, so resuming needs the same.
        checkpoint_every: steps between checkpoints; None for a tenth of the run.
        keep: how many of the newest checkpoints stay; the best stays besides.
        progress: show a bar.
        log_fn: receives a line at the start.

    Returns:
        The `Run` of the best checkpoint; None on every process but the first.

    Raises:
        ValueError: for a mistake in the configuration, the data or the folder.
        training.Diverged: when a metric is not finite.
        training.Interrupted: after SIGTERM, with the state saved.
    """
    runtime = runtime or Runtime()
    folder = Path(run_dir).absolute()
    _check_folder(folder, resume)
    dataset = load_data(experiment, data_dir)
    model = models.build(experiment.model, dataset.image_shape)
    model = models.with_precision(model, runtime.precision)
    _check_classes(experiment.model, dataset)
    parts = data.split(
        dataset.train,
        num_labelled=experiment.data.num_labelled,
        num_unlabelled=experiment.data.num_unlabelled,
        num_validation=experiment.data.num_validation,
        selection=experiment.data.selection,
        seed=experiment.data.seed,
    )
    feed = _feed(experiment, parts, runtime)
    weights = None if init_from is None else _weights(init_from, experiment.model, dataset.image_shape)
    config = _config(experiment, dataset) | _start(init_from, weights, model, runtime)
    checkpoints = training.Checkpoints(
        folder / "checkpoints",
        config=config,
        ignored=tuple(f"experiment.{name}" for name in codec.JUDGED),
        keep=keep,
        save_every=checkpoint_every or max(experiment.num_steps // 10, 1),
        best_metric=_best_metric(experiment) if experiment.data.num_validation else None,
    )
    # Only process 0 knows its checkpoints, and all must decide alike, or some would wait for the others.
    start = int(agree(np.array(checkpoints.latest_step() or 0)))
    log_fn(_opening(experiment, parts, feed, runtime, folder, start))
    if start >= experiment.num_steps:
        checkpoints.close()
        return load_run(folder) if runtime.is_main else None
    if runtime.is_main:
        _write_json(folder / CONFIG_FILE, config)
    began = time.monotonic()
    training.fit(
        model=model,
        objective=experiment.objective,
        optimizer=experiment.optimizer.build(experiment.num_steps),
        feed=feed,
        num_steps=experiment.num_steps,
        seed=experiment.seed,
        runtime=runtime,
        checkpoints=checkpoints,
        validate_fn=(
            _validate_fn(experiment, model, parts, runtime) if experiment.data.num_validation else None
        ),
        validate_every=_validate_every(experiment),
        sinks=(training.JsonLines(folder / "metrics.jsonl"), training.TensorBoard(folder / "tensorboard")),
        ema_decay=experiment.ema_decay,
        init_from=weights,
        progress=progress,
    )
    if not runtime.is_main:
        return None
    seconds = round(time.monotonic() - began, 2)
    _write_json(
        folder / RESULT_FILE, {"steps": experiment.num_steps, "seconds": seconds, "resumed_at": start}
    )
    return load_run(folder)


def load_run(path: str | os.PathLike, *, which: str = "best") -> Run:
    """Loads a run's best or last checkpoint, or one given checkpoint.

    Args:
        path: a run's folder, or one checkpoint `RUN/checkpoints/STEP`.
        which: `best` by validation, or `last`.

    Raises:
        ValueError: where there is no run, or its files cannot be read.
    """
    path = Path(path)
    folder, config = _find_config(path)
    try:
        experiment = codec.from_json(Experiment, config["experiment"])
        shape, names = tuple(config["image_shape"]), tuple(config["class_names"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG_FILE} is not the configuration of a run: {error!r}.") from error
    weights = training.restore_weights(path, best=which == "best")
    return Run(
        folder=folder,
        experiment=experiment,
        model=models.build(experiment.model, shape),
        params=weights.params,
        stats=weights.stats,
        step=weights.step,
        class_names=names,
        validation=_validation_at(folder, weights.step),
        fingerprint=str(config.get("fingerprint", "")),
    )


def is_finished(run_dir: str | os.PathLike, experiment: Experiment) -> bool:
    """Whether the folder holds this experiment, trained to its end from new weights in float32.

    A run whose batch normalisation saw micro-batches is another one.
    """
    folder = Path(run_dir)
    if not (folder / RESULT_FILE).is_file() or not (folder / CONFIG_FILE).is_file():
        return False
    try:
        found = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        otherwise = {"init_from": None, "precision": "float32", "micro_batches": 1}
        as_named = all(found.get(name, value) == value for name, value in otherwise.items())
        stored = codec.from_json(Experiment, found["experiment"])
        return as_named and codec.training_json(stored) == codec.training_json(experiment)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def load_data(experiment: Experiment, data_dir: str | os.PathLike | None) -> data.Dataset:
    """The images of an experiment."""
    # The seed of `load` draws test images where a set has none: fixed, or runs could not be compared.
    return data.load(
        experiment.data.dataset,
        data_dir=None if data_dir is None else Path(data_dir),
        seed=0,
        **experiment.data.options,
    )


def _check_classes(module: nn.Module, dataset: data.Dataset) -> None:
    given = module.num_classes
    if given != dataset.num_classes:
        raise ValueError(
            f"The model has {given} classes, {dataset.name} has {dataset.num_classes}; "
            f"add model.num_classes={dataset.num_classes}."
        )


def _check_folder(folder: Path, resume: bool) -> None:
    message = ""
    if folder.exists() and not folder.is_dir():
        message = f"{folder} is a file; give the run a folder."
    elif not resume and (folder / "checkpoints").is_dir():
        message = f"{folder} holds a run already. Resume it, or train into another folder (--run-dir)."
    # Process 0's folder is the run's; what lies at the path on other hosts does not count.
    if agree(np.array(bool(message))):
        raise ValueError(message or f"Process 0 refused the folder {folder}.")


def _feed(experiment: Experiment, parts: data.Split, runtime: Runtime) -> data.Feed:
    sizes = experiment.batch_sizes(
        len(parts.labelled.labels), len(parts.unlabelled), runtime.device_count, runtime.micro_batches
    )
    return data.make_feed(
        parts,
        sizes,
        experiment.seed,
        augment=experiment.augment,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def _config(experiment: Experiment, dataset: data.Dataset) -> dict[str, Any]:
    return {
        "experiment": codec.to_json(experiment),
        "image_shape": list(dataset.image_shape),
        "class_names": list(dataset.class_names),
        "fingerprint": dataset.fingerprint,
    }


def _start(
    init_from: str | os.PathLike | None,
    weights: tuple[PyTree, PyTree] | None,
    model: Model,
    runtime: Runtime,
) -> dict[str, Any]:
    """What else makes one run another: the weights it starts from, a precision below float32, and
    micro-batches where batch normalisation sees them."""
    start: dict[str, Any] = {"init_from": None}
    if init_from is not None:
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(leaf).tobytes())
        # The name and no more of the path: a folder that was moved holds the same weights.
        start["init_from"] = {"name": Path(init_from).name, "sha256": digest.hexdigest()[:16]}
    if runtime.precision.dtype != "float32":
        start["precision"] = runtime.precision.dtype
    if runtime.micro_batches > 1 and jax.eval_shape(model.init, jax.random.key(0))[1]:
        start["micro_batches"] = runtime.micro_batches
    return start


def _best_metric(experiment: Experiment) -> str:
    return "accuracy" if experiment.validation_attack is None else "robust_accuracy"


def _validate_every(experiment: Experiment) -> int:
    """0 in the configuration means once, at the end; 0 for `fit` means never."""
    if not experiment.data.num_validation:
        return 0
    return experiment.validate_every or experiment.num_steps


def _validate_fn(
    experiment: Experiment, model: Model, parts: data.Split, runtime: Runtime
) -> Callable[[TrainState], dict[str, float]]:
    """Clean and robust accuracy on the validation images."""
    attack = experiment.validation_attack
    attacks = {} if attack is None else {"attack": evaluation.EvalAttack(attack)}
    images, labels = parts.validation

    def validate(state: TrainState) -> dict[str, float]:
        params, stats = training.eval_weights(state)
        report = evaluation.evaluate(
            model,
            params,
            stats,
            images,
            labels,
            attacks,
            batch_size=min(_VALIDATION_BATCH, len(labels)),
            seed=experiment.seed,
            precision=runtime.precision,
            num_devices=runtime.num_devices,
            trust_checks=False,
            num_samples=0,
        )
        scores = {"accuracy": report.row("none")["accuracy"]}
        return scores if attack is None else {**scores, "robust_accuracy": report.row("attack")["accuracy"]}

    return validate


def _weights(
    path: str | os.PathLike, module: nn.Module, shape: tuple[int, int, int]
) -> tuple[PyTree, PyTree]:
    """(params, stats) of a run, a checkpoint, or a state dict of PyTorch."""
    path = Path(path)
    if path.suffix in (".safetensors", ".npz", ".pt", ".pth"):
        return models.load_state_dict(path, module, image_shape=shape)
    found = training.restore_weights(path)
    return found.params, found.stats


def _opening(
    experiment: Experiment, parts: data.Split, feed: data.Feed, runtime: Runtime, folder: Path, start: int
) -> str:
    counts = (len(parts.labelled.labels), len(parts.unlabelled), len(parts.validation.labels))
    how = f"resuming at step {start}" if start else "a new run"
    return (
        f"{experiment.data.dataset}: {counts[0]} labelled, {counts[1]} unlabelled, {counts[2]} for "
        f"validation; each step {feed.sizes.labelled} labelled + {feed.sizes.unlabelled} unlabelled on "
        f"{runtime.device_count} {jax.default_backend()} device(s), {runtime.resolved.value}. "
        f"{folder}: {how}."
    )


def _find_config(path: Path) -> tuple[Path, dict[str, Any]]:
    """The run's folder and its configuration, from the folder itself or from something inside it."""
    if not path.exists():
        raise ValueError(f"There is no run at {path}. Train one: jaxrobust train NAME --run-dir {path}.")
    path = path.absolute()
    for folder in (path, *path.parents[:2]):
        file = folder / CONFIG_FILE
        # The folder of checkpoints has a configuration too, but is not the run's.
        if file.is_file() and folder.name != "checkpoints":
            try:
                return folder, json.loads(file.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise ValueError(f"{file} is not valid JSON: {error}.") from error
    raise ValueError(
        f"{path} is not a run: it has no {CONFIG_FILE}. Give the folder that `jaxrobust train` wrote."
    )


def _validation_at(folder: Path, step: int) -> dict[str, float]:
    """The validation metrics of a step, from the run's log."""
    found: dict[str, float] = {}
    for row in read_rows(folder / "metrics.jsonl"):
        if row.get("step") == step:
            found |= {k.removeprefix("validation/"): v for k, v in row.items() if k.startswith("validation/")}
    return found


def _write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")
