"""How robust is a model where its own heat map says that it is most sensitive? After CN112215201B.

The patent: take pairs of faces; the probability that the two agree is the first result; from it a heat map of
one image; from that a region; perturb it; the probability with the perturbed image is the second result; from
first and second results over all pairs, the model's robustness. The second form takes a classifier and the
probability of a class. What the patent leaves open (which maps, regions, perturbations, measures) and the
controls, without which no number means anything, are this library's.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust import saliency
from jaxrobust.audits import _saliency_inputs, _saliency_measure, _saliency_statistics, _subjects
from jaxrobust.audits._saliency_measure import Measured
from jaxrobust.audits._saliency_report import WORST_MAP, SaliencyReport
from jaxrobust.audits._saliency_verdict import Grounds, verdict_of
from jaxrobust.audits._subjects import Explained, Subject
from jaxrobust.audits.saliency_config import SaliencyAudit
from jaxrobust.data import Identities, Pairs
from jaxrobust.evaluation import _pair_cases, _provenance, _verification_scores
from jaxrobust.evaluation._verification_scores import Models, People
from jaxrobust.evaluation.resolution import Resolved, resolution


def audit_pairs(
    audit: SaliencyAudit,
    embed_fn: Models,
    identities: Identities,
    pairs: Pairs,
    *,
    validation: Pairs,
    fill: Any = None,
    stages: Mapping[str, Any] | None = None,
    explained: Models | None = None,
    randomised: Mapping[str, Any] | None = None,
    trained_on: Sequence[People] | None = None,
    far: float = 0.01,
    num_genuine: int | None = 100,
    num_impostor: int | None = 100,
    name: str = "",
    progress_fn: Callable[[str, int, int], None] | None = None,
) -> SaliencyReport:
    r"""Audits a verification model: the patent's first form, each image of a pair in turn.

    A pair is accepted where $\cos(f(x), f(x')) \ge \tau$, with thresholds and slopes a of the probability
    $\sigma(a(\cos - \tau))$ from validation people, as in `evaluation.verify`. Maps of genuine pairs show
    what supports the cosine, those of impostors what speaks against it. Pairs that were decided wrongly from
    the start are counted and left out of flips; TAR and FAR are of all pairs.

    Args:
        audit: what is done.
        embed_fn: images float32 `[b, h, w, c]` in [0, 1] -> embeddings `[b, d]`, traceable by JAX; or one
            per fold, in the order of the numbers in `Pairs.fold`. See `evaluation.verify_attacked`.
        identities, pairs, validation, trained_on, far: as in `evaluation.verify`.
        fill: what takes the place of what is removed, and the maps' baseline: a level, `[h, w, c]` such as
            the mean of the training images, or a list with one per model; None for the mean image of the
            validation people.
        stages: by map name, for `GradCAM`: embeddings of what is explained, cut at a layer
            (`saliency.model_embeddings(..., at=)`), or a list with one per fold.
        explained: the model, or models, that maps are made of; None for `embed_fn`. With another, such as
            one of random weights, the regions are those that it looks at, a check of the audit itself, and
            there is no verdict.
        randomised: by the layer drawn last, from the output on, what is explained with its layers drawn anew
            (`Randomised`, see `audits.cascade`); a list with one per fold.
        num_genuine, num_impostor: how many pairs, drawn evenly over folds and people; None for all.
        name: of the model, for the report.
        progress_fn: receives what is done, how far, of how many.

    Returns:
        The `SaliencyReport`.

    Raises:
        ValueError: people that were trained on, wrong lists, shapes or ranges, a `GradCAM` without stages, as
            in `evaluation.verify`.
    """
    start = time.perf_counter()
    _pair_cases.check_lists(identities, pairs, validation)
    _verification_scores.check_models(embed_fn, pairs, validation)
    for what, some in {"pairs": pairs, "validation pairs": validation}.items():
        _verification_scores.check_unseen(identities, embed_fn, some, what, trained_on)
    _saliency_inputs.check_stages(audit.maps, stages, randomised)
    _saliency_inputs.check_regions(audit.regions, identities.images.shape[1:])
    folds = _verification_scores.folds_of(pairs)
    given = {"embed_fn": embed_fn, "fill": fill, "explained": explained}
    given |= {f"stages[{key!r}]": one for key, one in (stages or {}).items()}
    given |= {f"randomised[{key!r}]": one for key, one in (randomised or {}).items()}
    of = {what: _saliency_inputs.per_model(what, one, folds) for what, one in given.items()}
    rows = _pair_cases.draw_pairs(
        identities, pairs, num_genuine=num_genuine, num_impostor=num_impostor, seed=audit.seed
    )
    scored = _verification_scores.score(embed_fn, identities, pairs, validation, audit.batch_size, False)
    thresholds = _verification_scores.thresholds(scored, pairs, validation, far)
    subjects = []
    for number, fold in enumerate(folds):
        mine = rows[pairs.fold[rows] == fold]
        if not len(mine):  # Fewer pairs were asked for than there are folds.
            continue
        subjects.append(
            _saliency_inputs.pair_subject(
                of["embed_fn"][number],
                identities,
                pairs,
                mine,
                thresholds[fold].platt,
                fill=_saliency_inputs.fill_of(of["fill"][number], identities, validation, fold),
                stages={key: of[f"stages[{key!r}]"][number] for key in stages or {}},
                explained=of["explained"][number],
                randomised={key: of[f"randomised[{key!r}]"][number] for key in randomised or {}},
                batch_size=audit.batch_size,
            )
        )
    chosen = pairs.at(rows)
    warnings = _verification_scores.shared_people(identities, pairs, validation)
    warnings += _unresolved(far, identities, validation)
    if fill is None:
        warnings.append(
            "The fill is the mean image of the validation people; the training images' mean is meant."
        )
    return _report(
        audit,
        subjects,
        form="pairs",
        unit="people",
        foreign=explained is not None,
        name=name,
        dataset=identities.name,
        genuine=np.concatenate([subject.target for subject in subjects]) == 0,
        facts={
            "fingerprint": identities.fingerprint,
            "pairs": pairs.digest,
            "chosen": chosen.digest,
            "validation_pairs": validation.digest,
            "far": far,
            "folds": [
                {
                    "fold": f,
                    "tau": thresholds[f].platt.tau,
                    "a": thresholds[f].platt.a,
                    "far": thresholds[f].far,
                }
                for f in folds
            ],
            "num_pairs": len(rows),
        },
        warnings=warnings,
        progress_fn=progress_fn,
        start=start,
    )


def audit_classifier(
    audit: SaliencyAudit,
    logits_fn: Any,
    images: Any,
    labels: Any = None,
    *,
    fill: Any = None,
    stages: Mapping[str, Any] | None = None,
    explained: Any = None,
    randomised: Mapping[str, Any] | None = None,
    groups: Any = None,
    class_names: Sequence[str] | None = None,
    dataset: str = "",
    fingerprint: str = "",
    name: str = "",
    progress_fn: Callable[[str, int, int], None] | None = None,
) -> SaliencyReport:
    """Audits a classifier: the patent's second form, with the probability of a class.

    Maps show what supports the log-odds of the class (its probability does not move where the model is sure).
    A decision flips where another class has the
    largest logit.

    Args:
        audit: what is done.
        logits_fn: images float32 `[b, h, w, c]` in [0, 1] -> logits `[b, k]`, traceable by JAX, as
            `jaxrobust.attack` takes it.
        images: `[m, h, w, c]`, uint8, or float32 in [0, 1].
        labels: int `[m]`: images that are classified wrongly from the start are counted and left out. None:
            the class is the one predicted, and all images are asked about.
        fill: as in `audit_pairs`; None for the mean of these images.
        stages, explained, randomised: as in `audit_pairs`, of logits.
        groups: int `[m]`, images that belong together (of one person, of one scene) and are resampled
            together; None for each by itself.
        class_names: for pictures.
        dataset, fingerprint, name: for the report.
        progress_fn: receives what is done, how far, of how many.

    Returns:
        The `SaliencyReport`.

    Raises:
        ValueError: for images, labels or logits of wrong shape or range.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> from jaxrobust.saliency import Occlusion, TopFraction
        >>> def logits_fn(images):  # looks at the left half alone
        ...     left = images[:, :, :4].mean(axis=(1, 2, 3)) - 0.5
        ...     return jnp.stack([-9 * left, 9 * left], axis=1)
        >>> rng = np.random.default_rng(0)
        >>> images = rng.uniform(size=(8, 8, 8, 1)).astype(np.float32)
        >>> audit = SaliencyAudit(
        ...     maps={"occlusion": Occlusion(window=2, stride=2)},
        ...     regions={"half": TopFraction(fraction=0.5, sigma=0)},
        ...     num_sanity=0, batch_size=8, num_draws=50,
        ... )
        >>> report = audit_classifier(audit, logits_fn, images, fill=0.5)
        >>> report.num_rows, report.row("occlusion").region
        (8, 'half')
    """
    start = time.perf_counter()
    pixels = _saliency_inputs.as_pixels(images)
    num = len(pixels)
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (num,) or labels.dtype.kind not in "iu":
            raise ValueError(f"Expected labels as integers [{num}], got {labels.dtype} {list(labels.shape)}.")
    if groups is not None and np.shape(groups) != (num,):
        raise ValueError(f"Expected groups [{num}], one per image, got shape {list(np.shape(groups))}.")
    _saliency_inputs.check_stages(audit.maps, stages, randomised)
    _saliency_inputs.check_regions(audit.regions, pixels.shape[1:])
    logits = _subjects.outputs(logits_fn, pixels, audit.batch_size)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"Expected logits [b, k] of at least two classes, got shape {list(logits.shape)}.")
    _subjects.check_finite_outputs(logits, "logits")
    if labels is not None and (labels.min() < 0 or labels.max() >= logits.shape[1]):
        raise ValueError(
            f"Expected labels 0 .. {logits.shape[1] - 1}, the model's classes, got {labels.min()} .. "
            f"{labels.max()}."
        )
    target = (logits.argmax(axis=1) if labels is None else labels).astype(np.int32)
    log_odds, of = saliency.class_log_odds, _subjects.score_fn
    whose = np.arange(num) if groups is None else np.asarray(groups)
    names = [str(one) for one in range(logits.shape[1])] if class_names is None else list(class_names)
    if len(names) != logits.shape[1]:
        raise ValueError(f"Expected {logits.shape[1]} class_names, one per logit, got {len(names)}.")
    subject = Subject(
        images=pixels,
        target=target,
        reference=None,
        explained=Explained(
            "",
            log_odds(of(logits_fn if explained is None else explained)),
            {key: log_odds(of(one)) for key, one in (stages or {}).items()},
            None,
        ),
        judge=_subjects.class_judge(logits_fn, target, audit.batch_size),
        attack=_subjects.class_attack(logits_fn, target, audit.batch_size),
        probability=saliency.class_probability(of(logits_fn)),
        randomised=tuple(
            Explained(
                layer,
                log_odds(of(fn.whole)),
                {key: log_odds(one) for key, one in fn.cut.items()},
                None,
            )
            for layer, fn in (randomised or {}).items()
        ),
        partner=None,
        fill=_saliency_inputs.as_fill(pixels.mean(axis=0) if fill is None else fill, pixels.shape[1:]),
        people=np.stack([whose, whose], axis=1),
        fold=np.zeros(num, int),
        group=target,
        number=np.arange(num),
        name=tuple(f"{i}: {names[one]}" for i, one in enumerate(target)),
    )
    warnings = []
    if fill is None:
        warnings.append("The fill is the mean of the audited images; the training images' mean is meant.")
    return _report(
        audit,
        [subject],
        form="classes",
        unit="images" if groups is None else "groups",
        foreign=explained is not None,
        name=name,
        dataset=dataset,
        genuine=None,
        facts={"fingerprint": fingerprint, "class": "predicted" if labels is None else "label"},
        warnings=warnings,
        progress_fn=progress_fn,
        start=start,
    )


def _report(
    audit: SaliencyAudit,
    subjects: Sequence[Subject],
    *,
    form: str,
    unit: str,
    foreign: bool,
    name: str,
    dataset: str,
    genuine: np.ndarray | None,
    facts: dict[str, Any],
    warnings: list[str],
    progress_fn: Callable[[str, int, int], None] | None,
    start: float,
) -> SaliencyReport:
    plan = audit.plan()
    tell = progress_fn or (lambda what, done, total: None)
    measured = _saliency_measure.joined([_saliency_measure.measure(one, plan, tell) for one in subjects])
    people = np.concatenate([subject.people for subject in subjects])
    fold = np.concatenate([subject.fold for subject in subjects])
    found = _saliency_statistics.estimate(measured, plan, people, fold, genuine, audit.num_draws)
    headline = (plan.headline, next(iter(plan.perturbations)))
    rows = {row[:3]: row for row in found.rows}
    maps = _saliency_statistics.map_rows(measured, plan)
    asked = people[measured.rows] if len(measured.rows) else people
    grounds = Grounds(
        num_maps=len(plan.maps),
        num_right=len(measured.rows),
        num_units=len(np.unique(asked)),
        pointless=_saliency_statistics.pointless(measured, plan),
        informative=_saliency_statistics.informative(maps),
        foreign=foreign,
        control=audit.controls[0] if audit.controls else None,
    )
    return SaliencyReport(
        model=name,
        dataset=dataset,
        form=form,
        num_rows=len(people),
        num_right=len(measured.rows),
        unit=unit,
        num_units=len(np.unique(people)),
        before=found.before,
        headline=headline,
        rows=found.rows,
        curves=found.curves,
        maps=maps,
        agreement=_saliency_statistics.agreement_rows(measured),
        verdict=verdict_of(rows[WORST_MAP, *headline], grounds),
        warnings=(*warnings, *_warnings(audit, measured)),
        cases=_saliency_statistics.cases(measured, plan, subjects),
        flags=_saliency_statistics.flags(measured, subjects),
        facts={**facts, "regions_of_another_model": foreign},
        meta={
            "audit": _provenance.describe(audit),
            "seed": audit.seed,
            "versions": _provenance.versions(),
            "hardware": _provenance.hardware(),
            "seconds": time.perf_counter() - start,
        },
    )


def _unresolved(far: float, identities: Identities, validation: Pairs) -> list[str]:
    """A sentence where the validation pairs, from which thresholds come, cannot resolve the FAR."""
    said = []
    for fold in np.unique(validation.fold):
        own = validation.at((validation.fold == fold) & ~validation.genuine)
        people = np.sort(identities.identity[np.stack([own.first, own.second])], axis=0)
        known = resolution(far, len(own.first), np.unique(people, axis=1).shape[1])
        if known.level is not Resolved.YES:
            said.append(f"Threshold of fold {fold}, on its validation pairs: {known.words}")
    return said


def _warnings(audit: SaliencyAudit, measured: Measured) -> list[str]:
    """What a reader must know before the numbers."""
    said = []
    for name, constant in measured.constant.items():
        if constant.any():
            said.append(
                f"{int(constant.sum())} of {len(constant)} maps of {name} are constant: their regions, the "
                "first pixels, say nothing."
            )
    for (name, region), empty in measured.empty.items():
        if empty.any():
            said.append(f"{int(empty.sum())} of {len(empty)} regions of {name}, {region}, have no pixel.")
    if not audit.controls:
        said.append("Without controls nobody knows whether any other place would have flipped as many.")
    bad = sum(int((~judged.finite).any()) for judged in measured.after.values())
    if bad:
        said.append("The model said NaN of perturbed images, which count as flipped: see the rows.")
    return said
