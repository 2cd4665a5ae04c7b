"""From an experiment to what `training.fit` takes: images, model, checkpoints and validation of one run."""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from flax import linen as nn

from jaxrobust import data, models, training
from jaxrobust.data.stream import MAX_DEVICE_BYTES
from jaxrobust.experiments import codec
from jaxrobust.experiments._validation import validate_fn
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.experiments.face_data import Faces
from jaxrobust.training import Runtime
from jaxrobust.training.runtime import agree
from jaxrobust.types import Model, PyTree


class Checked(NamedTuple):
    """A run of which everything is checked that a user may get wrong, before anything is trained."""

    experiment: Experiment
    folder: Path
    dataset: data.Dataset
    runtime: Runtime
    model: Model
    parts: data.Split
    sizes: data.BatchSizes
    init_from: str | os.PathLike | None
    weights: tuple[PyTree, PyTree] | None


class Prepared(NamedTuple):
    """A run that is ready to train; `start` is the step it goes on from, `config` that of its folder."""

    experiment: Experiment
    folder: Path
    model: Model
    parts: data.Split
    member: training.Member
    config: dict[str, Any]
    start: int

    @property
    def finished(self) -> bool:
        """Whether no step is left."""
        return self.start >= self.experiment.num_steps

    def close(self) -> None:
        """For a run that will not train."""
        if self.member.checkpoints is not None:
            self.member.checkpoints.close()


def check(
    experiment: Experiment,
    folder: Path,
    dataset: data.Dataset,
    *,
    runtime: Runtime,
    num_devices: int,
    resume: bool,
    init_from: str | os.PathLike | None,
) -> Checked:
    """Reads what the run starts from and checks it; `num_devices`: how many divide a batch."""
    _check_folder(folder, resume)
    model = models.build(experiment.model, dataset.image_shape)
    model = models.with_precision(model, runtime.precision)
    _check_classes(experiment.model, dataset)
    if isinstance(dataset, Faces) and dataset.config != experiment.data:
        raise ValueError(
            f"These people were divided by {dataset.config}, the run asks for {experiment.data}: people that "
            "it tests would be trained on. Load the run's own."
        )
    parts = experiment.data.split(cast(Any, dataset))  # `load` of the same gave it
    sizes = experiment.batch_sizes(
        len(parts.labelled.labels), len(parts.unlabelled), num_devices, runtime.micro_batches
    )
    weights = None if init_from is None else _weights(init_from, experiment.model, dataset.image_shape)
    return Checked(experiment, folder, dataset, runtime, model, parts, sizes, init_from, weights)


def prepare(
    checked: Checked, *, pseudo_labels: np.ndarray | None, checkpoint_every: int | None, keep: int
) -> Prepared:
    """Opens the folder's checkpoints; `pseudo_labels`: of the unlabelled images, for a run with a teacher."""
    experiment, folder, model, runtime = checked.experiment, checked.folder, checked.model, checked.runtime
    parts = checked.parts._replace(pseudo_labels=pseudo_labels)
    start = start_config(checked.init_from, checked.weights, model, runtime)
    config = _config(experiment, checked.dataset) | start
    if pseudo_labels is not None:
        config["pseudo_labels"] = digest(pseudo_labels)
    feed = _feed(experiment, parts, checked.sizes)
    judged = [f"experiment.{part}{name}" for part in ("", "teacher.") for name in codec.JUDGED]
    checkpoints = training.Checkpoints(
        folder / "checkpoints",
        config=config,
        ignored=tuple(judged),
        keep=keep,
        save_every=checkpoint_every or max(experiment.num_steps // 10, 1),
        best_metric=_best_metric(experiment) if experiment.data.num_validation else None,
    )
    member = training.Member(
        seed=experiment.seed,
        feed=feed,
        checkpoints=checkpoints,
        validate_fn=validate_fn(experiment, model, checked.dataset, parts, runtime)
        if experiment.data.num_validation
        else None,
        sinks=(training.JsonLines(folder / "metrics.jsonl"), training.TensorBoard(folder / "tensorboard")),
        init_from=checked.weights,
    )
    # Only process 0 knows its checkpoints, and all must decide alike, or some would wait for the others.
    latest = int(agree(np.array(checkpoints.latest_step() or 0)))
    return Prepared(experiment, folder, model, parts, member, config, latest)


def digest(pseudo_labels: np.ndarray) -> str:
    """16 hexadecimal digits of a SHA-256 over pseudo-labels, by which a run knows its own."""
    return hashlib.sha256(np.ascontiguousarray(pseudo_labels, np.dtype("<i4")).tobytes()).hexdigest()[:16]


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


def sharing_a_device(run: Prepared, num_runs: int) -> Prepared:
    """The run where so many lie on its device, whose images take the room of one alone."""
    feed = _feed(run.experiment, run.parts, run.member.feed.sizes, num_runs)
    return run._replace(member=run.member._replace(feed=feed))


def _feed(
    experiment: Experiment, parts: data.Split, sizes: data.BatchSizes, runs_on_device: int = 1
) -> data.Feed:
    return data.make_feed(
        parts,
        sizes,
        experiment.seed,
        augment=experiment.augment,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        max_device_bytes=MAX_DEVICE_BYTES // runs_on_device,
    )


def _config(experiment: Experiment, dataset: data.Dataset) -> dict[str, Any]:
    return {
        "experiment": codec.to_json(experiment),
        "image_shape": list(dataset.image_shape),
        "class_names": list(dataset.class_names),
        "fingerprint": dataset.fingerprint,
    }


def start_config(
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


def validate_every(experiment: Experiment) -> int:
    """0 in the configuration means once, at the end; 0 for `fit` means never."""
    if not experiment.data.num_validation:
        return 0
    return experiment.validate_every or experiment.num_steps


def _weights(
    path: str | os.PathLike, module: nn.Module, shape: tuple[int, int, int]
) -> tuple[PyTree, PyTree]:
    """(params, stats) of a run, a checkpoint, or a state dict of PyTorch."""
    path = Path(path)
    if path.suffix in (".safetensors", ".npz", ".pt", ".pth"):
        return models.load_state_dict(path, module, image_shape=shape)
    found = training.restore_weights(path)
    return found.params, found.stats


def opening(run: Prepared, where: str) -> str:
    """A line about what is about to happen."""
    parts, sizes = run.parts, run.member.feed.sizes
    counts = (len(parts.labelled.labels), len(parts.unlabelled), len(parts.validation.labels))
    how = f"resuming at step {run.start}" if run.start else "a new run"
    taught = "" if run.experiment.teacher is None else " with a teacher's labels"
    return (
        f"{run.experiment.data.dataset}: {counts[0]} labelled, {counts[1]} unlabelled{taught}, {counts[2]} "
        f"for validation; each step {sizes.labelled} labelled + {sizes.unlabelled} unlabelled on {where}. "
        f"{run.folder}: {how}."
    )
