"""One report for a release: accuracy, robustness, saliency and privacy, and what is not resolved."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.audits._privacy_report import PrivacyReport
from jaxrobust.audits._saliency_report import SaliencyReport
from jaxrobust.audits._saliency_verdict import Sensitivity
from jaxrobust.evaluation import (
    CLEAN,
    WORST,
    AttackedVerificationReport,
    Estimate,
    Level,
    Report,
    Verdict,
    VerificationReport,
    _provenance,
)
from jaxrobust.evaluation._verification_report import plain
from jaxrobust.numerics.metrics import wilson_interval


class ThreatRow(NamedTuple):
    """What is left of a model under one threat model.

    Attributes:
        threat: the neighbourhood with its radii, `all together` for the last row.
        attacks: by name, the worst of which counts for each image; of faces one, or the worst of all.
        values: one for each of `ReleaseReport.columns`.
    """

    threat: str
    attacks: str
    values: tuple[Estimate, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ReleaseReport:
    """What a team reads before a model is released.

    Attributes:
        model, dataset: names. form: `classes` or `people`.
        data: facts with hashes and splits, by name. training: facts.
        clean: by name, measures on images that nobody attacked.
        columns: of `threats`, such as `accuracy`. threats: a row per threat model, then all together.
        attacked_on: how many images, or pairs.
        verdicts: what the trust checks found.
        saliency, privacy: the audits.
        headlines: by section, a sentence.
        unresolved: sentences: what these data, or attacks, could not say.
        meta: seed, versions, hardware, seconds.
    """

    model: str
    dataset: str
    form: str
    data: Mapping[str, str]
    training: Mapping[str, str]
    clean: Mapping[str, Estimate]
    columns: tuple[str, ...]
    threats: tuple[ThreatRow, ...]
    attacked_on: str
    verdicts: tuple[Verdict, ...]
    saliency: SaliencyReport
    privacy: PrivacyReport
    headlines: Mapping[str, str]
    unresolved: tuple[str, ...]
    meta: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Everything but pictures, as what `json.dumps` takes; what cannot be said is None."""
        names = [f.name for f in dataclasses.fields(self)]
        found = {
            name: plain(getattr(self, name))
            for name in names
            if name not in ("saliency", "privacy", "verdicts")
        }
        found["verdicts"] = [plain(dataclasses.asdict(verdict)) for verdict in self.verdicts]
        return {**found, "saliency": self.saliency.to_json(), "privacy": self.privacy.to_json()}

    def summary(self) -> str:
        """Markdown: a headline for each section, what is not resolved."""
        lines = [f"**{self.model}** on {self.dataset}", ""]
        lines += [f"- {section}: {text}" for section, text in self.headlines.items()]
        lines += ["", f"Not resolved ({len(self.unresolved)}):"]
        return "\n".join([*lines, *(f"- {one}" for one in self.unresolved)])


def release_of_classifier(
    evaluation: Report,
    saliency: SaliencyReport,
    privacy: PrivacyReport,
    *,
    data: Mapping[str, str],
    training: Mapping[str, str],
    seconds: float,
) -> ReleaseReport:
    """The report of a classifier, from `evaluation.evaluate` and the two audits.

    Args:
        evaluation: clean and attacked accuracy with trust verdicts.
        saliency, privacy: the audits.
        data, training: facts, by name.
        seconds: that everything took.

    Returns:
        The `ReleaseReport`; a threat model is all attacks of the same radii, and an image counts as right
        there if no one of them broke it.
    """
    rows = [row for row in evaluation.rows if row["attack"] not in (CLEAN, WORST)]
    right = evaluation.flags[f"correct/{CLEAN}"]
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row["radius"] or row["attack"], []).append(row["attack"])
    threats = [
        ThreatRow(threat, ", ".join(names), (_share(_all_right(evaluation, right, names)),))
        for threat, names in groups.items()
    ]
    everything = _share(_all_right(evaluation, right, [row["attack"] for row in rows]))
    clean = {"accuracy": _share(right)}
    if len(groups) > 1:
        threats.append(ThreatRow("all together", "", (everything,)))
    lowest = f"{everything.percent()} of the images stay right under all attacks together" if rows else ""
    return _report(
        "classes",
        evaluation.meta,
        data,
        training,
        clean,
        ("accuracy",),
        threats,
        f"{len(right):,} images",
        evaluation.verdicts,
        saliency,
        privacy,
        f"{clean['accuracy'].percent()} of {len(right):,} test images are classified rightly.",
        lowest,
        [],
        seconds,
    )


