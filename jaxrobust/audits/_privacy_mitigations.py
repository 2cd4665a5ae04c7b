"""What a mitigation keeps private and what it costs: leak against recognition, of what is published."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.audits._privacy_decoder import Bench
from jaxrobust.audits._privacy_inputs import Fold, at_most
from jaxrobust.audits._privacy_measure import Published, critics_of, measured, protected_decoder, published
from jaxrobust.audits._privacy_report import MitigationRow
from jaxrobust.audits.privacy_config import PUBLISHED, PrivacyAudit
from jaxrobust.data import Identities, join_pairs, make_pairs
from jaxrobust.evaluation import Estimate, ReconstructionReport, verify
from jaxrobust.inversion import Protection, embedding_of
from jaxrobust.inversion.features import LOGITS
from jaxrobust.numerics.metrics import wilson_interval

UtilityFn = Callable[[Sequence[Published]], Estimate]
"""What recognition has left of what is published, of all folds."""


class Subject(NamedTuple):
    """A fold with what was found of it without mitigation.

    Attributes:
        fold: who attacks whom. victim: the model's hash.
        critics: those that were given. feature_weight: lambda_3 that was chosen.
        seen: what is published now.
    """

    fold: Fold
    victim: str
    critics: Mapping[str, Any]
    feature_weight: float
    seen: Published


def mitigation_rows(
    audit: PrivacyAudit,
    subjects: Sequence[Subject],
    report: ReconstructionReport,
    utility_fn: UtilityFn,
    bench: Bench,
) -> tuple[MitigationRow, ...]:
    """A row for what is published now, whose `report` is known, and one for each mitigation."""
    if not audit.mitigations:
        return ()
    now = [one.seen for one in subjects]
    found = [_row(PUBLISHED, audit.threat.protections, now, report, utility_fn)]
    for name, extra in audit.mitigations.items():
        every, seen = [], []
        for one in subjects:
            seen.append(published(audit, one.fold, extra))
            # The judge sees pictures, not features, but thresholds go with their critics.
            critics, _ = critics_of(audit, one.fold, seen[-1].features_fn, one.critics)
            every.append(
                protected_decoder(
                    audit, one.fold, seen[-1], critics, bench, one.victim,
                    name=re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-"),
                    extra=extra,
                    feature_weight=one.feature_weight,
                )
            )  # fmt: skip
        behind = measured(audit, every, None)
        found.append(_row(name, (*audit.threat.protections, *extra), seen, behind, utility_fn))
    return tuple(found)


def _row(
    name: str,
    protections: Sequence[Protection],
    seen: Sequence[Published],
    report: ReconstructionReport,
    utility_fn: UtilityFn,
) -> MitigationRow:
    return MitigationRow(
        name=name,
        protections=", then ".join(map(repr, protections)) or "none",
        size=int(np.prod(seen[0].victims.shape[1:])),
        band=report.band,
        leak=report.leak,
        why=report.why_undetermined[0] if report.why_undetermined else "",
        ssim=report.likeness[0].ssim,
        utility=utility_fn(seen),
    )


def verification_utility(
    audit: PrivacyAudit, identities: Identities, folds: Sequence[Fold], victims: Sequence[np.ndarray]
) -> tuple[str, UtilityFn]:
    """The victims' TAR at the audit's FAR, folds pooled; where their pairs do not resolve it, 1 - EER."""
    pairs = join_pairs(
        [
            make_pairs(
                identities, people, num_impostor=at_most(identities, people), seed=audit.seed, fold=number
            )
            for number, people in enumerate(victims)
        ]
    )
    fars = (audit.far,)
    name = f"TAR at FAR {100 * audit.far:g}%"

    def verified(seen: Sequence[Published]) -> Any:
        models = [embedding_of(one.features_fn, key=one.key) for one in seen]
        return verify(
            models if len(models) > 1 else models[0],
            identities,
            pairs,
            far=audit.far,
            fars=fars,
            batch_size=audit.batch_rows,
            identification=False,
            num_draws=audit.num_draws,
            seed=audit.seed,
        )

    known = int((~pairs.genuine).sum()) * audit.far * (1 + 1e-9) >= 10
    if known:
        return name, lambda seen: verified(seen).tar_at_far[0].tar
    return "1 - EER", lambda seen: _complement(verified(seen).eer)


def class_utility(audit: PrivacyAudit, fold: Fold, num_classes: int) -> tuple[str, UtilityFn]:
    """Accuracy on the victims' images: of logits the largest's, 1/k of k ties; else by nearest class mean."""

    def accuracy(seen: Sequence[Published]) -> Estimate:
        (one,) = seen
        truth = fold.victims.identity
        flat, own = (values.reshape(len(values), -1) for values in (one.victims, one.held_out))
        if audit.threat.layer == LOGITS and flat.shape[1] == num_classes:
            # Coarse logits tie, and the first of them is no better a guess than the others.
            largest = flat == flat.max(axis=1, keepdims=True)
            right = largest[np.arange(len(truth)), truth] / largest.sum(axis=1)
        else:
            known = np.unique(fold.held_out.identity)
            means = np.stack([own[fold.held_out.identity == label].mean(0) for label in known])
            squares = ((flat[:, None] - means[None]) ** 2).sum(-1)
            right = (known[squares.argmin(axis=1)] == truth).astype(float)
        low, high = wilson_interval(round(right.sum()), len(right))
        return Estimate(float(right.mean()), low, high)

    name = "accuracy" if audit.threat.layer == LOGITS else "accuracy by nearest class mean"
    return name, accuracy


def _complement(rate: Estimate) -> Estimate:
    """1 - rate, the ends of its interval changed over."""
    value, low, high = (None if one is None else 1 - one for one in rate)
    return Estimate(value, high, low)
