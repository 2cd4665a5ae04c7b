"""What a table or figure is made of: models, attacks, and the claims about their numbers."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxrobust.experiments.experiment import Experiment
from jaxrobust.experiments.tables.settings import Scale


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A model of a table.

    Attributes:
        key: as in `published`: `srt`, `srt@0.2`.
        title: as tables print it.
        experiment: how it is trained; its seeds are replaced.
        rival: also trained from the further seeds, as SRT is.
    """

    key: str
    title: str
    experiment: Experiment
    rival: bool = False


class Column(NamedTuple):
    """An attack of a table; `published` is the source's name for its column, None where it has none.

    `slow`: tried on fewer images, and on the first seed alone unless on `every_seed`.
    """

    attack: str
    published: str | None
    slow: bool = False
    every_seed: bool = False


class Place(NamedTuple):
    """A number of a table."""

    row: str
    attack: str


class Claim(NamedTuple):
    """The first accuracy is above the second by more than `margin`, which may be negative: not far below.

    `margin` is a difference of accuracies in [-1, 1]. `ours`: what the source does not say, or not with this
    margin, and this library asks beside it.
    """

    text: str
    first: Place
    second: Place
    margin: float = 0.0
    ours: bool = False

    @property
    def title(self) -> str:
        """The text, marked where it is ours."""
        return f"{self.text} (ours)" if self.ours else self.text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """A table or figure.

    Attributes:
        title: its heading.
        datasets: those it can be made for; the first is the default.
        make_rows: `(dataset, scale) -> rows`.
        columns: the attacks.
        claims: `(rows, dataset) -> claims`, about the rows that there are.
        curves: attacks whose accuracy is drawn against the radius, for figures.
        about: what a reader must know.
    """

    title: str
    datasets: tuple[str, ...]
    make_rows: Callable[[str, Scale], list[Row]]
    columns: tuple[Column, ...]
    claims: Callable[[Sequence[Row], str], list[Claim]]
    curves: tuple[str, ...] = ()
    about: str = ""

    @property
    def attacks(self) -> tuple[tuple[str, str | None], ...]:
        """Every attack with the source's name for its column: the columns', then the curves'."""
        columns = tuple((column.attack, column.published) for column in self.columns)
        return columns + tuple((curve, None) for curve in self.curves)
