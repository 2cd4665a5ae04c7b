"""The attacks of a privacy audit on one fold: critics, decoders, optimisation, choosing between settings."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrobust.audits._privacy_decoder import Bench, train_decoder
from jaxrobust.audits._privacy_inputs import Fold, Side, digest_of_images, sampled
from jaxrobust.audits._privacy_report import DECODER, JUDGE, OPTIMISATION, VICTIM, CandidateRow, unless_failed
from jaxrobust.audits.privacy_config import PrivacyAudit
from jaxrobust.evaluation import (
    AttackedFold,
    Critic,
    Reconstructed,
    ReconstructionReport,
    Resolved,
    calibrated_critic,
    leak_score,
    measure_reconstructions,
    resolution,
)
from jaxrobust.evaluation import _reconstruction_rows as rows
from jaxrobust.evaluation._provenance import describe
from jaxrobust.inversion import FeaturesFn, Protection, embedding_of, invert, protected, publish
from jaxrobust.models import pca_lda
from jaxrobust.types import Array

_SHARES = (0.9, 0.98, 0.999)


class Published(NamedTuple):
    """A fold's features as an attacker sees them.

    Attributes:
        features_fn: what is published, see `inversion.FeaturesFn`.
        victims, held_out: features `[n, ...]` of their images.
        key: of the noise.
    """

    features_fn: FeaturesFn
    victims: np.ndarray
    held_out: np.ndarray
    key: Array


class Attacked(NamedTuple):
    """What attacks found in one fold.

    Attributes:
        folds: by attack one `AttackedFold` for each seed.
        candidates: what was tried. chosen: the decoder's lambda_3.
    """

    folds: Mapping[str, list[AttackedFold]]
    candidates: list[CandidateRow]
    chosen: float


def protected_features(audit: PrivacyAudit, fold: Fold, extra: Sequence[Protection] = ()) -> FeaturesFn:
    """Features behind the threat's protections and these; fitted ones are fitted to the attacker's images."""
    protections = (*audit.threat.protections, *extra)
    needs = any(one.fitted for one in protections)
    own = fold.attackers
    return protected(
        fold.fn,
        protections,
        (audit.batch_rows, *own.images.shape[1:]),
        fitted_to=own.at(fitting_rows(audit, own)).pixels if needs else None,
        batch_size=audit.batch_rows,
    )


def published(audit: PrivacyAudit, fold: Fold, extra: Sequence[Protection] = ()) -> Published:
    """What is published of victims and of held-out attackers behind these protections."""
    features_fn = protected_features(audit, fold, extra)
    key = jax.random.fold_in(jax.random.key(audit.seed), fold.number)
    victims, held_out = (
        publish(features_fn, side.pixels, key=key, batch_size=audit.batch_rows)
        for side in (fold.victims, fold.held_out)
    )
    return Published(features_fn, victims, held_out, key)


def fitting_rows(audit: PrivacyAudit, side: Side) -> np.ndarray:
    """The images that linear models are fitted to, at most `most_fitted`."""
    if len(side.identity) <= audit.most_fitted:
        return np.arange(len(side.identity))
    return sampled(side, audit.most_fitted, audit.seed)


def critics_of(
    audit: PrivacyAudit, fold: Fold, features_fn: FeaturesFn, given: Mapping[str, Any]
) -> tuple[dict[str, Critic], list[str]]:
    """The judge, the model itself and those that are given, with thresholds from held-out attackers."""
    identities, pairs = fold.held_out.as_set("the held-out attackers")
    embeds = {JUDGE: _fisherfaces(audit, fold.attackers), VICTIM: embedding_of(features_fn), **given}
    critics = {
        name: calibrated_critic(embed, identities, pairs, far=audit.far, batch_size=audit.batch_rows)
        for name, embed in embeds.items()
    }
    impostors = pairs.at(~pairs.genuine)
    people = np.sort(identities.identity[np.stack([impostors.first, impostors.second])], axis=0)
    known = resolution(audit.far, len(impostors.first), np.unique(people, axis=1).shape[1])
    # Ten classes are no sample of classes, and none is meant.
    of_people = np.array_equal(fold.held_out.identity, fold.held_out.subjects)
    fine = (Resolved.YES,) if of_people else (Resolved.YES, Resolved.DESCRIPTIVE)
    return critics, [] if known.level in fine else [f"Critics' threshold, fold {fold.number}: {known.words}"]


def _fisherfaces(audit: PrivacyAudit, side: Side) -> Callable[..., Any]:
    """PCA + LDA of the attacker's people; with few or simple images, of more variance or fewer directions."""
    own = side.at(fitting_rows(audit, side))
    directions = len(np.unique(own.identity)) - 1
    while True:
        for share in _SHARES:
            try:
                found = pca_lda.fit(own.pixels, own.identity, variance=share, num_directions=directions)
            except ValueError:
                if directions == 1 and share == _SHARES[-1]:
                    raise
            else:
                return found.embed
        directions = max(directions // 2, 1)


def attack(
    audit: PrivacyAudit, fold: Fold, seen: Published, critics: Mapping[str, Critic], bench: Bench, victim: str
) -> Attacked:
    """Every attack, with the setting that does best on held-out attackers."""
    mean = fold.attackers.pixels.mean(0)
    about = about_of(audit, fold, victim)
    candidates, makers = [], {}
    for weight in audit.weights:
        start = time.perf_counter()
        makers[weight] = [
            train_decoder(
                audit,
                seen.features_fn,
                fold.attackers,
                name=f"fold{fold.number}-weight{weight:g}-seed{seed}",
                feature_weight=weight,
                seed=seed,
                bench=bench,
                about=about,
            ).reconstruct
            for seed in audit.seeds
        ]
        seconds = time.perf_counter() - start
        scores = [
            _score(audit, critics[JUDGE], fold.held_out, make(seen.held_out), mean) for make in makers[weight]
        ]
        candidates.append(_candidate(DECODER, fold.number, f"feature weight {weight:g}", scores, seconds))
    best = _best(candidates)
    weight = audit.weights[best]
    candidates[best] = candidates[best]._replace(chosen=True)
    found = {
        DECODER: [
            _attacked(fold, seen, critics, mean, make(seen.victims), make(seen.held_out))
            for make in makers[weight]
        ]
    }
    if audit.methods:
        one, rows_tried = _optimised(audit, fold, seen, critics, mean, bench)
        found[OPTIMISATION] = [one]
        candidates += rows_tried
    return Attacked(found, candidates, weight)


def protected_decoder(
    audit: PrivacyAudit,
    fold: Fold,
    seen: Published,
    critics: Mapping[str, Critic],
    bench: Bench,
    victim: str,
    *,
    name: str,
    extra: Sequence[Protection],
    feature_weight: float,
) -> AttackedFold:
    """A decoder that is trained behind a mitigation, with the setting that did best without it."""
    trained = train_decoder(
        audit,
        seen.features_fn,
        fold.attackers,
        name=f"fold{fold.number}-{name}-weight{feature_weight:g}-seed{audit.seed}",
        feature_weight=feature_weight,
        seed=audit.seed,
        bench=bench,
        about=about_of(audit, fold, victim, extra),
    )
    mean = fold.attackers.pixels.mean(0)
    make = trained.reconstruct
    return _attacked(fold, seen, critics, mean, make(seen.victims), make(seen.held_out))


def measured(
    audit: PrivacyAudit, folds: Sequence[AttackedFold], perceptual_fn: Any, repeats: int = 1
) -> ReconstructionReport:
    """What an attack's reconstructions are worth, decisions of all folds and seeds counted together.

    `repeats`: how many seeds there are of each fold; images and folds are counted once.
    """
    found = measure_reconstructions(
        folds,
        judge=JUDGE,
        perceptual_fn=perceptual_fn,
        num_pairs=audit.num_pairs,
        window=audit.window,
        least_genuine=audit.least_genuine,
        batch_size=audit.batch_rows,
        num_draws=audit.num_draws,
        seed=audit.seed,
    )
    folds_once, images_once = found.num_folds // repeats, found.num_images // repeats
    held_out = found.held_out._replace(num_images=found.held_out.num_images // repeats)
    return unless_failed(
        dataclasses.replace(found, num_folds=folds_once, num_images=images_once, held_out=held_out)
    )


def about_of(
    audit: PrivacyAudit, fold: Fold, victim: str, extra: Sequence[Protection] = ()
) -> dict[str, Any]:
    """What a decoder's checkpoints must agree in, beside its settings."""
    own = fold.attackers
    found = {
        "victim": victim,
        "attackers": digest_of_images(own.images),
        "features": describe(audit.threat),
    }
    if extra:
        found["mitigation"] = describe(tuple(extra))
    if any(one.fitted for one in (*audit.threat.protections, *extra)):
        found["fitted to"] = digest_of_images(own.images[fitting_rows(audit, own)])
    return found


def _optimised(
    audit: PrivacyAudit,
    fold: Fold,
    seen: Published,
    critics: Mapping[str, Critic],
    mean: np.ndarray,
    bench: Bench,
) -> tuple[AttackedFold, list[CandidateRow]]:
    """Inversion by optimisation, of a sample of images; the prior that does best on held-out attackers."""
    held_at = sampled(fold.held_out, audit.num_optimised, audit.seed)
    at = sampled(fold.victims, audit.num_optimised, audit.seed)
    key = jax.random.fold_in(seen.key, 1)

    def made(method: Any, features: np.ndarray) -> np.ndarray:
        found = invert(method, seen.features_fn, features, start=mean, key=key, chunk=audit.batch_rows)
        return np.asarray(found.image)

    candidates, images = [], []
    total = len(audit.methods) + 1
    for number, method in enumerate(audit.methods):
        bench.tell(f"optimisation, fold {fold.number}", number, total)
        start = time.perf_counter()
        images.append(made(method, seen.held_out[held_at]))
        seconds = time.perf_counter() - start
        score = _score(audit, critics[JUDGE], fold.held_out.at(held_at), images[-1], mean)
        setting = f"total variation {method.total_variation:g}, {method.steps} steps"
        candidates.append(_candidate(OPTIMISATION, fold.number, setting, [score], seconds))
    best = _best(candidates)
    candidates[best] = candidates[best]._replace(chosen=True)
    part = fold._replace(victims=fold.victims.at(at), held_out=fold.held_out.at(held_at))
    found = _attacked(
        part,
        seen._replace(victims=seen.victims[at]),
        critics,
        mean,
        made(audit.methods[best], seen.victims[at]),
        images[best],
    )
    bench.tell(f"optimisation, fold {fold.number}", total, total)
    return found, candidates


def _attacked(
    fold: Fold,
    seen: Published,
    critics: Mapping[str, Critic],
    mean: np.ndarray,
    victims: np.ndarray,
    held_out: np.ndarray,
) -> AttackedFold:
    sides = [
        Reconstructed(side.pixels, made, side.identity, side.subjects)
        for side, made in ((fold.victims, victims), (fold.held_out, held_out))
    ]
    return AttackedFold(sides[0], sides[1], mean, seen.victims, critics)


def _score(
    audit: PrivacyAudit, critic: Critic, side: Side, made: np.ndarray, mean: np.ndarray
) -> tuple[float, float]:
    """Leak by the judge and mean SSIM on held-out attackers."""
    images, rng = side.pixels, np.random.default_rng(audit.seed)
    genuine, wrong = rows.pair_rows(side.identity, audit.num_pairs, rng)
    judged = rows.judged(critic, images, made, mean, side.identity, genuine, wrong, audit.batch_rows)
    like = rows.likeness(images, {"reconstruction": made}, audit.window, None, audit.batch_rows)
    leak = leak_score(
        float(judged.genuine["type2"].mean()),
        float(judged.wrong["wrong"].mean()),
        float(judged.genuine["genuine"].mean()),
    )
    return leak, float(like["ssim/reconstruction"].mean())


def _candidate(
    name: str, fold: int, setting: str, scores: Sequence[tuple[float, float]], seconds: float
) -> CandidateRow:
    leak, like = np.mean(np.asarray(scores), axis=0)
    known = float(leak) if np.isfinite(leak) else None
    return CandidateRow(name, fold, setting, known, float(like), seconds, False)


def _best(candidates: Sequence[CandidateRow]) -> int:
    """The largest leak, of equals the largest SSIM; one that cannot be said is below all others."""
    keys = [(-1.0 if row.leak is None else row.leak, row.ssim) for row in candidates]
    return max(range(len(keys)), key=lambda i: keys[i])
