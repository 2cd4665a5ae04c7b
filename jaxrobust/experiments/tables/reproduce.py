"""One command per table: plans, trains, measures, and writes the page after every model."""

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxrobust import _validate
from jaxrobust.experiments._files import read_rows
from jaxrobust.experiments._results import LogFn
from jaxrobust.experiments.run import is_finished, load_data
from jaxrobust.experiments.tables import page, plots
from jaxrobust.experiments.tables.cost import Estimator, Seconds, clock
from jaxrobust.experiments.tables.measure import is_done, run_all
from jaxrobust.experiments.tables.plan import SIZES, Job, plan
from jaxrobust.experiments.tables.settings import Scale
from jaxrobust.experiments.tables.specs import SPECS, Spec

RUNS = Path("runs/tables")
RESULTS = Path("docs/results")
_TINY_DATASET = "digits"


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
    are known.

    Args:
        name: `table1` ... `table6`, `figure6`, `figure7`, `figure8`.
        log_fn: receives lines and tables.
        runs_dir: for the runs.
        data_dir: the folder of prepared sets; None reads TFDS_DATA_DIR.
        out_dir: for the results; None for `docs/results/NAME/DATASET-SCALE`.
        dataset: `mnist` or `cifar10`; None for the table's own. Scale `tiny` has 8x8 digits always.
        scale: `tiny`, `small`, `gpu` or `paper`.
        seeds: the first of every row, the others of SRT and its strongest rivals; None for the scale's.
        only: a row's key or title, e.g. `srt` or `srt@0.2`; several with commas between.
        jobs: models at once, each on a device of its own.
        dry_run: list the runs and what they are estimated to cost, and do nothing.

    Raises:
        ValueError: for a name, dataset, scale or row that there is not.
    """
    spec = _validate.member("table", name, SPECS)
    _validate.at_least("jobs", jobs, 1)
    sized = Scale(_validate.member("scale", scale, {one.value: one.value for one in Scale}))
    dataset = _dataset(name, spec, dataset, sized)
    out_dir = out_dir or RESULTS / name / (sized.value if sized is Scale.TINY else f"{dataset}-{sized.value}")
    rows = spec.make_rows(dataset, sized)
    sizes = SIZES[sized]
    chosen = seeds or sizes.seeds
    every = plan(spec, rows, runs_dir, sizes, chosen)
    wanted = _selected(every, only)
    path = out_dir / "rows.jsonl"

    command = _command(name, spec, dataset, sized, chosen if seeds else None)
    facts = {"scale": sized.value, "seeds": ", ".join(map(str, chosen))}

    def write() -> None:
        found = read_rows(path)
        pictures = []
        if spec.curves and plots.draw_curves(spec, rows, found, out_dir / "curves.png"):
            pictures.append("curves.png")
        if name == "figure8" and plots.draw_growth(rows, found, "pgd", out_dir / "growth.png"):
            pictures.append("growth.png")
        page.write(
            name,
            spec,
            rows,
            out_dir,
            dataset=dataset,
            scale=sized.about,
            facts=facts,
            command=command,
            pictures=pictures,
        )

    left = [job for job in wanted if not is_done(job, path)]
    estimates = _estimates(left, data_dir)
    if dry_run:
        log_fn(_listing(wanted, left, estimates))
        return
    progress = _Progress(len(wanted), left, estimates, log_fn)
    progress.tell()

    def done(job: Job) -> None:
        write()
        progress.advance(job)

    if left:
        run_all(left, path, runs_dir=runs_dir, data_dir=data_dir, log_fn=log_fn, processes=jobs, done_fn=done)
    else:
        write()
    log_fn(f"Results: {out_dir / 'README.md'}")


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
    names = [one.strip() for one in only.split(",")]
    for one in names:
        if not any(one in (job.row.key, job.row.title) for job in jobs):
            keys = ", ".join(dict.fromkeys(job.row.key for job in jobs))
            raise ValueError(f"There is no row {one!r}; the rows are {keys}.")
    return [job for job in jobs if job.row.key in names or job.row.title in names]


def _command(name: str, spec: Spec, dataset: str, scale: Scale, seeds: Sequence[int] | None) -> str:
    parts = ["jaxrobust", "reproduce", name]
    if scale is not Scale.TINY:
        parts += ["--dataset", dataset] if len(spec.datasets) > 1 else []
        parts += ["--data-dir", "DIR"]
    parts += ["--scale", scale.value]
    if seeds:
        parts += ["--seeds", *map(str, seeds)]
    return shlex.join(parts)


def _estimates(jobs: Sequence[Job], data_dir: Path | None) -> dict[Path, Seconds]:
    """By the job's folder; the nets are timed here and now."""
    if not jobs:
        return {}
    loaded = load_data(jobs[0].experiment.data, data_dir)
    estimator = Estimator()
    found = {}
    for job in jobs:
        cost = estimator.seconds(job, loaded.image_shape, len(loaded.test.labels))
        trained = is_finished(job.folder, job.experiment)
        found[job.folder] = cost._replace(training=0.0) if trained else cost
    return found


def _listing(wanted: Sequence[Job], left: Sequence[Job], estimates: dict[Path, Seconds]) -> object:
    from rich.table import Table

    missing = {job.folder for job in left}
    table = Table(title="Runs, with estimates for this machine (passes counted, their time measured)")
    for header in ("model", "seed", "run", "training", "attacks, at most"):
        table.add_column(header, justify="left" if header in ("model", "run") else "right")
    total = Seconds(0.0, 0.0)
    for job in wanted:
        if job.folder in missing:
            cost = estimates[job.folder]
            shown = (clock(cost.training) if cost.training else "there", clock(cost.attacks))
            total = Seconds(total.training + cost.training, total.attacks + cost.attacks)
        else:
            shown = ("there", "there")
        table.add_row(job.row.title, str(job.experiment.seed), job.folder.name, *shown)
    table.add_section()
    table.add_row(
        "total", "", f"{len(left)} of {len(wanted)} to do", clock(total.training), clock(total.attacks)
    )
    return table


class _Progress:
    """A line before every model: how many are done, and how long the rest takes at the pace so far."""

    def __init__(self, total: int, left: Sequence[Job], estimates: dict[Path, Seconds], log_fn: Callable):
        self._total, self._left, self._log_fn = total, list(left), log_fn
        self._costs = {folder: sum(cost) for folder, cost in estimates.items()}
        self._spent_estimate, self._began = 0.0, time.monotonic()

    def advance(self, job: Job) -> None:
        self._left.remove(job)
        self._spent_estimate += self._costs[job.folder]
        self.tell()

    def tell(self) -> None:
        spent = time.monotonic() - self._began
        rest = sum(self._costs[job.folder] for job in self._left)
        # The estimate is of passes alone; what the first models took says by how much it is short.
        pace = spent / self._spent_estimate if self._spent_estimate else 1.0
        tail = f", about {clock(rest * pace)} left" if self._left else ""
        self._log_fn(f"{self._total - len(self._left)} of {self._total} models done{tail}")