def release_of_faces(
    clean: VerificationReport,
    attacked: AttackedVerificationReport | None,
    saliency: SaliencyReport,
    privacy: PrivacyReport,
    *,
    data: Mapping[str, str],
    training: Mapping[str, str],
    seconds: float,
) -> ReleaseReport:
    """The report of a face model, from `verify`, `verify_attacked` and the two audits; else as above."""
    measures = {"EER": clean.eer}
    unresolved = list(clean.warnings)
    for row in clean.tar_at_far:
        if row.tar.value is not None and row.far is not None:
            measures[f"TAR at FAR {100 * row.asked:g}%"] = row.tar
        if row.resolution.level != "resolved":
            unresolved.append(row.resolution.words)
    threats: list[ThreatRow] = []
    verdicts: tuple[Verdict, ...] = ()
    lowest, on = "", ""
    if attacked is not None:
        unresolved += attacked.warnings
        verdicts = attacked.verdicts
        on = f"{attacked.num_genuine:,} genuine and {attacked.num_impostor:,} impostor pairs"
        threats = [
            ThreatRow(row.radius or "all together", row.attack, (row.acceptance, row.false_accepts))
            for row in attacked.rows
        ]
        if attacked.rows:
            last = attacked.rows[-1]
            lowest = (
                f"Under {last.attack} {last.acceptance.percent()} of the genuine and "
                f"{last.false_accepts.percent()} of the impostor pairs are accepted"
            )
    return _report(
        "people",
        {"model": clean.model, "dataset": clean.dataset, **clean.meta},
        data,
        training,
        measures,
        ("accepted under dodging", "accepted under impersonation"),
        threats,
        on,
        verdicts,
        saliency,
        privacy,
        "; ".join(f"{name} {value.percent()}" for name, value in measures.items())
        + f", {clean.num_people} people who were not trained on.",
        lowest,
        unresolved,
        seconds,
    )


def _report(
    form: str,
    meta: Mapping[str, Any],
    data: Mapping[str, str],
    training: Mapping[str, str],
    clean: Mapping[str, Estimate],
    columns: tuple[str, ...],
    threats: Sequence[ThreatRow],
    attacked_on: str,
    verdicts: Sequence[Verdict],
    saliency: SaliencyReport,
    privacy: PrivacyReport,
    clean_words: str,
    lowest: str,
    unresolved: Sequence[str],
    seconds: float,
) -> ReleaseReport:
    bad = [verdict for verdict in verdicts if verdict.level in (Level.WARN, Level.FAIL)]
    skipped = sum(verdict.level == Level.SKIPPED for verdict in verdicts)
    trust = "the trust checks found nothing" if not bad else f"{len(bad)} trust checks warn or fail"
    if skipped:
        trust += f" ({skipped} of {len(verdicts)} had nothing to measure)"
    headlines = {
        "Clean": clean_words,
        "Robust": f"{lowest}; {trust}." if lowest else "Nothing was attacked.",
        "Where it looks": saliency.verdict.sentence,
        "What features give away": privacy.sentence,
    }
    if privacy.mitigations:
        headlines["Mitigations"] = _best_mitigation(privacy)
    return ReleaseReport(
        model=str(meta["model"]),
        dataset=str(meta["dataset"]),
        form=form,
        data=data,
        training=training,
        clean=clean,
        columns=columns,
        threats=tuple(threats),
        attacked_on=attacked_on,
        verdicts=tuple(verdicts),
        saliency=saliency,
        privacy=privacy,
        headlines=headlines,
        unresolved=tuple(
            dict.fromkeys([*unresolved, *_unresolved(bool(threats), verdicts, saliency, privacy)])
        ),
        meta={
            "seeds": {
                "evaluation": meta["seed"],
                "saliency": saliency.meta["seed"],
                "privacy": privacy.meta["seed"],
            },
            "versions": _provenance.versions(),
            "hardware": _provenance.hardware(),
            "seconds": seconds,
        },
    )


def _all_right(report: Report, right: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Bool `[n]`: right before, and after each of these attacks."""
    flags = [right, *(report.flags[f"correct/{name}"] for name in names)]
    return np.asarray(np.logical_and.reduce(flags))


def _share(flags: np.ndarray) -> Estimate:
    """A share with Wilson's interval."""
    low, high = wilson_interval(int(flags.sum()), len(flags))
    return Estimate(float(flags.mean()), low, high)


def _best_mitigation(privacy: PrivacyReport) -> str:
    """Of the mitigations that can be judged the one with the least leak, and what it costs."""
    now, *others = privacy.mitigations
    judged = [row for row in others if row.band != "UNDETERMINED" and row.leak.value is not None]
    if not judged:
        return "No mitigation can be judged, mostly as the attack failed there: that is no proof of privacy."
    best = min(judged, key=lambda row: row.leak.value or 0.0)
    said = f"Of those that can be judged, {best.name} leaks least: {best.leak.percent()}"
    # The leak of an attack that failed is no number to compare with.
    if now.band == "UNDETERMINED" or now.leak.value is None:
        said += ", where nothing can be said of what is published now"
    else:
        said += f" instead of {now.leak.percent()}"
        if (best.leak.value or 0.0) >= now.leak.value:
            said += ", so that none is of help"
    return f"{said}; {privacy.utility} is {best.utility.percent()} instead of {now.utility.percent()}."


def _unresolved(
    attacked: bool, verdicts: Sequence[Verdict], saliency: SaliencyReport, privacy: PrivacyReport
) -> list[str]:
    """What the parts could not say, in their own words."""
    said = [] if attacked else ["No attack was run: nothing is known of robustness."]
    said += [
        f"Trust check {one.check}, {one.level}: {one.advice}" for one in verdicts if one.level != Level.OK
    ]
    if saliency.verdict.sensitivity is Sensitivity.UNDETERMINED:
        said.append(f"Saliency: {saliency.verdict.sentence}")
    said += [f"Saliency: {warning}" for warning in saliency.warnings]
    for name, report in privacy.attacks.items():
        said += [f"Privacy, by {name}: {reason}" for reason in report.why_undetermined]
    said += [f"Privacy: {warning}" for warning in privacy.warnings]
    said += [f"Behind {row.name}: {row.why}" for row in privacy.mitigations[1:] if row.why]
    return said
