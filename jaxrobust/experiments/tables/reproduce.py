"""One command per table: plans, trains, measures, and writes the page after every model."""

import functools
import shlex
from collections.abc import Sequence
from pathlib import Path

import jax

from jaxrobust import _validate
from jaxrobust.experiments._files import read_rows
from jaxrobust.experiments._results import LogFn
from jaxrobust.experiments.run import load_data
from jaxrobust.experiments.tables import page
from jaxrobust.experiments.tables.cost import Seconds, estimate
from jaxrobust.experiments.tables.measure import attempt
from jaxrobust.experiments.tables.numbers import Numbers
from jaxrobust.experiments.tables.plan import SIZES, Job, plan
from jaxrobust.experiments.tables.progress import Progress, listing
from jaxrobust.experiments.tables.settings import Scale
from jaxrobust.experiments.tables.spec import Spec
from jaxrobust.experiments.tables.specs import SPECS
from jaxrobust.experiments.workers import check_jobs, each, on_devices

RUNS = Path("runs/tables")
RESULTS = Path("docs/results")
_TINY_DATASET = "digits"


class Incomplete(ValueError):
    """Some models of a table could not be trained; its page has the others."""


def reproduce(
    name: str,
    *,
    log_fn: LogFn,
    runs_dir: Path = RUNS,
    data_dir: Path | None = None,
    out_dir: Path | None = None,
    dataset: str | None = None,
    scale: str = "small",
    seeds: tuple[int, ...] | None = None,
    only: str | None = None,
    jobs: int = 1,
    dry_run: bool = False,
) -> None:
    """Makes a table or figure of arXiv 2003.06974, or goes on with it.

    Runs lie in `runs_dir` under names that say how they were trained, so that tables share them. A command
    that was interrupted goes on where it stopped, and every model's numbers are on the page as soon as they
    are known. The page has the numbers of what these arguments ask for, whatever else is in its folder.

    Args:
        name: `table1` ... `table6`, `figure6`, `figure7`, `figure8`.
        log_fn: receives lines and tables.
        runs_dir: for the runs.
        data_dir: the folder of prepared sets; None reads TFDS_DATA_DIR.
        out_dir: for the results; None for `docs/results/NAME/DATASET-SCALE`.
        dataset: `mnist` or `cifar10`; None for the table's own. Scale `tiny` has 8x8 digits always.
        scale: `tiny`, `small`, `gpu` or `paper`.
        seeds: the first of every row, the others of SRT and its strongest rivals; None for the scale's.
        only: a row's key or title, e.g. `srt` or `srt@0.2`; several with commas between. The page keeps the
            numbers that other rows have.
        jobs: models at once, each with a share of the cores, and on a device of its own where there are
            several.
        dry_run: list the runs and what they are estimated to cost, and do nothing.

    Raises:
        ValueError: for a name, dataset, scale or row that there is not, and more jobs than devices.
        Incomplete: where the training of some models diverged; the others are done, and the page says so.
    """
    spec = _validate.member("table", name, SPECS)
    _validate.at_least("jobs", jobs, 1)
    sized = Scale(_validate.member("scale", scale, {one.value: one.value for one in Scale}))
    dataset = _dataset(name, spec, dataset, sized)
    out_dir = out_dir or RESULTS / name / (sized.value if sized is Scale.TINY else f"{dataset}-{sized.value}")
    rows = spec.make_rows(dataset, sized)
    every = plan(spec, rows, runs_dir, SIZES[sized], seeds or SIZES[sized].seeds)
    wanted = _selected(every, only)
    path = out_dir / "rows.jsonl"
    fingerprint = _fingerprint(every[0], data_dir)

    def numbers() -> Numbers:
        return Numbers(every, read_rows(path), fingerprint)

    def write() -> None:
        page.write(
            page.Table(name=name, spec=spec, rows=rows, dataset=dataset, scale=sized),
            numbers(),
            out_dir,
            command=_command(name, spec, dataset, sized, seeds, only),
        )

    known = numbers()
    left = [job for job in wanted if not known.is_done(job)]
    estimates = _estimates(left, runs_dir, data_dir, jobs)
    if dry_run:
        log_fn(listing(wanted, left, estimates))
        return
    progress = Progress(len(wanted), left, estimates, log_fn)
    progress.tell()
    failures: dict[str, str] = {}

    def done(job: Job, failure: str | None) -> None:
        if failure is not None:
            failures[job.name] = failure
        write()
        progress.advance(job, failed=failure is not None)

    work = functools.partial(attempt, path=path, runs_dir=runs_dir, data_dir=data_dir)
    if not left:
        write()
    each(left, work, jobs, log_fn=log_fn, name_fn=lambda job: job.name, done_fn=done)
    log_fn(f"Results: {out_dir / 'README.md'}")
    if failures:
        listed = "; ".join(f"{one}: {text}" for one, text in failures.items())
        raise Incomplete(f"{len(failures)} of {len(wanted)} models failed, the others are done. {listed}")


