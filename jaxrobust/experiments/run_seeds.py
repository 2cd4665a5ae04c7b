"""Several seeds of an experiment at once, each into a folder as a run of its own leaves it."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxrobust import training
from jaxrobust.experiments import _teacher
from jaxrobust.experiments._prepare import check, opening, prepare, sharing_a_device, validate_every
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.experiments.run import (
    CONFIG_FILE,
    TEACHER_FOLDER,
    Run,
    check_teacher_dir,
    conclude,
    devices_in_words,
    ending,
    load_data,
    load_run,
    write_json,
    write_result,
)
from jaxrobust.training import Runtime
from jaxrobust.training._carriers import devices_used
from jaxrobust.training._resume import common_steps


def train_seeds(
    experiment: Experiment,
    seeds: Sequence[int],
    run_dirs: Sequence[str | os.PathLike],
    *,
    runtime: Runtime | None = None,
    data_dir: str | os.PathLike | None = None,
    resume: bool = True,
    init_from: str | os.PathLike | None = None,
    teacher_dirs: Sequence[str | os.PathLike] | None = None,
    checkpoint_every: int | None = None,
    keep: int = 2,
    progress: bool = True,
    log_fn: Callable[[str], None] = lambda text: None,
) -> list[Run]:
    """Trains an experiment from several seeds at once, each into a folder as `train` would leave it.

    The runs take their steps together, see `training.fit_seeds`: for small models on an accelerator, or on
    several, since each run lies on one device. A seed is that of the run and of its split, as in
    `Experiment.seeded`. Finished runs are left alone; the others go on from the newest step of which all have
    a checkpoint. Any of them can go on by itself with `train`. Each seed has its own teacher, and these too
    are trained together.

    Args:
        experiment: what to train; its own seeds are not used.
        seeds: one per run.
        run_dirs: their folders.
        runtime: as in `training.fit_seeds`.
        teacher_dirs: the teachers' folders, one per run; None for `RUN/teacher`.
        data_dir, resume, init_from, checkpoint_every, keep, progress, log_fn: as in `train`.

    Returns:
        The `Run` of each seed's best checkpoint.

    Raises:
        ValueError: as many folders as seeds are not given, runs that cannot go together, or as in `train`.
        training.Diverged: with the `seed` it happened to.
        training.Interrupted: after SIGTERM, with the states saved.
    """
    runtime = runtime or Runtime()
    training.check_distinct(seeds)
    if len(run_dirs) != len(seeds):
        raise ValueError(f"Expected a folder for each of {len(seeds)} seeds, got {len(run_dirs)} folders.")
    check_teacher_dir(experiment, teacher_dirs)
    if teacher_dirs is not None and len(teacher_dirs) != len(seeds):
        raise ValueError(
            f"Expected a teacher's folder for each of {len(seeds)} seeds, got {len(teacher_dirs)}."
        )
    dataset = load_data(experiment, data_dir)
    folders = [Path(run_dir).absolute() for run_dir in run_dirs]
    options: dict[str, Any] = {"checkpoint_every": checkpoint_every, "keep": keep}
    checked = [
        check(
            experiment.seeded(seed),
            folder,
            dataset,
            runtime=runtime,
            num_devices=1,
            resume=resume,
            init_from=init_from,
        )
        for seed, folder in zip(seeds, folders)
    ]

    def teach(which: list[int]) -> Sequence[Run | None]:
        assert experiment.teacher is not None
        where = teacher_dirs or [folder / TEACHER_FOLDER for folder in folders]
        log_fn(f"The teachers, {type(experiment.teacher.objective).__name__}, are trained first.")
        given: dict[str, Any] = {"resume": resume or teacher_dirs is not None, "progress": progress}
        given |= {"runtime": runtime, "data_dir": data_dir, "log_fn": log_fn}
        own = [where[i] for i in which]
        return train_seeds(experiment.teacher, [seeds[i] for i in which], own, **given, **options)

    labels = _teacher.pseudo_labels(checked, teach)
    runs = [prepare(one, pseudo_labels=own, **options) for one, own in zip(checked, labels)]
    for run in runs:
        if run.finished:
            log_fn(opening(run, devices_in_words(runtime.device_count)))
            # Its batch was never divided.
            conclude(run, dataclasses.replace(runtime, num_devices=1), log_fn)
    runs = [run for run in runs if not run.finished]
    if runs:
        used = devices_used(len(runs), runtime.device_count)
        # They go on from the newest step of all, which may be older than one's own.
        start = max(common_steps([run.member.checkpoints for run in runs]), default=0)
        runs = [sharing_a_device(run._replace(start=start), len(runs) // used) for run in runs]
        for run in runs:
            log_fn(opening(run, _where(len(runs), used, runtime.device_count)))
            write_json(run.folder / CONFIG_FILE, run.config)
        began = time.monotonic()
        states = training.fit_seeds(
            [run.member for run in runs],
            model=runs[0].model,
            objective=experiment.objective,
            optimizer=experiment.optimizer.build(experiment.num_steps),
            num_steps=experiment.num_steps,
            runtime=runtime,
            validate_every=validate_every(experiment),
            ema_decay=experiment.ema_decay,
            progress=progress,
        )
        seconds = time.monotonic() - began
        together = [run.experiment.seed for run in runs]
        for run, state in zip(runs, states):
            # Its share of the time, so that sums over runs are right.
            more = ending(run, state, log_fn)
            write_result(run, seconds / len(runs), together=together, **more)
    return [load_run(folder) for folder in folders]


def _where(num_runs: int, used: int, count: int) -> str:
    """Where the runs lie, and how to use devices that are left idle."""
    if used == count:
        return f"{devices_in_words(count)}, together with the other seeds"
    idle = f"{count - used} idle: a multiple of {count} seeds would use all"
    return f"{devices_in_words(used)} of {count}, {num_runs // used} seeds on each ({idle})"
