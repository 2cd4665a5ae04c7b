"""Runs: training an experiment into a folder, loading it again, evaluating it, predicting with it.

A run's folder holds `config.json` (the resolved configuration with the classes and the data's fingerprint),
`checkpoints/` (each with the same configuration), `metrics.jsonl`, `tensorboard/`, and `result.json` once
finished. A run with a teacher also has the teacher's run in `teacher/` and `pseudo_labels.npz`.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrobust import data, evaluation, models, training
from jaxrobust.experiments import _teacher, codec
from jaxrobust.experiments._files import read_rows, write_text
from jaxrobust.experiments._prepare import Prepared, check, opening, prepare, validate_every
from jaxrobust.experiments.experiment import DataConfig, Experiment
from jaxrobust.experiments.face_data import FaceData
from jaxrobust.experiments.functions import logits_fn
from jaxrobust.objectives import FaceGated, gate_report
from jaxrobust.training import Runtime, TrainState
from jaxrobust.training.runtime import agree
from jaxrobust.types import Model, PyTree

CONFIG_FILE, RESULT_FILE = "config.json", "result.json"
TEACHER_FOLDER = "teacher"


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
        return logits_fn(self.model, self.params, self.stats)


def train(
    experiment: Experiment,
    run_dir: str | os.PathLike,
    *,
    runtime: Runtime | None = None,
    data_dir: str | os.PathLike | None = None,
    resume: bool = True,
    init_from: str | os.PathLike | None = None,
    teacher_dir: str | os.PathLike | None = None,
    checkpoint_every: int | None = None,
    keep: int = 2,
    progress: bool = True,
    log_fn: Callable[[str], None] = lambda text: None,
) -> Run | None:
    """Trains an experiment, from its last checkpoint if it has one, and returns the best checkpoint.

    Best is the highest validation accuracy under `experiment.validation_attack` (clean accuracy without one);
    the test set is not read. A finished run is returned without training. With several processes, every one
    calls this; process 0 alone writes and reads the folder, so the others need not see its files.

    Where the experiment has a teacher, that is trained first, then its best checkpoint labels the unlabelled
    images, then this run begins; killed at any moment, the same call goes on where it stopped. The run's
    configuration keeps a hash of these labels, and a folder with checkpoints from other ones is refused.

    Args:
        experiment: what to train.
        run_dir: its folder, made if absent.
        runtime: where and how it executes; None for the default.
        data_dir: the folder of prepared sets; None reads TFDS_DATA_DIR.
        resume: False refuses a folder that has checkpoints.
        init_from: another run, a checkpoint, or a state dict of PyTorch (.safetensors, .npz) to start from;
            the run's configuration keeps its name and a hash of the weights, so resuming needs the same. The
            teacher starts from new weights.
        teacher_dir: the folder of the teacher's run, so that several runs may share one; None for
            `RUN/teacher`.
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
    check_teacher_dir(experiment, teacher_dir)
    folder = Path(run_dir).absolute()
    options: dict[str, Any] = {"checkpoint_every": checkpoint_every, "keep": keep}
    checked = check(
        experiment,
        folder,
        load_data(experiment, data_dir),
        runtime=runtime,
        num_devices=runtime.device_count,
        resume=resume,
        init_from=init_from,
    )

    def teach(_: list[int]) -> list[Run | None]:
        assert experiment.teacher is not None
        where = teacher_dir or folder / TEACHER_FOLDER
        log_fn(f"The teacher, {type(experiment.teacher.objective).__name__}, is trained first: {where}.")
        # A folder that is given for the teacher is there to be used, trained or not.
        given: dict[str, Any] = {"resume": resume or teacher_dir is not None, "progress": progress}
        given |= {"runtime": runtime, "data_dir": data_dir, "log_fn": log_fn}
        return [train(experiment.teacher, where, **given, **options)]

    (labels,) = _teacher.pseudo_labels([checked], teach)
    run = prepare(checked, pseudo_labels=labels, **options)
    log_fn(opening(run, f"{devices_in_words(runtime.device_count)}, {runtime.resolved.value}"))
    if run.finished:
        conclude(run, runtime, log_fn)
        return load_run(folder) if runtime.is_main else None
    if runtime.is_main:
        write_json(run.folder / CONFIG_FILE, run.config)
    began = time.monotonic()
    state = _fit(run, runtime, progress)
    if not runtime.is_main:
        return None
    write_result(run, time.monotonic() - began, **ending(run, state, log_fn))
    return load_run(folder)


