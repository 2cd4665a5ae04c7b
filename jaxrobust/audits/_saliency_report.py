"""What a saliency audit found, as values, as JSON and in words."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.evaluation import Estimate
from jaxrobust.evaluation._verification_report import plain

WORST_MAP = "worst over maps"
LOW_BELOW, HIGH_ABOVE = 0.1, 0.5


class Sensitivity(StrEnum):
    """How many decisions fall when the salient region is perturbed; see `SaliencyReport.verdict`."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    UNDETERMINED = "UNDETERMINED"


class SaliencyRow(NamedTuple):
    """One map, region and perturbation; every number with its 95% interval over people (or images).

    Attributes:
        map: its name, or `worst over maps`: a decision counts that any map's region flips.
        region, perturbation: their names. area: the mean share of the image that the region has.
        flips: the share of the decisions that were right and are wrong now.
        controls: the same where the region was laid elsewhere, by control.
        excess: flips minus those of the control, by control.
        support_drop: mean fall of the probability of the truth. evidence_drop: of the cosine's (the logit
            margin's) support.
        support_drop_excess: the first minus the control's, by control.
        tar, far: shares of all genuine and of all impostor pairs that are accepted now; None for classes.
        nonfinite: on how many rows the model said NaN; they count as flipped.
    """

    map: str
    region: str
    perturbation: str
    area: float
    flips: Estimate
    controls: Mapping[str, Estimate]
    excess: Mapping[str, Estimate]
    support_drop: Estimate
    evidence_drop: Estimate
    support_drop_excess: Mapping[str, Estimate]
    tar: Estimate | None
    far: Estimate | None
    nonfinite: int


class QCurve(NamedTuple):
    """Flips against the size of the region, for one map and perturbation.

    Attributes:
        areas: mean shares of the image, ascending from 0. flips, control: at these.
        area_under: the mean of the curve by the trapezoid rule, with its interval; `control_under` the
            control's; `excess_under` their difference.
    """

    map: str
    perturbation: str
    areas: tuple[float, ...]
    flips: tuple[float, ...]
    control: tuple[float, ...]
    area_under: Estimate
    control_under: Estimate
    excess_under: Estimate


class MapRow(NamedTuple):
    """What is known of a map apart from perturbations.

    Attributes:
        map: its name. config: its fields.
        constant: rows whose map is constant, so that its region says nothing.
        insertion, deletion: mean areas under the curves (of the probability, or of the pair's support).
        random_insertion, random_deletion: the same of maps of noise.
        cascade: mean rank correlation with the map of a model whose layers, from the output on, were drawn
            anew one more at a time (Adebayo et al., arXiv 1810.03292); by the layer drawn last.
    """

    map: str
    config: Any
    constant: int
    insertion: float | None
    deletion: float | None
    random_insertion: float | None
    random_deletion: float | None
    cascade: Mapping[str, float]


class AgreementRow(NamedTuple):
    """Two maps: their mean rank correlation, and the mean IoU of their regions at the headline's size."""

    first: str
    second: str
    spearman: float
    iou: float


class Case(NamedTuple):
    """One image for the page.

    Attributes:
        name: of the row. kind: `worst` or `best`: the largest and the smallest fall of support.
        map: whose region it is.
        image, perturbed: float32 `[h, w, c]`. heat: float32 `[h, w]`. inside: bool `[h, w]`.
        before, after: the probability of the truth. flipped: whether the decision is wrong now.
    """

    name: str
    kind: str
    map: str
    image: np.ndarray
    heat: np.ndarray
    inside: np.ndarray
    perturbed: np.ndarray
    before: float
    after: float
    flipped: bool


class Verdict(NamedTuple):
    """Attributes:
    sensitivity: LOW where the interval of the headline's flips, worst over maps, lies below 10%; HIGH where
        it lies above 50%; MEDIUM otherwise; UNDETERMINED where there is no interval, or where LOW would rest
        on maps that found nothing (constant ones, or a single map).
    localised: True where the interval of the headline's excess over the rolled region lies above 0, False
        where it lies below or at 0 with its upper end, None where it holds 0.
    sentence: both in words, with their numbers.
    """

    sensitivity: Sensitivity
    localised: bool | None
    sentence: str


