"""Trains and measures one job of a table, whose numbers are added to the results as they come."""

import contextlib
import dataclasses
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust import evaluation, training
from jaxrobust.experiments import _results
from jaxrobust.experiments._files import read_rows
from jaxrobust.experiments._results import LogFn
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.experiments.judge import curve_of_run
from jaxrobust.experiments.run import Run, train
from jaxrobust.experiments.tables.numbers import FAILED, IDENTITY, Numbers, failed_key
from jaxrobust.experiments.tables.plan import CURVE, FAST, Job, folder_of


def attempt(job: Job, path: Path, *, log_fn: LogFn, **options: Any) -> str | None:
    """`run_job`, and why it failed where its training diverged, which the results then say as well."""
    try:
        run_job(job, path, log_fn=log_fn, **options)
    except training.Diverged as error:
        log_fn(f"{job.name} failed: {error}")
        row = {
            "dataset": job.experiment.data.dataset,
            "part": FAILED,
            "model": job.row.title,
            "run_seed": job.experiment.seed,
            "key": failed_key(job),
            "message": str(error),
        }
        _results.replace_rows(path, [row], IDENTITY)
        return str(error)
    return None


def run_job(job: Job, path: Path, *, runs_dir: Path, data_dir: Path | None, log_fn: LogFn) -> None:
    """Trains the job's model unless it is there, measures what is missing, adds it to the results at `path`.

    The run's folder is locked while it trains: another process that needs the same model waits for it.
    """
    teacher_dir = None
    if job.experiment.teacher is not None:
        teacher_dir = folder_of(job.experiment.teacher, runs_dir)
        _train(job, job.experiment.teacher, teacher_dir, None, data_dir, log_fn)
    run = _train(job, job.experiment, job.folder, teacher_dir, data_dir, log_fn)
    known = Numbers([job], read_rows(path), run.fingerprint)
    for cell in job.cells:
        if any(known.of(job, attack) is None for attack in cell.attacks):
            _results.measure_cell(
                cell,
                run,
                path,
                data_dir=data_dir,
                log_fn=log_fn,
                names=IDENTITY,
                trust_checks=cell.part == FAST,
            )
    for attack in job.curves:
        if known.of(job, attack) is None:
            curve, right = curve_of_run(run, attack, num=job.num_curve, data_dir=data_dir)
            _results.replace_rows(path, _curve_rows(job, run, attack, curve, right), (*IDENTITY, "factor"))
            log_fn(f"  {curve.attack}: {', '.join(f'{100 * one:.1f}' for one in curve.accuracy)}")


def _train(
    job: Job,
    experiment: Experiment,
    folder: Path,
    teacher_dir: Path | None,
    data_dir: Path | None,
    log_fn: LogFn,
) -> Run:
    with _locked(folder):
        run = train(
            experiment,
            folder,
            data_dir=data_dir,
            # One device, whatever there are: the batches of the source are not divided by many.
            runtime=training.Runtime(num_devices=1),
            teacher_dir=teacher_dir,
            checkpoint_every=job.checkpoint_every,
            log_fn=log_fn,
        )
    if run is None:
        raise ValueError("A reproduction runs in one process; start it without several hosts.")
    # Its folder may have been made when the same training was to be judged otherwise.
    return dataclasses.replace(run, experiment=experiment)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _curve_rows(
    job: Job, run: Run, attack: str, curve: evaluation.Curve, right: np.ndarray
) -> list[dict[str, Any]]:
    """A row a radius; that of the full one has the flags."""
    common = {
        **_results.training_facts(run),
        "versions": evaluation.versions(),
        "hardware": evaluation.hardware(),
        "dataset": job.experiment.data.dataset,
        "part": CURVE,
        "model": job.row.title,
        "run_seed": job.experiment.seed,
        "key": job.keys[attack],
        "attack": curve.attack,
        "radius": curve.radius,
        "n": curve.n,
        "seconds": curve.seconds,
    }
    points = zip(curve.factors, curve.accuracy, curve.low, curve.high)
    rows = [
        {**common, "factor": factor, "accuracy": accuracy, "accuracy_low": low, "accuracy_high": high}
        for factor, accuracy, low, high in points
    ]
    return [*rows[:-1], {**rows[-1], "right": _results.pack(right)}]
