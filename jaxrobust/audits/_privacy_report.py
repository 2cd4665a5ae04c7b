"""What a privacy audit found, as values, as JSON and in words."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.evaluation import Band, Estimate, ReconstructionReport
from jaxrobust.evaluation._verification_report import plain

DECODER, OPTIMISATION = "decoder", "optimisation"
JUDGE = "PCA + LDA"
VICTIM = "the model itself"
DRAWN = {"leak": f"leak/{JUDGE}", "type II": f"type2/{JUDGE}", "SSIM": "ssim/reconstruction"}
"""By measure, the column of the bootstrap's draws by which two models are compared."""
LEAST_MATCH = 0.5
"""Type-I acceptance by the model itself, its lower limit, below which an attack has inverted nothing."""
_RANK = {Band.UNDETERMINED: 0, Band.LOW: 1, Band.MEDIUM: 2, Band.HIGH: 3}
_WHAT = {"people": "photo of the person", "classes": "image of the class"}


class CandidateRow(NamedTuple):
    """A setting that was tried on held-out attackers.

    Attributes:
        attack: `decoder` or `optimisation`. fold: its number. setting: such as `feature weight 0.1`.
        leak: by the judge, on held-out attackers: by it the setting was chosen; None where it cannot be said.
        ssim: of the reconstructions there, which decides between equals.
        seconds: that training took here, over all seeds; of a decoder that was there already next to none.
        chosen: whether it attacked.
    """

    attack: str
    fold: int
    setting: str
    leak: float | None
    ssim: float
    seconds: float
    chosen: bool


class MitigationRow(NamedTuple):
    """What a mitigation keeps private, and what it costs.

    Attributes:
        name: of it. protections: in words.
        size: how many numbers are published of an image.
        band, leak: by a decoder that was trained behind it. why: the first reason where UNDETERMINED.
        ssim: of its reconstructions.
        utility: what recognition has left: see `PrivacyReport.utility`.
    """

    name: str
    protections: str
    size: int
    band: Band
    leak: Estimate
    why: str
    ssim: Estimate
    utility: Estimate


class Case(NamedTuple):
    """One victim's image for the page, each picture float32 `[h, w, c]`.

    Attributes:
        attack: whose reconstruction. kind: `best`, `median` or `worst` by SSIM. ssim: its.
        image, reconstruction, mean_face, wrong, other: the original; what was made of its features; the mean
            of the attackers; the reconstruction of somebody else; another photo of the person.
    """

    attack: str
    kind: str
    ssim: float
    image: np.ndarray
    reconstruction: np.ndarray
    mean_face: np.ndarray
    wrong: np.ndarray
    other: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class PrivacyReport:
    """How much of a person a model's features give away.

    Attributes:
        model, dataset: names. form: `people` or `classes`.
        threat: what the attacker gets, in words.
        headline: the attack that is spoken of: the one with the worst band that can be said, of equals the
            one with the larger leak. band, leak: its.
        sentence: both in words.
        attacks: by name, a `ReconstructionReport` each.
        candidates: what was tried on held-out attackers.
        division: sentences: who attacks, who is held out, who are victims, whom the model was trained on.
        utility: what is measured of recognition, such as `TAR at FAR 1%`. mitigations: the first row is what
            is published now; () where none were asked for.
        warnings: sentences to read before the numbers.
        cases: pictures of victims, for the page.
        facts: hashes, counts. meta: configuration, seeds, seconds, versions, hardware.
    """

    model: str
    dataset: str
    form: str
    threat: str
    headline: str
    band: Band
    leak: Estimate
    sentence: str
    attacks: Mapping[str, ReconstructionReport]
    candidates: tuple[CandidateRow, ...]
    division: tuple[str, ...]
    utility: str
    mitigations: tuple[MitigationRow, ...]
    warnings: tuple[str, ...]
    cases: tuple[Case, ...] = field(repr=False)
    facts: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything but pictures, as what `json.dumps` takes; what cannot be said is None."""
        left = ("cases", "attacks")
        found = {f.name: plain(getattr(self, f.name)) for f in dataclasses.fields(self) if f.name not in left}
        return {**found, "attacks": {name: one.to_json() for name, one in self.attacks.items()}}

    def draws(self) -> dict[str, np.ndarray]:
        """By attack and measure float64 `[1 + num_draws]`: the value, then the bootstrap's draws of it."""
        found = {}
        for attack, one in self.attacks.items():
            judged = next(row for row in one.critics if row.name == JUDGE)
            values = {"leak": judged.leak, "type II": judged.type2, "SSIM": one.likeness[0].ssim}
            for measure, column in DRAWN.items():
                value = values[measure].value
                first = np.nan if value is None else value
                found[f"{attack}/{column}"] = np.concatenate([[first], one.draws[column]])
        return found

    def summary(self) -> str:
        """Markdown: the verdict, likeness and acceptance, mitigations, what to know."""
        lines = [f"**{self.model or 'model'}** on {self.dataset}: {self.sentence}", "", *self.division, ""]
        for name, report in self.attacks.items():
            lines += [*_attack_lines(name, report), ""]
        if self.mitigations:
            lines += [
                f"| published | numbers | leak | band | {self.utility} |",
                "| :-- | --: | --: | :-- | --: |",
            ]
            for row in self.mitigations:
                cells = [row.name, str(row.size), row.leak.percent(), row.band, row.utility.percent()]
                lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
            if (seeds := self.facts.get("num_decoder_seeds", 1)) > 1:
                lines += [f"Behind a mitigation one decoder of a fold, as published {seeds}.", ""]
        unit = "people" if self.form == "people" else "images"
        lines.append(f"Intervals: 95%, by resampling {unit}.")
        return "\n".join([*lines, *(f"Warning: {warning}" for warning in self.warnings)])


