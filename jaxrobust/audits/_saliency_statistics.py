"""From what was measured by row to a report: means with intervals over people, curves, words."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.audits._saliency_measure import RANDOM_MAP, SALIENT, Cell, Measured, Plan
from jaxrobust.audits._saliency_report import (
    WORST_MAP,
    AgreementRow,
    Case,
    MapRow,
    QCurve,
    SaliencyRow,
)
from jaxrobust.audits._subjects import Subject
from jaxrobust.evaluation import Estimate, subject_bootstrap
from jaxrobust.evaluation._provenance import describe

_NUM_CASES = 4


class Column(NamedTuple):
    """A weighted mean: of values `[m]` over the rows under mask bool `[m]`."""

    values: np.ndarray
    mask: np.ndarray


class Found(NamedTuple):
    """The parts of a report that are estimated."""

    before: dict[str, Estimate]
    rows: tuple[SaliencyRow, ...]
    curves: tuple[QCurve, ...]
    draws: np.ndarray


class _Table:
    """Columns by name, estimated all at once, from the same draws of people."""

    def __init__(self, genuine: np.ndarray | None, right: np.ndarray, rows: np.ndarray) -> None:
        self.genuine, self.right, self.rows = genuine, right, rows
        self.columns: dict[Any, Column] = {}

    def of_right(self, key: Any, values: np.ndarray) -> None:
        """A mean over the rows that were right, whose values `[r]` these are."""
        full = np.zeros(len(self.right))
        full[self.rows] = values
        self.columns[key] = Column(full, self.right)

    def accepted(self, key: Any, flipped: np.ndarray) -> None:
        """TAR and FAR over all rows: those that were wrong before stay as they were."""
        assert self.genuine is not None
        right_now = self.right.copy()
        right_now[self.rows[flipped]] = False
        accepted = (right_now == self.genuine).astype(float)
        self.columns[(*key, "tar")] = Column(accepted, self.genuine)
        self.columns[(*key, "far")] = Column(accepted, ~self.genuine)

    def estimates(
        self, people: np.ndarray, fold: np.ndarray, num_draws: int, seed: int
    ) -> tuple[dict[Any, Estimate], np.ndarray]:
        """Every column with its interval, and the draws."""
        names = list(self.columns)
        masks = np.stack([self.columns[name].mask for name in names], axis=1).astype(float)
        values = np.stack([self.columns[name].values for name in names], axis=1) * masks

        def means(weights: np.ndarray) -> np.ndarray:
            counts = weights @ masks
            sums = weights @ values
            return np.divide(sums, counts, out=np.full(len(names), np.nan), where=counts > 0)

        whole = means(np.ones(len(self.right)))
        if len(np.unique(people)) < 2:
            blank = np.full((num_draws, len(names)), np.nan)
            return {name: Estimate(_said(value)) for name, value in zip(names, whole)}, blank
        boot = subject_bootstrap(means, people, fold, num_draws=num_draws, seed=seed)
        found = {
            name: Estimate(_said(value), _said(low), _said(high))
            for name, value, low, high in zip(names, whole, boot.low, boot.high)
        }
        return found, boot.draws


def _said(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def estimate(
    measured: Measured,
    plan: Plan,
    people: np.ndarray,
    fold: np.ndarray,
    genuine: np.ndarray | None,
    num_draws: int,
) -> Found:
    """Every mean of the report; `genuine` bool `[m]` for pairs, None for classes."""
    table = _Table(genuine, measured.before.right, measured.rows)
    everyone = np.ones(len(measured.before.right), bool)
    table.columns[("before", "right")] = Column(measured.before.right.astype(float), everyone)
    if genuine is not None:
        table.accepted(("before",), np.zeros(len(measured.rows), bool))
    titles = [(region, kind) for region in plan.regions for kind in plan.perturbations]
    maps = [*plan.maps, WORST_MAP]
    for name in maps:
        for region, kind in titles:
            _columns(table, measured, plan, name, region, kind)
    curves = [(name, kind) for name in maps for kind in plan.perturbations]
    for name, kind in curves if len(plan.regions) > 1 else ():
        _curve_columns(table, measured, plan, name, kind)
    found, draws = table.estimates(people, fold, num_draws, plan.seed)
    before = {"right": found["before", "right"]}
    if genuine is not None:
        before |= {"tar": found["before", "tar"], "far": found["before", "far"]}
    rows = tuple(
        _row(found, measured, plan, name, region, kind, genuine is not None)
        for name in maps
        for region, kind in titles
    )
    drawn = tuple(
        _curve(found, measured, plan, name, kind)
        for name, kind in (curves if len(plan.regions) > 1 and len(measured.rows) else ())
    )
    return Found(before, rows, drawn, draws)


def flips(measured: Measured, plan: Plan, name: str, region: str, kind: str, place: str) -> np.ndarray:
    """bool `[r]`; of the worst over maps, whether any map's region flips."""
    maps = plan.maps if name == WORST_MAP else [name]
    cells = [measured.after.get(Cell(one, region, kind, place)) for one in maps]
    return np.any([np.zeros(0, bool) if one is None else ~one.right for one in cells], axis=0)


