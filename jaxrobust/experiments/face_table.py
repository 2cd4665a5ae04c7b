"""Face training with a performance gate (CN116665282A): four arms side by side on ORL.

    jaxrobust reproduce face-arms --seeds 0 1 2

Every arm is trained on four folds of people with the same net and steps, and the folds' decisions are pooled:
clean EER and TAR, acceptance under dodging, false accepts under impersonation, by PGD-40 and by everything
together, the images of another seed's adversarially trained models included.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust import _validate
from jaxrobust.experiments import _face_page, codec, registry
from jaxrobust.experiments._files import Row, read_rows
from jaxrobust.experiments._results import LogFn, replace_rows
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.experiments.face_arms import ARMS
from jaxrobust.experiments.face_data import FaceData
from jaxrobust.experiments.judge_faces import FaceReport, evaluate_faces
from jaxrobust.experiments.run import RESULT_FILE, Run, is_finished, load_run, train
from jaxrobust.experiments.workers import check_jobs, devices, each
from jaxrobust.models import FaceCNN

OUT = Path("docs/results/face_arms")
FAMILY = "face_orl"
SURROGATE = "at"
SCALES = {"tiny": 6, "small": 200}
"""Pairs of each kind that are attacked by default: `tiny` is to see in a minute whether everything runs."""


def reproduce(
    *,
    runs_dir: Path,
    log_fn: LogFn,
    data_dir: Path | None = None,
    out_dir: Path | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    only: str | None = None,
    num: int | None = None,
    scale: str = "small",
    jobs: int = 1,
    dry_run: bool = False,
) -> None:
    """Trains and attacks every arm; files are written after every row, so that a kill loses one.

    Args:
        runs_dir: for the runs; finished ones are kept, others resumed.
        log_fn: receives lines.
        data_dir: not read by ORL.
        out_dir: for `rows.jsonl`, `README.md` and the plots; None for docs/results/face_arms, at tiny scale
            for a folder beside the runs.
        seeds: of weights and batches; the folds are the same for all, so that arms compare paired.
        only: some of the arms, separated by commas.
        num: genuine pairs that are attacked, and as many impostor pairs, drawn evenly over folds; None for
            the scale's.
        scale: `small`, the named experiments, or `tiny`.
        jobs: models at once, each with a share of the cores, and on a device of its own where there are
            several.
        dry_run: list what is missing and train nothing.
    """
    usual = _validate.member("scale", scale, SCALES)
    num = usual if num is None else num
    _validate.at_least("num", num, 1)
    _validate.at_least("jobs", jobs, 1)
    arms = tuple(ARMS) if only is None else tuple(only.split(","))
    for arm in arms:
        _validate.member("arm", arm, {**ARMS, "srt": ""})
    plan = _Plan(seeds, runs_dir, scale, num)
    out_dir = out_dir or (runs_dir / "table" if scale == "tiny" else OUT)
    path = out_dir / "rows.jsonl"
    known = {row["key"] for row in read_rows(path)}
    # A row with its draws needs no run any more: a clone with committed results goes on from them.
    missing = [
        (arm, seed)
        for seed in seeds
        for arm in arms
        if plan.key(arm, seed) not in known or not draws_file(out_dir, arm, seed).is_file()
    ]
    runs = [one for one in plan.runs(missing) if not is_finished(one[1], one[0])]
    if dry_run:
        log_fn(f"{len(runs)} runs are to be trained: {', '.join(f.name for _, f in runs) or 'none'}.")
        log_fn(
            f"{len(missing)} rows are to be measured: {', '.join(f'{a}-{s}' for a, s in missing) or 'none'}."
        )
        return
    if jobs > 1:
        check_jobs(jobs, *devices())
    # All are trained first: each is attacked with another seed's images too.
    each(
        runs,
        functools.partial(_trained, data_dir=data_dir),
        jobs,
        log_fn=log_fn,
        name_fn=lambda run: run[1].name,
        done_fn=lambda run, _: log_fn(f"{run[1].name} is trained."),
    )
    command = f"jaxrobust reproduce face-arms --seeds {' '.join(map(str, seeds))}"
    command += "" if only is None else f" --only {only}"
    command += "" if scale == "small" else f" --scale {scale}"
    command += "" if num == usual else f" --num {num}"
    # Rows of other settings, which a later command may bring up to date, do not stand beside these.
    current = {plan.key(arm, seed) for arm in (*ARMS, "srt") for seed in seeds}

    def write() -> None:
        rows = [row for row in read_rows(path) if row["key"] in current]
        _face_page.write(rows, out_dir, runs_dir, command)

    def keep(cell: tuple[str, int], row: Row) -> None:
        replace_rows(path, [{**row, "key": plan.key(*cell)}], ("arm", "seed"))
        write()

    measure_fn = functools.partial(_measured, plan=plan, out_dir=out_dir, data_dir=data_dir)
    each(
        missing,
        measure_fn,
        jobs,
        log_fn=log_fn,
        name_fn=lambda cell: f"{cell[0]}, seed {cell[1]}",
        done_fn=keep,
    )
    write()
    log_fn(f"Results: {out_dir / 'README.md'}")


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Which runs there are, and where they lie."""

    seeds: tuple[int, ...]
    runs_dir: Path
    scale: str
    num: int

    def experiment(self, arm: str, seed: int, fold: int) -> Experiment:
        """One run of an arm; seeds change weights and batches, not who is in which fold."""
        base = registry.get(f"{FAMILY}_{arm}")
        assert isinstance(base.data, FaceData)
        data = dataclasses.replace(base.data, fold=fold)
        if self.scale == "tiny":
            data = dataclasses.replace(data, size=(16, 16))
            net = FaceCNN(num_classes=24, widths=(8, 8, 8, 8), embedding_size=16)
            attacks = ("none", "pgd:steps=2", "mi_fgsm:steps=2")
            base = dataclasses.replace(base, model=net, num_steps=6, attacks=attacks)
        return dataclasses.replace(base, seed=seed, data=data)

    def folder(self, arm: str, seed: int, fold: int) -> Path:
        """Where that run lies."""
        return self.runs_dir / f"{arm}-seed{seed}-fold{fold}"

    def folds(self, arm: str) -> range:
        """The numbers of the folds."""
        config = self.experiment(arm, 0, 0).data
        assert isinstance(config, FaceData)
        return range(config.num_folds)

    def runs(self, cells: Sequence[tuple[str, int]]) -> Iterator[tuple[Experiment, Path]]:
        """What these rows (arm, seed) need, their surrogates among it, each once."""
        others = [(SURROGATE, other) for _, seed in cells if (other := self.other(seed)) is not None]
        for arm, seed in dict.fromkeys([*others, *cells]):
            for fold in self.folds(arm):
                yield self.experiment(arm, seed, fold), self.folder(arm, seed, fold)

    def other(self, seed: int) -> int | None:
        """The seed whose adversarially trained models images are made on too; None where there is one."""
        if len(self.seeds) < 2:
            return None
        return self.seeds[(self.seeds.index(seed) + 1) % len(self.seeds)]

    def key(self, arm: str, seed: int) -> str:
        """Changes with everything that decides a row."""
        own = [codec.to_json(self.experiment(arm, seed, fold)) for fold in self.folds(arm)]
        other = self.other(seed)
        surrogate = [] if other is None else [codec.training_json(self.experiment(SURROGATE, other, 0))]
        for one in own:
            one.pop("note")
        text = json.dumps([own, surrogate, self.num], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def load(self, arm: str, seed: int) -> list[Run]:
        """The last checkpoints: six validation people would choose by chance, and arms are to differ by
        nothing else."""
        return [load_run(self.folder(arm, seed, fold), which="last") for fold in self.folds(arm)]


def draws_file(out_dir: Path, arm: str, seed: int) -> Path:
    """The bootstrap's draws of a row, by which rows are compared."""
    return out_dir / _face_page.DRAWS / f"{arm}-seed{seed}.npz"


def _trained(run: tuple[Experiment, Path], *, data_dir: Path | None, log_fn: LogFn) -> None:
    experiment, folder = run
    log_fn(f"{folder.name}:")
    train(experiment, folder, data_dir=data_dir, log_fn=log_fn)


def _measured(
    cell: tuple[str, int], *, plan: _Plan, out_dir: Path, data_dir: Path | None, log_fn: LogFn
) -> Row:
    """One row: the folds of an arm and a seed, pooled."""
    arm, seed = cell
    log_fn(f"{arm}, seed {seed}:")
    runs, other = plan.load(arm, seed), plan.other(seed)
    surrogates = {} if other is None else {f"{SURROGATE}-seed{other}": plan.load(SURROGATE, other)}
    report = evaluate_faces(
        runs,
        data_dir=data_dir,
        num_genuine=plan.num,
        num_impostor=plan.num,
        minimum_eps=True,
        transfer_from=surrogates,
        seed=0,
        name=f"{arm}-seed{seed}",
        log_fn=log_fn,
    )
    _keep_draws(report, draws_file(out_dir, arm, seed))
    assert report.attacked is not None
    return {
        "arm": arm,
        "seed": seed,
        "clean": report.clean.to_json(),
        "attacked": report.attacked.to_json(),
        "runs": [_of_run(run) for run in runs],
    }


def _of_run(run: Run) -> dict[str, Any]:
    """How long it trained, and what its gate did."""
    result = json.loads((run.folder / RESULT_FILE).read_text(encoding="utf-8"))
    kept = {name: result.get(name) for name in ("seconds", "resumed_at", "gate")}
    return {"folder": run.folder.name, **kept}


def _keep_draws(report: FaceReport, path: Path) -> None:
    """Of the numbers that are compared: of the same people for all rows, so that differences are paired."""
    assert report.attacked is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = dict(zip(report.attacked.statistics, report.attacked.draws.T))
    columns = {name.replace("/", "|"): values for name, values in drawn.items()}
    columns[_face_page.CLEAN_EER] = report.clean.draws[:, 0]
    wanted = _face_page.statistics_of(report.attacked.rows[0].attack).values()
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as stream:
        np.savez_compressed(stream, **{name: columns[name].astype(np.float32) for name in wanted})
    fresh.replace(path)
