"""Results that are written as an experiment goes, and the tables made of them."""

import base64
import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from jaxrobust import evaluation, training
from jaxrobust.experiments import codec
from jaxrobust.experiments._files import Row, read_rows, write_text
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.experiments.judge import evaluate_run
from jaxrobust.experiments.run import RESULT_FILE, Run, train

LogFn = Callable[[Any], None]
"""Receives lines and rich tables."""

IDENTITY = ("part", "model", "run_seed")
"""The fields by which a new row takes the place of an old one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a table: what is trained and how it is judged.

    Attributes:
        part: which table.
        model: which row of it.
        experiment: what is trained; its seed is the run's.
        attacks: names as `evaluation.parse` reads them.
        num: the first so many test images; None for all.
        folder: of the run.
    """

    part: str
    model: str
    experiment: Experiment
    attacks: tuple[str, ...]
    num: int | None
    folder: Path

    @property
    def key(self) -> str:
        """Changes with everything that decides the result: the training, and the attacks with their radii."""
        suite = evaluation.suite(self.attacks, self.experiment.threat)
        attacks = {name: [codec.to_json(one.attack), one.every_image] for name, one in suite.items()}
        text = json.dumps([codec.training_json(self.experiment), attacks, self.num], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes all rows; the file is complete or as before."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def replace_rows(path: Path, new: list[Row], names: Sequence[str] = IDENTITY) -> None:
    """Puts rows in the place of those that are equal to one of them by these fields, safe beside others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ours = {tuple(row.get(name) for name in names) for row in new}
        kept = [row for row in read_rows(path) if tuple(row.get(name) for name in names) not in ours]
        write_rows(path, [*kept, *new])


def run_cell(
    cell: Cell,
    path: Path,
    *,
    data_dir: Any,
    log_fn: LogFn,
    runtime: training.Runtime | None = None,
    teacher_dir: Path | None = None,
) -> None:
    """Trains and evaluates one run and adds its rows to the file at `path`; what is there already is kept."""
    if is_measured(cell, read_rows(path)):
        log_fn(f"{cell.part}, {cell.model}, seed {cell.experiment.seed}: already there.")
        return
    log_fn(f"{cell.part}, {cell.model}, seed {cell.experiment.seed}:")
    run = train(
        cell.experiment,
        cell.folder,
        data_dir=data_dir,
        runtime=runtime,
        teacher_dir=teacher_dir,
        log_fn=log_fn,
    )
    if run is None:
        raise ValueError("A reproduction runs in one process; start it without several hosts.")
    measure_cell(cell, run, path, data_dir=data_dir, log_fn=log_fn)


def is_measured(cell: Cell, rows: Iterable[Row]) -> bool:
    """Whether the cell's numbers are among the rows, with which images were right."""
    # Rows carry their flags, so that a clone with committed results goes on from them without the runs.
    return any(row["key"] == cell.key and "right" in row for row in rows)


def measure_cell(
    cell: Cell,
    run: Run,
    path: Path,
    *,
    data_dir: Any,
    log_fn: LogFn,
    names: Sequence[str] = IDENTITY,
    trust_checks: bool = True,
) -> None:
    """Evaluates the trained run of a cell and adds its rows to the file at `path`, in the place of those that
    are equal by the fields `names`."""
    report = evaluate_run(
        run,
        attacks=cell.attacks,
        num=cell.num,
        data_dir=data_dir,
        name=cell.model,
        trust_checks=trust_checks,
    )
    for verdict in report.warnings:
        log_fn(f"{verdict.level.value} {verdict.check}: {verdict.advice}")
    flags: dict[str, Any] = {name: flag for name, flag in report.flags.items() if name.startswith("correct/")}
    np.savez_compressed(flags_file(cell.folder, cell.key), **flags)
    common = {
        "part": cell.part,
        "run_seed": cell.experiment.seed,
        "key": cell.key,
        "checkpoint": run.step,
        "validation": dict(run.validation),
        **training_facts(run),
        "warnings": [verdict.check for verdict in report.warnings],
    }
    rows = [{**common, **row, "right": pack(report.flags[f"correct/{row['attack']}"])} for row in report.rows]
    replace_rows(path, rows, names)
    shown = ", ".join(f"{row['attack']} {100 * row['accuracy']:.1f}" for row in report.rows)
    log_fn(f"  {shown}")


def training_facts(run: Run) -> Row:
    """What a row says of the run that it is about; None for what is not known."""
    found = json.loads((run.folder / RESULT_FILE).read_text(encoding="utf-8"))
    names = ("seconds", "resumed_at", "versions", "hardware")
    return {"fingerprint": run.fingerprint, **{f"train_{name}": found.get(name) for name in names}}


def flags_file(folder: Path, key: str) -> Path:
    """Which test images a run had right under each attack."""
    return folder / f"flags-{key}.npz"


def pack(flags: np.ndarray) -> str:
    """Which images were right, as text for a row: a bit each, so that differences need no run's folder.

    >>> unpack(pack(np.array([True, False, True])), 3).tolist()
    [True, False, True]
    """
    return base64.b64encode(np.packbits(flags).tobytes()).decode()


def unpack(text: str, n: int) -> np.ndarray:
    """The flags of `pack`, bool `[n]`."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=n).astype(bool)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float | None]:
    """Mean and half-width of its Student t interval; None for the width of a single value.

    >>> mean_interval([1.0, 2.0, 3.0])[0]
    2.0
    """
    array = np.asarray(values, float)
    if len(array) < 2:
        return float(array.mean()), None
    quantile = float(stats.t.ppf(0.5 + confidence / 2, len(array) - 1))
    return float(array.mean()), float(quantile * array.std(ddof=1) / np.sqrt(len(array)))


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Difference of two accuracies on the same images and half-width of its 95% interval.

    With b images that only the first has right and c that only the second has: (b - c) / n, and the normal
    approximation sqrt(b + c - (b - c)^2 / n) / n of its standard error (Agresti, Categorical Data Analysis,
    11.1.1).

    >>> a, b = np.array([True, True, False, True]), np.array([True, False, False, False])
    >>> paired_difference(a, b)[0]
    0.5
    """
    n, b, c = len(first), int(np.sum(first & ~second)), int(np.sum(~first & second))
    error = np.sqrt(max(b + c - (b - c) ** 2 / n, 0.0)) / n
    return (b - c) / n, float(stats.norm.ppf(0.975) * error)


def group(rows: Iterable[Row], part: str) -> dict[str, dict[str, list[Row]]]:
    """The rows of a part as attack -> model -> rows in the order of their seeds."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in sorted((r for r in rows if r["part"] == part), key=lambda r: r["run_seed"]):
        found.setdefault(row["attack"], {}).setdefault(row["model"], []).append(row)
    return found


def percent(mean: float, half: float | None) -> str:
    """`94.2 ± 0.3`, or `94.2` without an interval."""
    return f"{100 * mean:.1f}" if half is None else f"{100 * mean:.1f} ± {100 * half:.1f}"


def markdown_table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table, first column left, the others right."""
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def accuracy_table(rows: Iterable[Row], part: str, models: Sequence[str]) -> str:
    """Mean accuracy over seeds with its 95% interval, a line per attack."""
    lines = []
    for attack, by_model in group(rows, part).items():
        cells = []
        for model in models:
            values = [row["accuracy"] for row in by_model.get(model, ())]
            cells.append(percent(*mean_interval(values)) if values else "–")
        lines.append([label(attack), *cells])
    return markdown_table(["attack", *models], lines)


def runs_table(rows: Iterable[Row], part: str) -> str:
    """Every run with its Wilson intervals and its time."""
    lines = []
    for attack, by_model in group(rows, part).items():
        for model, found in by_model.items():
            for row in found:
                interval = f"{100 * row['accuracy_low']:.1f} to {100 * row['accuracy_high']:.1f}"
                seed, accuracy = str(row["run_seed"]), f"{100 * row['accuracy']:.1f}"
                lines.append([label(attack), model, seed, accuracy, interval, f"{row['seconds']:.0f}"])
    return markdown_table(["attack", "model", "seed", "accuracy", "95% Wilson", "seconds"], lines)


def difference_table(rows: list[Row], part: str, cells: Sequence[Cell], first: str, second: str) -> str:
    """first minus second in points, on the same images and the same seeds; says what it had to leave out."""
    folders = {cell.key: cell.folder for cell in cells}
    lines, left_out = [], []
    for attack, by_model in group(rows, part).items():
        others = {row["run_seed"]: row for row in by_model.get(second, ())}
        pairs = []
        for row in by_model.get(first, ()):
            if row["run_seed"] not in others:
                continue
            one, other = (_right(r, folders.get(r["key"])) for r in (row, others[row["run_seed"]]))
            if one is None or other is None or len(one) != len(other):
                left_out.append(f"{label(attack)} (seed {row['run_seed']})")
                continue
            pairs.append((row["run_seed"], *paired_difference(one, other)))
        if pairs:
            each = "; ".join(f"seed {seed}: {_points(d)} ± {100 * h:.1f}" for seed, d, h in pairs)
            mean, half = mean_interval([d for _, d, _ in pairs])
            over = _points(mean) if half is None else f"{_points(mean)} ± {100 * half:.1f}"
            lines.append([label(attack), over, each])
    header = ["attack", f"{first} − {second}, mean over seeds", "each seed, over its images"]
    table = markdown_table(header, lines)
    if not left_out:
        return table
    return f"{table}\n\nLeft out, as it is not known which images both had right: {', '.join(left_out)}."


def _right(row: Row, folder: Path | None) -> np.ndarray | None:
    """Which images a row counts as right: from the row, or from the run's folder for rows without."""
    if "right" in row:
        return unpack(row["right"], row["n"])
    if folder is None or not flags_file(folder, row["key"]).is_file():
        return None
    with np.load(flags_file(folder, row["key"])) as flags:
        return flags[f"correct/{row['attack']}"]


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def label(attack: str) -> str:
    """An attack's name as a table shows it."""
    return {"none": "none (clean)", "worst": "worst of all"}.get(attack, attack)


def provenance(rows: Sequence[Row]) -> str:
    """Versions, hardware and time of what is in a table."""
    versions: Mapping[str, str] = rows[-1]["versions"]
    hardware = ", ".join(sorted({row["hardware"] for row in rows}))
    runs = {row["key"]: row["train_seconds"] or 0.0 for row in rows}
    evaluations = sum(row["seconds"] for row in rows if row["attack"] == evaluation.WORST)
    interrupted = sum(1 for key in {row["key"] for row in rows if row["train_resumed_at"]} if key)
    note = f" ({interrupted} of them resumed; their time is that of the last part)" if interrupted else ""
    return (
        f"- Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}\n"
        f"- Hardware: {hardware}\n"
        f"- Wall-clock: training {sum(runs.values()) / 60:.0f} minutes for {len(runs)} runs{note}, attacks "
        f"{evaluations / 60:.0f} minutes, compilation included"
    )
