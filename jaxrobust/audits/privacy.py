"""How much of a person do a model's features give away? After CN111539382A.

The patent: take the features that the model makes of a target person's image; an inverse model, trained on
*other* people with features as input and images as output, turns them into an image; from the similarity of
original and inverse image, the privacy risk of publishing the model. What the patent leaves open (the inverse
model, its loss, similarity, bands), inversion by optimisation as a second attack, critics, controls and
mitigations are this library's.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.audits import _privacy_mitigations as mitigations
from jaxrobust.audits._privacy_cases import cases_of
from jaxrobust.audits._privacy_decoder import Bench, default_runtime
from jaxrobust.audits._privacy_inputs import (
    Division,
    Fold,
    check_fold,
    digest_of,
    digest_of_images,
    side_of,
    side_of_images,
)
from jaxrobust.audits._privacy_measure import attack, critics_of, measured, protected_features, published
from jaxrobust.audits._privacy_report import (
    DECODER,
    JUDGE,
    VICTIM,
    CandidateRow,
    PrivacyReport,
    headline_of,
    sentence_of,
)
from jaxrobust.audits._privacy_words import people_in_words, threat_in_words, warnings_of
from jaxrobust.audits.privacy_config import PrivacyAudit
from jaxrobust.data import Identities
from jaxrobust.evaluation import (
    AttackedFold,
    _provenance,
    check_attackers,
    check_images_apart,
)
from jaxrobust.training import Runtime

Tell = Callable[[str, int, int], None]
People = Sequence[int] | np.ndarray


class _Form(NamedTuple):
    """What differs between people and classes."""

    form: str
    dataset: str
    fingerprint: str
    division: tuple[str, ...]
    utility: tuple[str, mitigations.UtilityFn]
    warnings: list[str]


def audit_privacy(
    audit: PrivacyAudit,
    features_fn: Any,
    identities: Identities,
    divisions: Division | Sequence[Division],
    *,
    trained_on: Sequence[People] | None = None,
    critics: Mapping[str, Any] | None = None,
    perceptual_fn: Any = None,
    folder: Path | str | None = None,
    runtime: Runtime | None = None,
    name: str = "",
    progress_fn: Tell | None = None,
) -> PrivacyReport:
    """Audits a model of faces, or of whatever has identities.

    In each division attackers, held-out attackers and victims are different people. On the attackers' images
    decoders are trained and the independent critic (PCA + LDA) is fitted; on held-out attackers settings are
    chosen and thresholds set, and it is seen there whether the attack works at all; then victims are
    reconstructed. Decisions of several divisions, each with its own model, count together.

    Args:
        audit: what is done.
        features_fn: images float32 `[b, h, w, c]` in [0, 1] -> features `[b, ...]`, before any protection,
            traceable by JAX; best a pytree of its arrays such as `jax.tree_util.Partial(apply_fn, params)` or
            `inversion.victim_features(Features(layer=...), ...)`; or one per division.
        identities: the set of people.
        divisions: one `Division`, or one for each model.
        trained_on: for every model the people that it was trained on, which is stated in the report (and
            refused nowhere: whether a model knows its attackers or victims is part of the threat). None:
            unknown, which is said.
        critics: by name, further embeddings `images -> [b, d]`, each one or one per division.
        perceptual_fn: a distance by a network that is neither the victim nor trained with it, see
            `inversion.perceptual_distance`.
        folder: where decoders are kept, so that an audit that was killed goes on from there to the same
            result; None keeps none. Decoders invert the model: they are as private as its features.
        runtime: where decoders are trained; None for one device.
        name: of the model, for the report.
        progress_fn: receives what is done, how far, of how many.

    Returns:
        The `PrivacyReport`.

    Raises:
        ValueError: people (or images) who attack and are attacked, victims with one image, fewer than two
            people on a side, features that are not finite, numbers out of range.
    """
    start = time.perf_counter()
    every = [divisions] if isinstance(divisions, Division) else list(divisions)
    models = _each("features_fn", features_fn, len(every))
    given = {key: _each(f"critics[{key!r}]", one, len(every)) for key, one in (critics or {}).items()}
    if trained_on is not None and len(trained_on) != len(every):
        raise ValueError(f"Expected the people of {len(every)} models in trained_on, got {len(trained_on)}.")
    folds = []
    for number, one in enumerate(every):
        check_attackers(identities, np.concatenate([one.attackers, one.held_out]), one.victims)
        both = np.intersect1d(one.attackers, one.held_out)
        if len(both):
            raise ValueError(
                f"{len(both)} people are attackers and held out, {identities.names[both[0]]!r} among them: "
                "whether an attack works is seen on people that it was not trained on."
            )
        sides = (side_of(identities, people) for people in (one.attackers, one.held_out, one.victims))
        folds.append(Fold(number, models[number], *sides))
    said, warnings = people_in_words(identities, every, trained_on)
    form = _Form(
        "people",
        identities.name,
        identities.fingerprint,
        said,
        mitigations.verification_utility(audit, identities, folds, [one.victims for one in every]),
        warnings,
    )
    bench = _bench(folder, runtime, perceptual_fn, progress_fn)
    return _report(audit, folds, given, form, bench, name, start)


def audit_classifier_privacy(
    audit: PrivacyAudit,
    features_fn: Any,
    attackers: tuple[Any, Any],
    held_out: tuple[Any, Any],
    victims: tuple[Any, Any],
    *,
    num_classes: int,
    division: Sequence[str] = (),
    critics: Mapping[str, Any] | None = None,
    perceptual_fn: Any = None,
    folder: Path | str | None = None,
    runtime: Runtime | None = None,
    dataset: str = "",
    fingerprint: str = "",
    name: str = "",
    progress_fn: Tell | None = None,
) -> PrivacyReport:
    """Audits a classifier: what its last layer, or its logits, give away of an image beyond its class.

    Classes take the place of people, and are everybody's: attackers and victims differ in their images. So a
    critic that knows classes accepts a picture of the class, which the label alone would give; the leak is
    about the class, and the likeness to the image itself (SSIM against the mean image and against another
    image of the class) is to be read beside it. Images are resampled, as ten classes are no sample.

    Args:
        audit, features_fn, critics, perceptual_fn, folder, runtime, name, progress_fn: as in `audit_privacy`,
            with one model.
        attackers, held_out, victims: `(images [n, h, w, c], labels int [n])`; uint8, or floats in [0, 1].
        num_classes: k.
        division: sentences for the report: where these images are from, and which the model was trained on.
        dataset, fingerprint: for the report.

    Returns:
        The `PrivacyReport`.

    Raises:
        ValueError: as `audit_privacy`; an image that attacks and is attacked.
    """
    start = time.perf_counter()
    sides = [
        side_of_images(*given, what)
        for given, what in ((attackers, "attackers"), (held_out, "held-out attackers"), (victims, "victims"))
    ]
    for side, what in zip(sides, ("attackers", "held-out attackers", "victims"), strict=True):
        if side is not sides[2] and side.images.shape[1:] == sides[2].images.shape[1:]:
            check_images_apart(side.images, sides[2].images)
        if side.identity.min() < 0 or side.identity.max() >= num_classes:
            raise ValueError(
                f"Expected classes 0 .. {num_classes - 1} of the {what}, got {side.identity.min()} .. "
                f"{side.identity.max()}."
            )
    fold = Fold(0, features_fn, *sides)
    counts = (
        f"Attackers: {len(sides[0].images):,} images; held out: {len(sides[1].images):,}; victims: "
        f"{len(sides[2].images):,}, none of them an attacker's.",
    )
    form = _Form(
        "classes",
        dataset,
        fingerprint,
        (*counts, *division),
        mitigations.class_utility(audit, fold, num_classes),
        [] if division else ["Which of these images the model was trained on is not known."],
    )
    given = {key: [one] for key, one in (critics or {}).items()}
    bench = _bench(folder, runtime, perceptual_fn, progress_fn)
    return _report(audit, [fold], given, form, bench, name, start)


def _report(
    audit: PrivacyAudit,
    folds: Sequence[Fold],
    given: Mapping[str, Sequence[Any]],
    form: _Form,
    bench: Bench,
    name: str,
    start: float,
) -> PrivacyReport:
    """The measurement that people and classes share."""
    for taken in (JUDGE, VICTIM):
        if taken in given:
            raise ValueError(f"The name {taken!r} is taken by a critic of the audit's own. Choose another.")
    if audit.perceptual_weight and bench.perceptual_fn is None:
        raise ValueError(
            f"perceptual_weight={audit.perceptual_weight} needs perceptual_fn, a distance by another network."
        )
    for fold in folds:
        check_fold(fold, audit.window)
        # What does not fit is refused here, and not after the decoders that come before it.
        for extra in audit.mitigations.values():
            protected_features(audit, fold, extra)
    attacked: dict[str, list[AttackedFold]] = {}
    candidates: list[CandidateRow] = []
    subjects, warnings = [], list(form.warnings)
    for fold in folds:
        victim = digest_of(fold.fn, fold.held_out.pixels[: audit.batch_rows], audit.batch_rows)
        seen = published(audit, fold)
        own = {key: some[fold.number] for key, some in given.items()}
        critics, said = critics_of(audit, fold, seen.features_fn, own)
        found = attack(audit, fold, seen, critics, bench, victim)
        for attack_name, some in found.folds.items():
            attacked.setdefault(attack_name, []).extend(some)
        candidates += found.candidates
        warnings += said
        subjects.append(mitigations.Subject(fold, victim, own, found.chosen, seen))
    reports = {
        key: measured(audit, some, bench.perceptual_fn, len(some) // len(folds))
        for key, some in attacked.items()
    }
    for key, report in reports.items():
        warnings += [f"By {key}: {warning}" for warning in report.warnings]
    threat = threat_in_words(audit)
    headline, band = headline_of(reports)
    warnings += warnings_of(audit, reports, band, bench)
    rows = mitigations.mitigation_rows(audit, subjects, reports[DECODER], form.utility[1], bench)
    return PrivacyReport(
        model=name,
        dataset=form.dataset,
        form=form.form,
        threat=threat,
        headline=headline,
        band=band,
        leak=reports[headline].leak,
        sentence=sentence_of(reports, threat, form.form),
        attacks=reports,
        candidates=tuple(candidates),
        division=form.division,
        utility=form.utility[0],
        mitigations=rows,
        warnings=tuple(dict.fromkeys(warnings)),
        cases=cases_of(reports, attacked),
        facts={
            "fingerprint": form.fingerprint,
            "victims": [subject.victim for subject in subjects],
            "images": [
                digest_of_images(*(side.images for side in (fold.attackers, fold.held_out, fold.victims)))
                for fold in folds
            ],
            "num_decoder_seeds": len(audit.seeds),
        },
        meta={
            "audit": _provenance.describe(audit),
            "seed": audit.seed,
            "versions": _provenance.versions(),
            "hardware": _provenance.hardware(),
            "seconds": time.perf_counter() - start,
        },
    )


def _each(what: str, given: Any, num: int) -> list[Any]:
    """One callable for every division."""
    found = [given] * num if callable(given) else list(given)
    if len(found) != num or not all(callable(one) for one in found):
        raise ValueError(
            f"Expected {what} as one callable, or one for each of {num} divisions, got {given!r}."
        )
    return found


def _bench(
    folder: Path | str | None, runtime: Runtime | None, perceptual_fn: Any, tell: Tell | None
) -> Bench:
    return Bench(
        folder=None if folder is None else Path(folder),
        runtime=runtime or default_runtime(),
        perceptual_fn=perceptual_fn,
        tell=tell or (lambda what, done, total: None),
    )
