"""Sentences of a privacy audit: the threat, who is who, and what to know before the numbers."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxrobust.audits._privacy_decoder import Bench
from jaxrobust.audits._privacy_inputs import Division
from jaxrobust.audits.privacy_config import PrivacyAudit
from jaxrobust.data import Identities
from jaxrobust.evaluation import Band, ReconstructionReport, overlap

People = Sequence[int] | np.ndarray


def warnings_of(
    audit: PrivacyAudit, reports: Mapping[str, ReconstructionReport], band: Band, bench: Bench
) -> list[str]:
    """What a reader must know before the numbers."""
    said = []
    failed = [key for key, report in reports.items() if report.band is Band.UNDETERMINED]
    if failed and band is not Band.UNDETERMINED:
        said.append(
            f"The attack by {', '.join(failed)} failed or cannot be judged: it does not count for less."
        )
    if len(reports) == 1:
        why = "the attacker has no gradients" if not audit.white_box else "it was left out"
        said.append(f"One attack alone, the decoder: inversion by optimisation was not tried ({why}).")
    if len(audit.weights) == 1 and audit.white_box:
        said.append(f"One decoder setting alone was tried, feature weight {audit.weights[0]:g}.")
    if audit.perceptual_weight and bench.perceptual_fn is not None:
        said.append("The decoder was trained for the perceptual distance, which flatters it as a measure.")
    return said


def threat_in_words(audit: PrivacyAudit) -> str:
    """The threat: what is published, and what the attacker has."""
    said = {"embedding": "the embedding", "logits": "the logits"}.get(
        audit.threat.layer, f"the layer {audit.threat.layer}"
    )
    if audit.threat.protections:
        said += f" behind {', then '.join(map(repr, audit.threat.protections))}"
    return f"{said} ({'white box' if audit.white_box else 'features only'})"


def people_in_words(
    identities: Identities, divisions: Sequence[Division], trained_on: Sequence[People] | None
) -> tuple[tuple[str, ...], list[str]]:
    """Who is who, and whom the models were trained on; warnings where that is not known."""
    said = []
    for number, one in enumerate(divisions):
        where = f"Fold {number}: " if len(divisions) > 1 else ""
        said.append(
            f"{where}{len(one.attackers)} people attack, {len(one.held_out)} of the attacker's are held out, "
            f"{len(one.victims)} are victims; nobody is in two parts."
        )
        for what, people in (
            ("attackers", one.attackers),
            ("victims", one.victims),
            ("held-out attackers", one.held_out),
        ):
            if trained_on is not None:
                said.append(f"{where}{what}: {overlap(identities, people, trained_on[number])}")
    unknown = [] if trained_on is not None else ["Whom the model was trained on is not known."]
    return tuple(said), unknown