def _fit(run: Prepared, runtime: Runtime, progress: bool) -> TrainState:
    experiment = run.experiment
    return training.fit(
        **run.member._asdict(),
        model=run.model,
        objective=experiment.objective,
        optimizer=experiment.optimizer.build(experiment.num_steps),
        num_steps=experiment.num_steps,
        runtime=runtime,
        validate_every=validate_every(experiment),
        ema_decay=experiment.ema_decay,
        progress=progress,
    )


def conclude(run: Prepared, runtime: Runtime, log_fn: Callable[[str], None]) -> None:
    """Closes a run that has no step left.

    One that ended between its last checkpoint and its result gets that now, from the state in the checkpoint;
    how long it took, and where, is not known.
    """
    if agree(np.array((run.folder / RESULT_FILE).is_file())):
        run.close()
        return
    state = _fit(run, runtime, progress=False)
    if runtime.is_main:
        known = {"steps": run.experiment.num_steps, "seconds": None, "resumed_at": None}
        write_json(run.folder / RESULT_FILE, known | ending(run, state, log_fn))


def check_teacher_dir(experiment: Experiment, given: Any) -> None:
    """Raises ValueError for a teacher's folder that nobody will use."""
    if given is not None and experiment.teacher is None:
        raise ValueError("A folder for a teacher is given, but the experiment has no teacher; leave it out.")


def devices_in_words(count: int) -> str:
    """How many devices of which kind a run takes."""
    return f"{count} {jax.default_backend()} device(s)"


def write_result(run: Prepared, seconds: float, **more: Any) -> None:
    """`result.json`, by which a run is known to be finished."""
    steps = {"steps": run.experiment.num_steps, "seconds": round(seconds, 2), "resumed_at": run.start}
    made = {"versions": evaluation.versions(), "hardware": evaluation.hardware()}
    write_json(run.folder / RESULT_FILE, {**steps, **made, **more})


def ending(run: Prepared, state: TrainState, log_fn: Callable[[str], None]) -> dict[str, Any]:
    """What the objective's gate did, where there is one, for the result; its warnings are said."""
    objective = run.experiment.objective
    if not isinstance(objective, FaceGated):
        return {}
    rows = read_rows(run.folder / "metrics.jsonl")
    last = next((row["impostor_cosine"] for row in reversed(rows) if "impostor_cosine" in row), None)
    report = gate_report(objective, state.obj_state, num_classes=run.model.num_classes, impostor_cosine=last)
    for warning in report.warnings:
        log_fn(f"Warning: {warning}")
    return {"gate": report._asdict()}


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


def started_from(run: Run) -> str | None:
    """The name of the weights that a run was started from, None for new ones."""
    config = json.loads((run.folder / CONFIG_FILE).read_text(encoding="utf-8"))
    found = config.get("init_from")
    return None if found is None else str(found["name"])


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


def load_data(
    experiment: Experiment | DataConfig | FaceData, data_dir: str | os.PathLike | None
) -> data.Dataset:
    """The images of an experiment, or of its `data`."""
    config = experiment.data if isinstance(experiment, Experiment) else experiment
    return config.load(data_dir)


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


def write_json(path: Path, value: Any) -> None:
    """Writes a file of the run's folder; it is complete or as before."""
    write_text(path, json.dumps(value, indent=2) + "\n")
