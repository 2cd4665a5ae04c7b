"""Face verification: any embedding function on a list of pairs, folds pooled, and what may be said of it."""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from jaxrobust import _validate
from jaxrobust.data import Identities, Pairs
from jaxrobust.evaluation import _provenance, _verification_scores
from jaxrobust.evaluation._verification_report import (
    Decisions,
    Estimate,
    FoldRow,
    TarAtFar,
    VerificationReport,
)
from jaxrobust.evaluation._verification_scores import Models, People, Scored, Threshold
from jaxrobust.evaluation.resolution import Resolved, resolution
from jaxrobust.evaluation.roc import Roc, check_far, decision_rates, eer, roc, tar_at_far, weighted_roc_fn
from jaxrobust.evaluation.subject_bootstrap import Bootstrap, subject_bootstrap
from jaxrobust.evaluation.view2 import View2, view2_accuracy

_COLLAPSED = 0.9


def verify(
    embed_fn: Models,
    identities: Identities,
    pairs: Pairs,
    *,
    validation: Pairs | None = None,
    trained_on: Sequence[People] | None = None,
    far: float = 0.01,
    fars: Sequence[float] = (0.01, 0.001),
    batch_size: int = 64,
    identification: bool = True,
    num_draws: int = 1000,
    seed: int = 0,
    name: str = "",
) -> VerificationReport:
    """Measures face verification (and rank-1 identification) of one model, or of one model per fold.

    Embeddings are compared by cosine. EER and TAR are of the ROC that pools the folds' decisions
    (`roc.pooled_roc`). `decisions` are what a user would get: tau is the threshold of the asked FAR on the
    validation pairs of people who are not tested, and the achieved FAR stands beside it. The match
    probability is sigmoid(a (s - tau)) with that tau, and a fitted on the same pairs. Intervals are from
    resampling people. A FAR that the pairs cannot resolve gets a sentence and no TAR.

    Args:
        embed_fn: any callable, images float32 `[b, h, w, c]` in [0, 1] -> embeddings `[b, d]`, of any length;
            or one per fold, in the order of the numbers in `Pairs.fold`, each of which sees its own fold.
        identities: the set.
        pairs: the test pairs.
        validation: pairs of other people, for thresholds; its folds are those of `pairs`, or a single one for
            all folds of a single model.
        trained_on: for every model, the people that it was trained on (indices into `identities.names`):
            they are refused among its pairs.
        far: the FAR that thresholds from validation are to have.
        fars: at which FARs the TAR is measured.
        batch_size: images per call, always exactly so many.
        identification: whether to measure rank-1 among each fold's people, over all their images.
        num_draws: of the bootstrap over people.
        seed: of the bootstrap.
        name: of the model, for the report.

    Returns:
        The `VerificationReport`.

    Raises:
        ValueError: people that were trained on among the pairs, embeddings that are not finite or of another
            shape, folds without a model or without validation pairs, numbers out of range.
    """
    start = time.perf_counter()
    _validate.at_least("batch_size", batch_size, 1)
    for one in (far, *fars):
        check_far(one)
    lists = {"pairs": pairs} if validation is None else {"pairs": pairs, "validation pairs": validation}
    for what, some in lists.items():
        _verification_scores.check_pairs_of(identities, some, what)
    _verification_scores.check_models(embed_fn, pairs, validation)
    for what, some in lists.items():
        _verification_scores.check_unseen(identities, embed_fn, some, what, trained_on)
    scored = _verification_scores.score(embed_fn, identities, pairs, validation, batch_size, identification)
    thresholds = _verification_scores.thresholds(scored, pairs, validation, far)
    accepted = _verification_scores.accept(scored.test, pairs.fold, thresholds)
    whose = identities.identity[np.stack([pairs.first, pairs.second], axis=1)]
    found = _measure(scored.test, pairs, whose, accepted, fars, num_draws, seed)
    return VerificationReport(
        model=name,
        dataset=identities.name,
        fingerprint=identities.fingerprint,
        pairs=pairs.digest,
        validation_pairs=None if validation is None else validation.digest,
        num_people=len(np.unique(whose)),
        num_images=len(np.unique([pairs.first, pairs.second])),
        num_genuine=int(pairs.genuine.sum()),
        num_impostor=int((~pairs.genuine).sum()),
        num_identity_pairs=found.num_couples,
        num_folds=len(np.unique(pairs.fold)),
        eer=found.estimates[0],
        tar_at_far=found.tars,
        decisions=Decisions(far, *found.estimates[-3:]) if accepted is not None else None,
        folds=_fold_rows(scored.test, pairs, thresholds, accepted),
        view2=_view2(scored.test, pairs, callable(embed_fn)),
        rank1=scored.rank1,
        warnings=_warnings(scored, identities, pairs, validation, thresholds, found),
        similarities=scored.test,
        roc=(found.curve.far, found.curve.tar),
        accepted=accepted,
        draws=found.bootstrap.draws,
        meta={
            "seed": seed,
            "num_draws": num_draws,
            "batch_size": batch_size,
            "versions": _provenance.versions(),
            "hardware": _provenance.hardware(),
            "seconds": time.perf_counter() - start,
        },
    )


class _Measured(NamedTuple):
    """The pooled curve, the estimates in the bootstrap's order, TAR rows, pairs of people."""

    curve: Roc
    estimates: list[Estimate]
    tars: tuple[TarAtFar, ...]
    bootstrap: Bootstrap
    num_couples: int