def _dataset(name: str, spec: Spec, dataset: str | None, scale: Scale) -> str:
    if scale is Scale.TINY:
        return _TINY_DATASET
    if dataset is None:
        return spec.datasets[0]
    if dataset not in spec.datasets:
        raise ValueError(
            f"{name} is there for {' and '.join(spec.datasets)}, got dataset={dataset!r}. "
            "The other set's is another table: see `jaxrobust list reproductions`."
        )
    return dataset


def _selected(jobs: Sequence[Job], only: str | None) -> list[Job]:
    if only is None:
        return list(jobs)
    names = _names(only, {name for job in jobs for name in (job.row.key, job.row.title)}, jobs)
    return [job for job in jobs if job.row.key in names or job.row.title in names]


def _names(only: str, known: set[str], jobs: Sequence[Job]) -> list[str]:
    """The names in a list with commas between; titles may have commas themselves, so the longest counts."""
    found, parts = [], only.split(",")
    while parts:
        lengths = range(len(parts), 0, -1)
        length = next((k for k in lengths if ",".join(parts[:k]).strip() in known), None)
        if length is None:
            keys = ", ".join(dict.fromkeys(job.row.key for job in jobs))
            raise ValueError(f"There is no row {parts[0].strip()!r}; the rows are {keys}.")
        found.append(",".join(parts[:length]).strip())
        parts = parts[length:]
    return found


def _command(
    name: str, spec: Spec, dataset: str, scale: Scale, seeds: Sequence[int] | None, only: str | None
) -> str:
    parts = ["jaxrobust", "reproduce", name]
    if scale is not Scale.TINY:
        parts += ["--dataset", dataset] if len(spec.datasets) > 1 else []
        parts += ["--data-dir", "DIR"]
    parts += ["--scale", scale.value]
    if seeds:
        parts += ["--seeds", *map(str, seeds)]
    if only is not None:
        parts += ["--only", only]
    return shlex.join(parts)


def _fingerprint(job: Job, data_dir: Path | None) -> str:
    """Of the data that are there; a clone that has results need not have any."""
    try:
        return load_data(job.experiment.data, data_dir).fingerprint
    except (ValueError, OSError):
        return ""


def _estimates(
    jobs: Sequence[Job], runs_dir: Path, data_dir: Path | None, processes: int
) -> dict[Path, Seconds]:
    """By the job's folder. For several processes it is one of its own that measures: who measures on an
    accelerator holds it."""
    if not jobs:
        return {}
    if processes == 1:
        return estimate(jobs, runs_dir, data_dir)
    found: list[tuple[dict[Path, Seconds], str, int]] = []
    work = functools.partial(_probe, runs_dir=runs_dir, data_dir=data_dir)
    on_devices([list(jobs)], work, 1, done_fn=lambda task, answer: found.append(answer))
    ((estimates, platform, count),) = found
    check_jobs(processes, platform, count)
    return estimates


def _probe(
    jobs: Sequence[Job], runs_dir: Path, data_dir: Path | None
) -> tuple[dict[Path, Seconds], str, int]:
    return estimate(jobs, runs_dir, data_dir), jax.default_backend(), jax.local_device_count()