def unless_failed(report: ReconstructionReport) -> ReconstructionReport:
    """The report, UNDETERMINED instead of LOW where reconstructions lack the features that they are made of.

    An inverse image that the model itself does not take for its source inverts nothing, however much it is
    like a face: training for a few steps beats the mean face too. This condition is ours.
    """
    if report.band is not Band.LOW:
        return report
    own = next(row for row in report.critics if row.name == VICTIM).type1
    if own.low is not None and own.low >= LEAST_MATCH:
        return report
    why = (
        f"The model itself takes {own.percent()} of the reconstructions for their source, less than "
        f"{100 * LEAST_MATCH:.0f}%: they lack the features that they were made of, so the attack failed. "
        "Train for longer, or a wider decoder."
    )
    return dataclasses.replace(report, band=Band.UNDETERMINED, why_undetermined=(why,))


def headline_of(attacks: Mapping[str, ReconstructionReport]) -> tuple[str, Band]:
    """The attack that is spoken of, and its band.

    A failed attack says nothing, so that any that can be said goes before it; but where the decoder failed,
    another attack's LOW is UNDETERMINED, as the stronger attack was not there to contradict it.
    """
    decoder = attacks[DECODER]
    name = max(attacks, key=lambda one: (_RANK[attacks[one].band], attacks[one].leak.value or 0.0))
    band = attacks[name].band
    if band is Band.LOW and decoder.band is Band.UNDETERMINED:
        return DECODER, Band.UNDETERMINED
    return name, band


def sentence_of(attacks: Mapping[str, ReconstructionReport], threat: str, form: str) -> str:
    """The verdict in words."""
    name, band = headline_of(attacks)
    report = attacks[name]
    if band is Band.UNDETERMINED:
        why = " ".join(attacks[DECODER].why_undetermined) or "The attack found nothing that can be judged."
        return f"{band}: nothing can be said of {threat}. {why}"
    by = "a decoder trained on other images" if form == "classes" else "a decoder trained on other people"
    if name == OPTIMISATION:
        by = "an image that is optimised until its features agree"
    return (
        f"{band}: from {threat}, {by} recovers {report.leak.percent()} of what another {_WHAT[form]} would "
        f"tell an independent critic ({report.judge})."
    )


def _attack_lines(name: str, report: ReconstructionReport) -> list[str]:
    lines = [
        f"By {name}: {report.band}, leak {report.leak.percent()}.",
        *(f"  {reason}" for reason in report.why_undetermined),
        "",
        "| critic | type I | type II | real photos | others' | mean face | rank-1 (real) |",
        "| :-- | --: | --: | --: | --: | --: | --: |",
    ]
    for row in report.critics:
        cells = [row.type1, row.type2, row.genuine, row.wrong, row.mean_face]
        rank = f"{100 * row.rank1.rate:.0f}% ({100 * row.rank1_real.rate:.0f}%)"
        lines.append(f"| {' | '.join([row.name, *(one.percent() for one in cells), rank])} |")
    said = ", ".join(f"{row.name} {number(row.ssim)}" for row in report.likeness)
    return [*lines, "", f"SSIM: {said}; calibrated {number(report.calibrated_ssim)}."]


def number(estimate: Estimate | None, digits: int = 3) -> str:
    """`0.503 (0.480-0.520)`."""
    if estimate is None or estimate.value is None:
        return "–"
    limits = ""
    if estimate.low is not None and estimate.high is not None:
        limits = f" ({estimate.low:.{digits}f}-{estimate.high:.{digits}f})"
    return f"{estimate.value:.{digits}f}{limits}"