@dataclass(frozen=True, kw_only=True, eq=False)
class SaliencyReport:
    """How robust a model is where its own heat maps say that it is most sensitive.

    Attributes:
        model, dataset, form: names; form is `pairs` or `classes`.
        num_rows: images that were asked about (of a pair each of the two in turn); `num_right`: decided
            rightly before, which alone are perturbed; `num_people`: resampled for intervals.
        before: shares before any perturbation: `right`, of pairs also `tar` and `far`.
        headline: region and perturbation of the verdict.
        rows: one per map, region and perturbation, then the worst over maps.
        curves, maps, agreement: see their classes.
        verdict: LOW, MEDIUM, HIGH or UNDETERMINED, in words.
        warnings: sentences to read before the numbers.
        cases: pictures, the worst and the best rows of the headline.
        flags: arrays by row: `right`, and `flipped/MAP/REGION/PERTURBATION/PLACE` among those that were right
            (-1 elsewhere), int8.
        facts: hashes, thresholds and their achieved FAR.
        meta: configuration, seed, batch size, seconds, versions, hardware.
    """

    model: str
    dataset: str
    form: str
    num_rows: int
    num_right: int
    num_people: int
    before: Mapping[str, Estimate]
    headline: tuple[str, str]
    rows: tuple[SaliencyRow, ...]
    curves: tuple[QCurve, ...]
    maps: tuple[MapRow, ...]
    agreement: tuple[AgreementRow, ...]
    verdict: Verdict
    warnings: tuple[str, ...]
    cases: tuple[Case, ...] = field(repr=False)
    flags: Mapping[str, np.ndarray] = field(repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def row(self, map: str, region: str | None = None, perturbation: str | None = None) -> SaliencyRow:
        """A row by names; those that are left out are the headline's.

        Raises:
            ValueError: for names that the report has not, listing those that it has.
        """
        asked = (map, region or self.headline[0], perturbation or self.headline[1])
        for row in self.rows:
            if row[:3] == asked:
                return row
        known = ", ".join(" / ".join(row[:3]) for row in self.rows)
        raise ValueError(f"No row {' / '.join(asked)!r} in this report. Known: {known}.")

    def to_json(self) -> dict[str, Any]:
        """Everything but pictures and flags, as what `json.dumps` takes; what cannot be said is None."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in ("cases", "flags")]
        return {name: plain(getattr(self, name)) for name in names}

    def summary(self) -> str:
        """Markdown: the verdict, a table at the headline's region, what to know."""
        region, _ = self.headline
        own = [row for row in self.rows if row.region == region]
        controls = list(own[0].controls) if own else []
        head = ["map", "perturbation", "flips", *(f"excess over {name}" for name in controls), "fall of p"]
        pairs = self.form == "pairs"
        head += ["TAR", "FAR"] if pairs else []
        right = self.before["right"].percent()
        what = "pairs of images" if pairs else "images"
        lines = [
            f"**{self.model or 'model'}** on {self.dataset}: {self.verdict.sentence}",
            "",
            f"{self.num_rows:,} {what} of {self.num_people} "
            f"{'people' if pairs else 'groups'}, {right} decided rightly before; the others are left out. "
            f"Region: {region}.",
            "",
            f"| {' | '.join(head)} |",
            f"| :-- | :-- |{' --: |' * (len(head) - 2)}",
        ]
        for row in own:
            cells = [row.map, row.perturbation, row.flips.percent()]
            cells += [row.excess[name].percent() for name in controls]
            cells.append(row.support_drop.percent())
            if pairs:
                assert row.tar is not None and row.far is not None
                cells += [row.tar.percent(), row.far.percent()]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", "Intervals: 95%, by resampling " + ("people." if pairs else "images.")]
        return "\n".join([*lines, *(f"Warning: {warning}" for warning in self.warnings)])


def verdict_of(
    worst: SaliencyRow, num_maps: int, num_constant: int, num_right: int, control: str | None
) -> Verdict:
    """See `Verdict`; `worst` is the headline's row over all maps, `control` the excess that is spoken of."""
    flips = worst.flips
    excess = worst.excess[control] if control else Estimate(None)
    localised = None
    if excess.low is not None and excess.high is not None:
        localised = True if excess.low > 0 else False if excess.high <= 0 else None
    said = (
        f"perturbing {100 * worst.area:.0f}% of the image where the maps point ({worst.perturbation}) flips "
        f"{flips.percent()} of the decisions that were right"
    )
    if excess.value is not None:
        where = "not told apart from elsewhere by these data"
        if localised is not None:
            where = "so it is there that the model looks" if localised else "no more than elsewhere"
        said += f", {excess.percent()} more than the same region {_elsewhere(control)}: {where}"
    if flips.value is None or flips.low is None or flips.high is None:
        return Verdict(
            Sensitivity.UNDETERMINED,
            localised,
            f"{Sensitivity.UNDETERMINED}: {num_right} decisions are too few, or of too few people, to say.",
        )
    level = Sensitivity.MEDIUM
    if flips.low > HIGH_ABOVE:
        level = Sensitivity.HIGH
    elif flips.high < LOW_BELOW:
        level = Sensitivity.LOW
        if num_maps == 1 or 2 * num_constant >= num_right * num_maps:
            level = Sensitivity.UNDETERMINED
            said += "; but " + (
                "one map alone may have missed where the model looks: audit several"
                if num_maps == 1
                else "half of the maps are constant, and point nowhere"
            )
    return Verdict(level, localised, f"{level}: {said}.")


def _elsewhere(control: str | None) -> str:
    words = {"rolled": "at a random place", "others": "of another's map", "centre_disc": "about the centre"}
    return words.get(str(control), str(control))
