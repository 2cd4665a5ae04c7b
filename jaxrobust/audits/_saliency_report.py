"""What a saliency audit found, as values, as JSON and in words."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.audits._saliency_verdict import Verdict, points
from jaxrobust.evaluation import Estimate
from jaxrobust.evaluation._verification_report import plain

WORST_MAP = "worst over maps"


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
        tar, far: shares of all genuine and all impostor pairs that are accepted now; None for classes.
            Pairs that were decided wrongly before are not perturbed and stay as they were, so that the TAR
            can only fall and the FAR only rise.
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
        partner: the other image of a pair, `[h, w, c]`; None for classes.
        before, after: the probability of the truth. flipped: whether the decision is wrong now.
    """

    name: str
    kind: str
    map: str
    image: np.ndarray
    partner: np.ndarray | None
    heat: np.ndarray
    inside: np.ndarray
    perturbed: np.ndarray
    before: float
    after: float
    flipped: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class SaliencyReport:
    """How robust a model is where its own heat maps say that it is most sensitive.

    Attributes:
        model, dataset, form: names; form is `pairs` or `classes`.
        num_rows: images that were asked about (of a pair each of the two in turn); `num_right`: decided
            rightly before, which alone are perturbed.
        unit: what is resampled for intervals: `people`, `images` or `groups`; num_units: how many of them.
        before: shares before any perturbation: `right`, of pairs also `tar` and `far`.
        headline: region and perturbation of the verdict.
        rows: one per map, region and perturbation, then the worst over maps.
        curves, maps, agreement: see their classes.
        verdict: LOW, MEDIUM, HIGH or UNDETERMINED, in words.
        warnings: sentences to read before the numbers.
        cases: pictures, the worst and the best rows of the headline.
        flags: arrays by row: `number` (in its list), `fold`, `unit` `[m, 2]` (whose it is), `right`,
            and `flipped/MAP/REGION/PERTURBATION/PLACE` among those that were right (-1 elsewhere), int8: what
            `compare_saliency` pairs two models by.
        facts: hashes, thresholds and their achieved FAR.
        meta: configuration, seed, batch size, seconds, versions, hardware.
    """

    model: str
    dataset: str
    form: str
    num_rows: int
    num_right: int
    unit: str
    num_units: int
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
        pairs = self.form == "pairs"
        head = ["map", "perturbation", "flips", *(f"excess over {name}" for name in controls), "fall of p"]
        head += ["TAR", "FAR"] if pairs else []
        asked = f"{self.num_rows:,} images"
        if pairs:
            asked += f", each of {self.num_rows // 2:,} pairs in turn"
        if self.unit != "images":
            asked += f", of {self.num_units} {self.unit}"
        before = ", ".join(
            f"{name.upper() if len(name) == 3 else name} {value.percent()}"
            for name, value in self.before.items()
        )
        lines = [
            f"**{self.model or 'model'}** on {self.dataset}: {self.verdict.sentence}",
            "",
            f"{asked}. Before: {before}; what was wrong is left out of flips. Region: {region}.",
            "",
            f"| {' | '.join(head)} |",
            f"| :-- | :-- |{' --: |' * (len(head) - 2)}",
        ]
        for row in own:
            cells = [row.map, row.perturbation, row.flips.percent()]
            cells += [points(row.excess[name]) for name in controls]
            cells.append(points(row.support_drop))
            if pairs:
                assert row.tar is not None and row.far is not None
                cells += [row.tar.percent(), row.far.percent()]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", f"Intervals: 95%, by resampling {self.unit}."]
        return "\n".join([*lines, *(f"Warning: {warning}" for warning in self.warnings)])
