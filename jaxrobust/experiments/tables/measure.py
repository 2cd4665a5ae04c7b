"""Trains and measures the jobs of a table, one after the other or on several devices at once."""

import concurrent.futures
import contextlib
import fcntl
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxrobust import evaluation
from jaxrobust.experiments import _results
from jaxrobust.experiments._files import read_rows
from jaxrobust.experiments._results import Cell, LogFn
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.experiments.judge import curve_of_run
from jaxrobust.experiments.run import RESULT_FILE, train
from jaxrobust.experiments.tables.plan import CURVE, Job, folder_of
from jaxrobust.training import Runtime

# A process sees the one device that it is given.
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS")


def is_done(job: Job, path: Path) -> bool:
    """Whether everything of the job is in the results at `path`."""
    keys = {row["key"] for row in read_rows(path)}
    return all(cell.key in keys for cell in job.cells) and all(
        _curve_key(job, attack) in keys for attack in job.curves
    )


def run_job(job: Job, path: Path, *, runs_dir: Path, data_dir: Path | None, log_fn: LogFn) -> None:
    """Trains the job's model unless it is there, measures what is missing, adds it to the results at `path`.

    The run's folder is locked meanwhile: another process that needs the same model waits for it.
    """
    teacher = job.experiment.teacher
    if teacher is not None:
        _train(teacher, folder_of(teacher, runs_dir), None, data_dir, log_fn)
    teacher_dir = None if teacher is None else folder_of(teacher, runs_dir)
    run = _train(job.experiment, job.folder, teacher_dir, data_dir, log_fn)
    for cell in job.cells:
        _results.run_cell(
            cell, path, data_dir=data_dir, log_fn=log_fn, runtime=_runtime(), teacher_dir=teacher_dir
        )
    for attack in job.curves:
        key = _curve_key(job, attack)
        if any(row["key"] == key for row in read_rows(path)):
            continue
        curve = curve_of_run(run, attack, num=job.num_curve, data_dir=data_dir)
        fields = ("part", "model", "run_seed", "attack")
        _results.replace_rows(path, _curve_rows(job, curve, key), fields)
        log_fn(f"  {curve.attack}: {', '.join(f'{100 * one:.1f}' for one in curve.accuracy)}")


def _train(
    experiment: Experiment, folder: Path, teacher_dir: Path | None, data_dir: Path | None, log_fn: LogFn
) -> Any:
    with _locked(folder):
        run = train(
            experiment,
            folder,
            data_dir=data_dir,
            runtime=_runtime(),
            teacher_dir=teacher_dir,
            log_fn=log_fn,
        )
    if run is None:
        raise ValueError("A reproduction runs in one process; start it without several hosts.")
    return run


def _runtime() -> Runtime:
    """One device, whatever there are: the batches of the source are not divided by many."""
    return Runtime(num_devices=1)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _curve_key(job: Job, attack: str) -> str:
    """As `Cell.key`, of a curve."""
    cell = Cell(
        part=CURVE,
        model=job.row.title,
        experiment=job.experiment,
        attacks=(attack,),
        num=job.num_curve,
        folder=job.folder,
    )
    return f"curve-{cell.key}"


def _curve_rows(job: Job, curve: evaluation.Curve, key: str) -> list[dict[str, Any]]:
    trained = json.loads((job.folder / RESULT_FILE).read_text(encoding="utf-8"))
    common = {
        "train_seconds": trained["seconds"],
        "train_resumed_at": trained["resumed_at"],
        "versions": evaluation.versions(),
        "hardware": evaluation.hardware(),
    }
    return [
        {
            **common,
            "part": CURVE,
            "model": job.row.title,
            "run_seed": job.experiment.seed,
            "key": key,
            "attack": curve.attack,
            "radius": curve.radius,
            "factor": factor,
            "n": curve.n,
            "accuracy": accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            "seconds": curve.seconds,
        }
        for factor, accuracy, low, high in zip(curve.factors, curve.accuracy, curve.low, curve.high)
    ]


def run_all(
    jobs: Sequence[Job],
    path: Path,
    *,
    runs_dir: Path,
    data_dir: Path | None,
    log_fn: LogFn,
    processes: int = 1,
    done_fn: Callable[[Job], None],
) -> None:
    """Runs the jobs; `done_fn` is called after each, in this process.

    `processes` > 1: so many at once, each on a device of its own (of the CPU, all on the same cores).
    """
    options: dict[str, Any] = {"runs_dir": runs_dir, "data_dir": data_dir}
    if processes == 1:
        for job in jobs:
            run_job(job, path, log_fn=log_fn, **options)
            done_fn(job)
        return
    context = multiprocessing.get_context("spawn")
    places = context.Queue()
    for place in range(processes):
        places.put(place)
    with concurrent.futures.ProcessPoolExecutor(
        processes, mp_context=context, initializer=_take_device, initargs=(places,)
    ) as pool:
        waiting = {pool.submit(_run_quietly, job, path, **options): job for job in jobs}
        try:
            for future in concurrent.futures.as_completed(waiting):
                future.result()
                done_fn(waiting[future])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _take_device(places: Any) -> None:
    """A process of the pool takes one device, before JAX looks for them."""
    place = str(places.get())
    for name in _VISIBLE:
        os.environ[name] = place


def _run_quietly(job: Job, path: Path, **options: Any) -> None:
    run_job(job, path, log_fn=lambda text: None, **options)
