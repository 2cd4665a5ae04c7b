"""What a table needs: which models from which seeds, in which folders, under which attacks."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from jaxrobust import evaluation
from jaxrobust.experiments import codec
from jaxrobust.experiments._results import Cell
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.experiments.tables.settings import Scale
from jaxrobust.experiments.tables.specs import Row, Spec

FAST, SLOW, CURVE = "fast", "slow", "curve"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured at a scale.

    Attributes:
        num: test images; None for all.
        num_slow: of those, for the attacks that take minutes, which see the first seed alone; and for curves.
        seeds: of SRT and its strongest rivals; the first alone for the other rows.
    """

    num: int | None
    num_slow: int
    seeds: tuple[int, ...]


SIZES = {
    Scale.TINY: Sizes(num=100, num_slow=20, seeds=(0,)),
    Scale.SMALL: Sizes(num=2000, num_slow=500, seeds=(0, 1, 2)),
    Scale.GPU: Sizes(num=None, num_slow=2000, seeds=(0, 1, 2)),
    Scale.PAPER: Sizes(num=None, num_slow=1000, seeds=(0, 1, 2)),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One model of a table from one seed, and all that is measured of it.

    Attributes:
        row: of the table.
        experiment: the row's, with this seed.
        folder: of its run.
        cells: what it is attacked by, a cell for each number of images.
        curves: attacks whose accuracy is drawn against the radius.
        num_curve: on so many images.
    """

    row: Row
    experiment: Experiment
    folder: Path
    cells: tuple[Cell, ...]
    curves: tuple[str, ...]
    num_curve: int


def folder_of(experiment: Experiment, runs_dir: Path) -> Path:
    """The folder of a run by what decides its weights: tables that share a model share its run.

    >>> from jaxrobust.experiments import get
    >>> folder_of(get("digits_srt"), Path("runs")).name.startswith("digits-srt-seed0-")
    True
    """
    text = json.dumps(codec.training_json(experiment), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    objective = type(experiment.objective).__name__.lower()
    name = experiment.data.dataset.replace(":", "_").replace("/", "_")
    return runs_dir / f"{name}-{objective}-seed{experiment.seed}-{digest}"


def plan(spec: Spec, rows: Sequence[Row], runs_dir: Path, sizes: Sizes, seeds: Sequence[int]) -> list[Job]:
    """The jobs in the order in which they run: every row from the first seed, then rivals from the rest."""
    found = [_job(spec, row, seeds[0], runs_dir, sizes) for row in rows]
    rivals = [row for row in rows if row.rival]
    return found + [
        _job(spec, row, seed, runs_dir, sizes, further=True) for seed in seeds[1:] for row in rivals
    ]


def _job(spec: Spec, row: Row, seed: int, runs_dir: Path, sizes: Sizes, *, further: bool = False) -> Job:
    experiment = row.experiment.seeded(seed)
    folder = folder_of(experiment, runs_dir)
    groups = {
        FAST: [column.attack for column in spec.columns if not column.slow],
        SLOW: [column.attack for column in spec.columns if column.slow and not further],
    }
    cells = tuple(
        Cell(
            part=part,
            model=row.title,
            experiment=experiment,
            attacks=tuple(attacks),
            num=sizes.num_slow if part == SLOW else sizes.num,
            folder=folder,
        )
        for part, attacks in groups.items()
        if attacks
    )
    return Job(
        row=row,
        experiment=experiment,
        folder=folder,
        cells=cells,
        curves=spec.curves,
        num_curve=sizes.num_slow,
    )


def label_of(attack: str, experiment: Experiment) -> str:
    """How results call an attack, with what differs from the threat model's own settings."""
    return evaluation.parse(attack, experiment.threat)[0]
