"""What a table needs: which models from which seeds, in which folders, under which attacks."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from jaxrobust import evaluation
from jaxrobust.experiments import codec
from jaxrobust.experiments._results import Cell
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.experiments.tables.settings import Scale
from jaxrobust.experiments.tables.spec import Row, Spec

FAST, SLOW, CURVE = "fast", "slow", "curve"
"""Parts of the results: the fast attacks together, of which are `worst of all` and the trust checks; each
slow one alone, `slow/jsma`, so that an interruption loses one; and curves."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured at a scale, and how often a run is saved.

    Attributes:
        num: test images; None for all.
        num_slow: of those, for the attacks that take minutes, which mostly see the first seed alone; and for
            curves.
        seeds: of SRT and its strongest rivals; the first alone for the other rows.
        checkpoint_every: steps that a kill loses at most; None for a tenth of the run.
    """

    num: int | None
    num_slow: int
    seeds: tuple[int, ...]
    checkpoint_every: int | None = None


SIZES = {
    Scale.TINY: Sizes(num=100, num_slow=20, seeds=(0,)),
    Scale.SMALL: Sizes(num=2000, num_slow=200, seeds=(0, 1, 2)),
    Scale.GPU: Sizes(num=None, num_slow=2000, seeds=(0, 1, 2), checkpoint_every=50),
    Scale.PAPER: Sizes(num=None, num_slow=1000, seeds=(0, 1, 2), checkpoint_every=200),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One model of a table from one seed, and all that is measured of it.

    Attributes:
        row: of the table.
        experiment: the row's, with this seed.
        folder: of its run.
        cells: what it is attacked by: the fast attacks in one cell, each slow one in its own.
        curves: attacks whose accuracy is drawn against the radius.
        num_curve: on so many images.
        checkpoint_every: as in `Sizes`.
    """

    row: Row
    experiment: Experiment
    folder: Path
    cells: tuple[Cell, ...]
    curves: tuple[str, ...]
    num_curve: int
    checkpoint_every: int | None = None

    @property
    def name(self) -> str:
        """Which model from which seed."""
        return f"{self.row.title}, seed {self.experiment.seed}"

    @functools.cached_property
    def keys(self) -> dict[str, str]:
        """By attack, the key that its numbers have in the results."""
        found = {attack: cell.key for cell in self.cells for attack in cell.attacks}
        return found | {attack: f"curve-{self._curve(attack).key}" for attack in self.curves}

    def _curve(self, attack: str) -> Cell:
        return Cell(
            part=CURVE,
            model=self.row.title,
            experiment=self.experiment,
            attacks=(attack,),
            num=self.num_curve,
            folder=self.folder,
        )


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
    fast = tuple(column.attack for column in spec.columns if not column.slow)
    slow = [one.attack for one in spec.columns if one.slow and (one.every_seed or not further)]
    groups = {FAST: fast, **{f"{SLOW}/{attack}": (attack,) for attack in slow}}
    cells = tuple(
        Cell(
            part=part,
            model=row.title,
            experiment=experiment,
            attacks=attacks,
            num=sizes.num if part == FAST else sizes.num_slow,
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
        checkpoint_every=sizes.checkpoint_every,
    )


def label_of(attack: str, experiment: Experiment) -> str:
    """How results call an attack, with what differs from the threat model's own settings."""
    return evaluation.parse(attack, experiment.threat)[0]