def _drops(
    measured: Measured, plan: Plan, name: str, region: str, kind: str, place: str, field: str
) -> np.ndarray:
    """float64 `[r]`, the fall of `support` or `evidence`; the largest over maps; all of it for NaN."""
    maps = plan.maps if name == WORST_MAP else [name]
    before = getattr(measured.before, field)[measured.rows]
    falls = []
    for one in maps:
        cell = measured.after.get(Cell(one, region, kind, place))
        if cell is None:
            return np.zeros(0)
        falls.append(np.where(cell.finite, before - getattr(cell, field), np.abs(before)))
    return np.max(falls, axis=0)


def _columns(table: _Table, measured: Measured, plan: Plan, name: str, region: str, kind: str) -> None:
    where = (name, region, kind)
    own = flips(measured, plan, *where, SALIENT)
    fall = _drops(measured, plan, *where, SALIENT, "support")
    table.of_right((*where, "flips"), own)
    table.of_right((*where, "support"), fall)
    table.of_right((*where, "evidence"), _drops(measured, plan, *where, SALIENT, "evidence"))
    for place in plan.places[1:]:
        other = flips(measured, plan, *where, place)
        table.of_right((*where, "flips", place), other)
        table.of_right((*where, "excess", place), own.astype(float) - other)
        drop = _drops(measured, plan, *where, place, "support")
        table.of_right((*where, "support excess", place), fall - drop)
    if table.genuine is not None:
        table.accepted(where, own)


def _row(
    found: Mapping[Any, Estimate],
    measured: Measured,
    plan: Plan,
    name: str,
    region: str,
    kind: str,
    pairs: bool,
) -> SaliencyRow:
    where, controls = (name, region, kind), plan.places[1:]
    maps = plan.maps if name == WORST_MAP else [name]
    areas = [measured.area[one, region].mean() for one in maps if len(measured.rows)]
    bad = [~measured.after[Cell(one, region, kind, SALIENT)].finite for one in maps if len(measured.rows)]
    return SaliencyRow(
        map=name,
        region=region,
        perturbation=kind,
        area=float(np.mean(areas)) if areas else 0.0,
        flips=found[(*where, "flips")],
        controls={place: found[(*where, "flips", place)] for place in controls},
        excess={place: found[(*where, "excess", place)] for place in controls},
        support_drop=found[(*where, "support")],
        evidence_drop=found[(*where, "evidence")],
        support_drop_excess={place: found[(*where, "support excess", place)] for place in controls},
        tar=found[(*where, "tar")] if pairs else None,
        far=found[(*where, "far")] if pairs else None,
        nonfinite=int(np.any(bad, axis=0).sum()) if bad else 0,
    )


def _ascending(measured: Measured, plan: Plan, name: str) -> list[tuple[float, str]]:
    """Mean areas with their regions, from the smallest."""
    maps = plan.maps if name == WORST_MAP else [name]
    return sorted(
        (float(np.mean([measured.area[one, region].mean() for one in maps])), region)
        for region in plan.regions
    )


def _curve_columns(table: _Table, measured: Measured, plan: Plan, name: str, kind: str) -> None:
    """The area under a row's own curve is linear in its flips, so that it is a mean like others."""
    if not len(measured.rows):
        return
    steps = _ascending(measured, plan, name)
    areas = np.asarray([0.0, *(area for area, _ in steps)])
    under = {}
    control = plan.places[1] if len(plan.places) > 1 else None
    for place in filter(None, (SALIENT, control)):
        at = [np.zeros(len(measured.rows))]
        at += [flips(measured, plan, name, region, kind, place).astype(float) for _, region in steps]
        under[place] = np.trapezoid(np.stack(at), areas, axis=0) / max(areas[-1], 1e-12)
        table.of_right((name, kind, "under", place), under[place])
    if control:
        table.of_right((name, kind, "under", "excess"), under[SALIENT] - under[control])


