"""What `verify_attacked` found, as values, as JSON and as Markdown."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.evaluation._types import Level, Verdict
from jaxrobust.evaluation._verification_report import Estimate, plain


class AttackedRow(NamedTuple):
    """One attack, or all together (`ensemble`), on the pairs.

    Attributes:
        attack: its name.
        made_on: the other model that the images were made on; None: the model itself.
        radius: for a reader; `eps`: exactly, one entry per neighbourhood; `config`: all its fields.
        minimum_norm: it looks at any distance, and counts what it found within the radius of its ball.
        acceptance: the share of the genuine pairs that are still accepted, under dodging.
        false_accepts: the share of the impostor pairs that are accepted, under impersonation.
        acceptance_8bit, false_accepts_8bit: the same where the images are rounded to 8 bits; what the
            rounding takes beyond the radius is no success.
        dodged, impersonated: how many of the pairs decided rightly before it broke.
        nonfinite: pairs on which the model said NaN; they count as broken.
        outside, outside_8bit: results farther than the radius, and of the rounded ones; no successes.
        pixel_low, pixel_high: the bounds of all its images; None where it attacked nothing.
        seconds: it took, compiling included.
    """

    attack: str
    made_on: str | None
    radius: str
    eps: list[dict[str, Any]]
    config: Any
    minimum_norm: bool
    acceptance: Estimate
    false_accepts: Estimate
    acceptance_8bit: float
    false_accepts_8bit: float
    dodged: int
    impersonated: int
    nonfinite: int
    outside: int
    outside_8bit: int
    pixel_low: float | None
    pixel_high: float | None
    seconds: float


class Distances(NamedTuple):
    """The least change that breaks pairs of one kind.

    A median is the least distance at which half of the pairs are broken, failures infinitely far: None where
    half are. Its interval's `high` is None where that is infinite too.

    Attributes:
        right: how many pairs were decided rightly before.
        found: the share of them that was broken, at any distance that was tried.
        median: over them, in the units of the row.
        median_all: over all pairs, those decided wrongly at 0: what to compare models of different clean
            accuracy by.
    """

    right: int
    found: float | None
    median: Estimate
    median_all: Estimate


class MinimumRow(NamedTuple):
    """The least changes that one attack found.

    Attributes:
        attack: its name. made_on: as in `AttackedRow`.
        how: `bisection` of the radius, or `minimum norm`.
        norm: 0, 1, 2 or "inf"; None where there is no single ball, and distances are in radii.
        largest: the largest radius that bisection tried, in the norm's units; None for minimum-norm attacks.
        resolution: how far a bisected radius may lie above the least; None for minimum-norm attacks.
        dodging, impersonation: of genuine and of impostor pairs; pixels are in [0, 1].
        dodging_255, impersonation_255: the same with pixels in [0, 255], as face benchmarks print them; None
            where the norm is a count or there is none.
    """

    attack: str
    how: str
    norm: float | str | None
    largest: float | None
    resolution: float | None
    dodging: Distances
    impersonation: Distances

    @property
    def dodging_255(self) -> Estimate | None:
        """The median over genuine pairs decided rightly, pixels in [0, 255]."""
        return self._levels(self.dodging.median)

    @property
    def impersonation_255(self) -> Estimate | None:
        """The same of impostor pairs."""
        return self._levels(self.impersonation.median)

    def _levels(self, median: Estimate) -> Estimate | None:
        if self.norm in (None, 0):
            return None
        return Estimate(*(None if value is None else 255 * value for value in median))


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackedVerificationReport:
    """A verification model under attacks on some of the pairs.

    Attributes:
        model, dataset: names.
        fingerprint: of the set of people; `pairs`, `chosen`, `validation_pairs`: hashes of the full list, of
            the pairs attacked, and of those that gave the thresholds.
        num_genuine, num_impostor: attacked; of `num_listed` pairs. num_people, num_folds: in them.
        far: that the thresholds were to have on validation pairs.
        folds: one dict per fold: its threshold tau and the FAR it has on validation pairs.
        acceptance, false_accepts: the shares of genuine and of impostor pairs accepted before any attack.
        rows: one per attack, then one per attack and model that its images were made on, then `ensemble`: a
            pair is broken if any of the rows before breaks it.
        minimums: one per minimum-norm attack and per attack whose least radius was sought.
        verdicts: signs of masked gradients, and of attacks that do less than they say.
        warnings: sentences to read before the numbers.
        flags: arrays `[m]` by pair: `row` (its place in the list), `genuine`, `accepted` (before),
            `broken/<row>`, `broken_8bit/<row>`, and `least/<attack>` (float64, in the units of its minimum
            row: 0 where the decision was wrong before, inf where nothing broke it).
        statistics: the names of the columns of `draws`.
        draws: float64 `[num_draws, s]` of the bootstrap over people; with the same pairs and seed, of the
            same people for two models, so that their differences are paired.
        meta: seed, batch size, draws, seconds, versions, hardware.
    """

    model: str
    dataset: str
    fingerprint: str
    pairs: str
    chosen: str
    validation_pairs: str
    num_listed: int
    num_genuine: int
    num_impostor: int
    num_people: int
    num_folds: int
    far: float
    folds: tuple[Mapping[str, Any], ...]
    acceptance: Estimate
    false_accepts: Estimate
    rows: tuple[AttackedRow, ...]
    minimums: tuple[MinimumRow, ...]
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...]
    flags: Mapping[str, np.ndarray] = field(repr=False)
    statistics: tuple[str, ...]
    draws: np.ndarray = field(repr=False)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def row(self, name: str) -> AttackedRow:
        """The row of this name (`pgd`, `pgd from OTHER`, `ensemble`); an unknown one lists the known."""
        return _named(self.rows, name, row_name)

    def minimum(self, name: str) -> MinimumRow:
        """The least changes that this attack found; an unknown name lists the known ones."""
        return _named(self.minimums, name, lambda row: row.attack)

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, as what `json.dumps` takes; what cannot be said is None."""
        names = [f.name for f in dataclasses.fields(self)]
        found = {name: plain(getattr(self, name)) for name in names if name not in ("flags", "draws")}
        found["verdicts"] = [plain(dataclasses.asdict(verdict)) for verdict in self.verdicts]
        for row, said in zip(self.minimums, found["minimums"]):
            said["dodging_255"] = plain(row.dodging_255)
            said["impersonation_255"] = plain(row.impersonation_255)
        return found

    def summary(self) -> str:
        """Markdown: what was attacked, a table of the attacks, one of the least changes, what to know."""
        lines = [
            f"**{self.model or 'model'}** on {self.dataset}: {self.num_genuine:,} genuine and "
            f"{self.num_impostor:,} impostor pairs of {self.num_people} people in {self.num_folds} folds, "
            f"drawn evenly (seed {self.meta['seed']}) from {self.num_listed:,}. Thresholds from validation "
            f"pairs, asked FAR {100 * self.far:.3g}%. The first image of each is changed, the second stays.",
            "",
            "| attack | radius | accepted under dodging | rounded to 8 bits | accepted under impersonation | "
            "rounded to 8 bits |",
            "|-|-|-|-|-|-|",
            f"| none | | {self.acceptance.percent()} | | {self.false_accepts.percent()} | |",
        ]
        for row in self.rows:
            lines.append(
                f"| {row_name(row)} | {row.radius} | {row.acceptance.percent()} | "
                f"{100 * row.acceptance_8bit:.1f}% | {row.false_accepts.percent()} | "
                f"{100 * row.false_accepts_8bit:.1f}% |"
            )
        if self.minimums:
            lines += ["", "| least change | norm | dodging, median | impersonation, median |", "|-|-|-|-|"]
        for least in self.minimums:
            cells = [_distance(least, kind) for kind in ("dodging", "impersonation")]
            lines.append(f"| {least.attack} ({least.how}) | {_norm(least.norm)} | {cells[0]} | {cells[1]} |")
        lines += ["", "Intervals: 95%, by resampling people."]
        if self.minimums:
            lines.append("Medians over the pairs decided rightly before; pixels in [0, 255] but for counts.")
        lines += [f"Warning: {warning}" for warning in self.warnings]
        bad = [verdict for verdict in self.verdicts if verdict.level in (Level.WARN, Level.FAIL)]
        lines += [f"{verdict.level.upper()} ({verdict.check}): {verdict.advice}" for verdict in bad]
        return "\n".join(lines)


def row_name(row: AttackedRow) -> str:
    """`pgd`, or `pgd from OTHER`."""
    return row.attack if row.made_on is None else f"{row.attack} from {row.made_on}"


def _named(rows: tuple[Any, ...], name: str, name_fn: Any) -> Any:
    for row in rows:
        if name_fn(row) == name:
            return row
    known = ", ".join(map(name_fn, rows)) or "none"
    raise ValueError(f"No row {name!r} in this report. Known: {known}.")


def _norm(norm: float | str | None) -> str:
    return "radii" if norm is None else "ℓ∞" if norm == "inf" else f"ℓ{norm:g}"


def _distance(row: MinimumRow, kind: str) -> str:
    """`1.53 (1.20-1.90)`, or from where on nothing was found."""
    found: Distances = getattr(row, kind)
    median = getattr(row, f"{kind}_255") or found.median
    if not found.right:
        return "–"
    if median.value is None or not math.isfinite(median.value):
        return f"half not broken (found {100 * (found.found or 0):.0f}%)"
    high = "∞" if median.high is None else f"{median.high:.3g}"
    interval = "" if median.low is None else f" ({median.low:.3g}-{high})"
    return f"{median.value:.3g}{interval}"