def _measure(
    similarities: np.ndarray,
    pairs: Pairs,
    whose: np.ndarray,
    accepted: np.ndarray | None,
    fars: Sequence[float],
    num_draws: int,
    seed: int,
) -> _Measured:
    """Everything that is estimated over people."""
    weighted = weighted_roc_fn(similarities, pairs.genuine, pairs.fold)
    curve = weighted(None)
    assert curve is not None

    def statistics(weights: np.ndarray | None) -> np.ndarray:
        drawn = weighted(weights)
        values = [np.nan] * (1 + len(fars))
        if drawn is not None:
            values = [eer(drawn).value, *(tar_at_far(drawn, one).tar for one in fars)]
        if accepted is not None:
            values += [*decision_rates(accepted, pairs.genuine, weights)]
        return np.asarray(values)

    boot = subject_bootstrap(statistics, whose, pairs.fold, num_draws=num_draws, seed=seed)
    estimates = [
        Estimate(*(float(v) if np.isfinite(v) else None for v in values))
        for values in zip(statistics(None), boot.low, boot.high, strict=True)
    ]
    # Two people in two folds are judged by two models, so that they count twice.
    couples = np.unique(
        np.concatenate([np.sort(whose, axis=1), pairs.fold[:, None]], axis=1), axis=0, return_inverse=True
    )[1].reshape(-1)
    num_couples = len(np.unique(couples[~pairs.genuine]))
    tars = tuple(
        _tar_row(similarities, pairs, curve, couples, num_couples, one, estimate)
        for one, estimate in zip(fars, estimates[1:], strict=False)
    )
    return _Measured(curve, estimates, tars, boot, num_couples)


def _tar_row(
    similarities: np.ndarray,
    pairs: Pairs,
    curve: Roc,
    couples: np.ndarray,
    num_couples: int,
    far: float,
    estimate: Estimate,
) -> TarAtFar:
    """TAR at one FAR; no number where it is not resolved."""
    known = resolution(far, int((~pairs.genuine).sum()), num_couples)
    if known.level is Resolved.NO:
        return TarAtFar(far, None, Estimate(None), None, known)
    point = tar_at_far(curve, far)
    # Folds accept down to the same share of their impostor pairs, as on the pooled curve.
    impostors = np.flatnonzero(~pairs.genuine)
    level = np.empty(len(impostors))
    for fold in np.unique(pairs.fold):
        own = pairs.fold[impostors] == fold
        level[own] = (stats.rankdata(-similarities[impostors[own]]) - 0.5) / own.sum()
    false = impostors[np.argsort(level)[: round(point.far * len(impostors))]]
    return TarAtFar(far, point.far, estimate, len(np.unique(couples[false])), known)


def _fold_rows(
    similarities: np.ndarray, pairs: Pairs, thresholds: dict[int, Threshold], accepted: np.ndarray | None
) -> tuple[FoldRow, ...]:
    """Every fold by itself."""
    rows = []
    for fold in _verification_scores.folds_of(pairs):
        own = pairs.fold == fold
        genuine = pairs.genuine[own]
        # A list like LFW's has both kinds in every fold; another may not.
        value = eer(roc(similarities[own], genuine)).value if genuine.any() else None
        platt, achieved, far, tar = None, None, None, None
        if accepted is not None:
            platt, achieved = thresholds[fold]
            far, tar, _ = decision_rates(accepted[own], genuine)
        rows.append(FoldRow(fold, value, platt, achieved, far, tar))
    return tuple(rows)


def _view2(similarities: np.ndarray, pairs: Pairs, single: bool) -> View2 | None:
    """Only where thresholds and accuracy mean what they do in LFW: one model, equally many of both kinds."""
    folds = _verification_scores.folds_of(pairs)
    balanced = all(2 * pairs.genuine[pairs.fold == f].sum() == (pairs.fold == f).sum() for f in folds)
    if not single or len(folds) < 2 or not balanced:
        return None
    return view2_accuracy(similarities, pairs.genuine, pairs.fold)


def _warnings(
    scored: Scored,
    identities: Identities,
    pairs: Pairs,
    validation: Pairs | None,
    thresholds: dict[int, Threshold],
    found: _Measured,
) -> tuple[str, ...]:
    """What a reader must know before the numbers."""
    said = []
    mean = float(scored.test[~pairs.genuine].mean())
    if mean > _COLLAPSED:
        said.append(
            f"The mean cosine of impostor pairs is {mean:.3f}: collapsed, or not centred, embeddings."
        )
    if found.estimates[0].value is not None and found.estimates[0].value > 0.5:
        said.append("The EER is above 50%: impostor pairs are the more alike. Does the model give distances?")
    if scored.num_zero:
        said.append(f"{scored.num_zero} embeddings have length 0; their cosine with any counts as 0.")
    if validation is None:
        said.append("Without validation pairs there is no threshold: EER and TAR only, on the pairs judged.")
    else:
        said += _validation_warnings(identities, pairs, validation, thresholds)
    if any(estimate.low is None for estimate in found.estimates):
        said.append("There are too few people, or pairs of each, for an interval of every number.")
    return tuple(said)


def _validation_warnings(
    identities: Identities, pairs: Pairs, validation: Pairs, thresholds: dict[int, Threshold]
) -> list[str]:
    """Thresholds from people who are tested too, and slopes that mean nothing."""
    said = _verification_scores.shared_people(identities, pairs, validation)
    flat = [str(fold) for fold, threshold in thresholds.items() if threshold.platt.a == 0]
    if flat:
        said.append(f"Similarities tell nothing on the validation pairs of fold {', '.join(flat)}: a = 0.")
    return said