def _curve(found: Mapping[Any, Estimate], measured: Measured, plan: Plan, name: str, kind: str) -> QCurve:
    steps = _ascending(measured, plan, name)
    control = plan.places[1] if len(plan.places) > 1 else None
    nothing = Estimate(None)

    def at(place: str) -> tuple[float, ...]:
        return (
            0.0,
            *(float(flips(measured, plan, name, region, kind, place).mean()) for _, region in steps),
        )

    return QCurve(
        map=name,
        perturbation=kind,
        areas=(0.0, *(area for area, _ in steps)),
        flips=at(SALIENT),
        control=at(control) if control else (),
        area_under=found[name, kind, "under", SALIENT],
        control_under=found[name, kind, "under", control] if control else nothing,
        excess_under=found[name, kind, "under", "excess"] if control else nothing,
    )


def map_rows(measured: Measured, plan: Plan) -> tuple[MapRow, ...]:
    """What is known of each map apart from perturbations."""

    def mean(name: str, kind: str) -> float | None:
        values = measured.curves.get((name, kind))
        return None if values is None else _said(float(np.mean(values)))

    return tuple(
        MapRow(
            map=name,
            config=describe(method),
            constant=int(measured.constant[name].sum()) if name in measured.constant else 0,
            insertion=mean(name, "insertion"),
            deletion=mean(name, "deletion"),
            random_insertion=mean(RANDOM_MAP, "insertion"),
            random_deletion=mean(RANDOM_MAP, "deletion"),
            cascade={layer: _mean_there(ranks) for layer, ranks in measured.cascade.get(name, {}).items()},
        )
        for name, method in plan.maps.items()
    )


def _mean_there(values: np.ndarray) -> float:
    """The mean of what is no NaN: a constant map has no ranks."""
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else float("nan")


def informative(rows: Sequence[MapRow]) -> bool | None:
    """Whether some map's curves are better than noise's; None where none was drawn."""
    drawn = [row for row in rows if row.insertion is not None]
    if not drawn:
        return None
    return any(
        _less(row.deletion, row.random_deletion) or _less(row.random_insertion, row.insertion)
        for row in drawn
    )


def _less(first: float | None, second: float | None) -> bool:
    return first is not None and second is not None and first < second


def pointless(measured: Measured, plan: Plan) -> float:
    """The share of maps that are constant, or whose headline's region is empty."""
    if not len(measured.rows):
        return 0.0
    found = [measured.constant[name] | measured.empty[name, plan.headline] for name in plan.maps]
    return float(np.mean(found))


def agreement_rows(measured: Measured) -> tuple[AgreementRow, ...]:
    """Every two maps."""
    return tuple(
        AgreementRow(one, other, _mean_there(rank), _mean_there(overlap))
        for (one, other), (rank, overlap) in measured.agreement.items()
    )


def cases(measured: Measured, plan: Plan, subjects: Sequence[Subject]) -> tuple[Case, ...]:
    """Of the headline: the rows that fell most and least, each under the map that did most to it."""
    if not len(measured.rows):
        return ()
    kind = next(iter(plan.perturbations))
    before = measured.before.support[measured.rows]
    names = list(plan.maps)
    after = [measured.after[Cell(name, plan.headline, kind, SALIENT)] for name in names]
    falls = np.stack([np.where(one.finite, before - one.support, before) for one in after])
    which, fall = falls.argmax(axis=0), falls.max(axis=0)
    order = np.argsort(-fall, kind="stable")
    num = min(_NUM_CASES, (len(order) + 1) // 2)
    picked = [("worst", row) for row in order[:num]] + [("best", row) for row in order[num:][::-1][:num]]
    titles = [title for subject in subjects for title in subject.name]
    images = np.concatenate([subject.images for subject in subjects])
    partners = [row for one in subjects if one.partner is not None for row in one.partner]
    found = []
    for said, row in picked:
        name = names[which[row]]
        found.append(
            Case(
                name=titles[measured.rows[row]],
                kind=said,
                map=name,
                image=images[measured.rows[row]],
                partner=partners[measured.rows[row]] if partners else None,
                heat=measured.maps[name][row],
                inside=measured.inside[name][row],
                perturbed=measured.perturbed[name][row],
                before=float(before[row]),
                after=float(after[which[row]].support[row]),
                flipped=bool(~after[which[row]].right[row]),
            )
        )
    return tuple(found)


def flags(measured: Measured, subjects: Sequence[Subject]) -> dict[str, np.ndarray]:
    """By row: which it is, whether it was right, and which cells flipped it (-1: it was not asked)."""
    found = {
        "number": np.concatenate([one.number for one in subjects]),
        "fold": np.concatenate([one.fold for one in subjects]),
        "unit": np.concatenate([one.people for one in subjects]),
        "right": measured.before.right.astype(np.int8),
    }
    for cell, judged in measured.after.items():
        row = np.full(len(measured.before.right), -1, np.int8)
        row[measured.rows] = ~judged.right
        found["/".join(("flipped", *cell))] = row
    return found
