"""From models to similarities, thresholds and decisions, fold by fold."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust.data import Identities, Pairs
from jaxrobust.evaluation import _embed
from jaxrobust.evaluation._embed import EmbedFn
from jaxrobust.evaluation.identification import Rank1, rank1
from jaxrobust.evaluation.platt import Platt, fit_platt
from jaxrobust.evaluation.roc import roc, tar_at_far

Models = EmbedFn | Sequence[EmbedFn]
People = Sequence[int] | np.ndarray


class Scored(NamedTuple):
    """Similarities of the test and the validation pairs, identification, and how many embeddings were 0."""

    test: np.ndarray
    validation: np.ndarray | None
    rank1: Rank1 | None
    num_zero: int


class Threshold(NamedTuple):
    """A fold's probability with its threshold, and the FAR that it has on the validation pairs."""

    platt: Platt
    far: float


def folds_of(pairs: Pairs) -> list[int]:
    """The numbers of the folds, ascending."""
    return [int(one) for one in np.unique(pairs.fold)]


def check_models(models: Models, pairs: Pairs, validation: Pairs | None) -> None:
    """Raises ValueError unless every fold has a model, and validation pairs where there are any."""
    folds = folds_of(pairs)
    if not callable(models) and (len(models) != len(folds) or not all(callable(one) for one in models)):
        raise ValueError(
            f"Expected one embedding function, or one for each of the folds {folds}, got {len(models)}: "
            f"{list(models)}."
        )
    if validation is None or folds_of(validation) == folds:
        return
    if not callable(models) or len(folds_of(validation)) > 1:
        raise ValueError(
            f"The validation pairs have the folds {folds_of(validation)}, the pairs {folds}; give them the "
            "same ones, or a single one for all folds of a single model."
        )


def check_pairs_of(identities: Identities, pairs: Pairs, what: str) -> None:
    """Raises ValueError where a list of pairs is not one of this set."""
    if not all(len(values) == len(pairs.first) for values in pairs) or not len(pairs.first):
        raise ValueError(f"Expected {what} with as many entries in every field, and at least one.")
    images, num = np.concatenate([pairs.first, pairs.second]), len(identities.identity)
    outside = images[(images < 0) | (images >= num)]
    if len(outside):
        raise ValueError(
            f"The {what} name image {outside[0]}, but {identities.name} has images 0 .. {num - 1}; they were "
            "made for another set."
        )
    same = identities.identity[pairs.first] == identities.identity[pairs.second]
    if not np.array_equal(same, pairs.genuine):
        row = int(np.flatnonzero(same != pairs.genuine)[0])
        raise ValueError(
            f"Entry {row} of the {what} says genuine={bool(pairs.genuine[row])}, but {identities.name} says "
            "otherwise; the list was made for another set."
        )


def check_unseen(
    identities: Identities, models: Models, pairs: Pairs, what: str, trained_on: Sequence[People] | None
) -> None:
    """Raises ValueError where a model is asked about people that it was trained on."""
    if trained_on is None:
        return
    expected = 1 if callable(models) else len(models)
    if len(trained_on) != expected:
        raise ValueError(f"Expected the people of {expected} models in trained_on, got {len(trained_on)}.")
    for number, fold in enumerate(folds_of(pairs)):
        people = np.asarray(trained_on[0 if expected == 1 else number], np.int64)
        seen = np.intersect1d(people_of(identities, pairs, fold), people)
        if len(seen):
            raise ValueError(
                f"The {what} of fold {fold} are of {len(seen)} people that its model was trained on, "
                f"{identities.names[seen[0]]!r} among them; a verification model is asked about others. Take "
                "the test and validation people of identity_folds."
            )


def people_of(identities: Identities, pairs: Pairs, fold: int) -> np.ndarray:
    """The people in a fold's pairs."""
    own = pairs.fold == fold
    return np.unique(identities.identity[np.concatenate([pairs.first[own], pairs.second[own]])])


def shared_people(identities: Identities, pairs: Pairs, validation: Pairs) -> list[str]:
    """A sentence where thresholds come from people who are tested too; [] where they do not."""
    folds, own = folds_of(pairs), folds_of(validation)
    shared = 0
    for fold in folds:
        others = people_of(identities, validation, fold if own == folds else own[0])
        shared += len(np.intersect1d(people_of(identities, pairs, fold), others))
    if not shared:
        return []
    return [f"{shared} people are in the validation and the test pairs of a fold: its FAR flatters."]


def score(
    models: Models,
    identities: Identities,
    pairs: Pairs,
    validation: Pairs | None,
    batch_size: int,
    identification: bool,
) -> Scored:
    """Embeds every image that is needed, once per model, and compares."""
    lists = [one for one in (pairs, validation) if one is not None]
    similarities = [np.full(len(one.first), np.nan) for one in lists]
    found, num_zero = [], 0
    folds = folds_of(pairs)
    groups = [(models, folds)] if callable(models) else [(m, [f]) for m, f in zip(models, folds, strict=True)]
    for model, own in groups:
        # A single model compares the validation pairs of any fold.
        masks = [np.ones(len(one.fold), bool) if callable(models) else one.fold == own[0] for one in lists]
        needed = [rows[mask] for one, mask in zip(lists, masks, strict=True) for rows in one[:2]]
        galleries = [identities.images_of(people_of(identities, pairs, fold)) for fold in own]
        index = np.unique(np.concatenate([*needed, *(galleries if identification else [])]))
        units = _embed.embed(model, identities, index, batch_size)
        num_zero += int((~units.any(axis=1)).sum())
        for values, one, mask in zip(similarities, lists, masks, strict=True):
            places = (np.searchsorted(index, rows[mask]) for rows in one[:2])
            values[mask] = _embed.cosines(units, *places)
        if identification:
            found += [_rank1(units[np.searchsorted(index, g)], identities.identity[g]) for g in galleries]
    asked = [one for one in found if one is not None]
    total = None
    if asked:
        hits, probes, people = zip(*asked, strict=True)
        total = Rank1(sum(hits), sum(probes), max(people))
    return Scored(similarities[0], similarities[1] if len(lists) == 2 else None, total, num_zero)


def _rank1(units: np.ndarray, identity: np.ndarray) -> Rank1 | None:
    """None where nobody has a second image to ask about."""
    return None if len(np.unique(identity)) == len(identity) else rank1(units, identity)


def thresholds(scored: Scored, pairs: Pairs, validation: Pairs | None, far: float) -> dict[int, Threshold]:
    """For every fold the threshold of the asked FAR on its validation pairs; {} without any."""
    if validation is None or scored.validation is None:
        return {}
    found = {}
    for fold in folds_of(validation):
        own = validation.fold == fold
        scores, genuine = scored.validation[own], validation.genuine[own]
        point = tar_at_far(roc(scores, genuine), far)
        found[fold] = Threshold(fit_platt(scores, genuine, point.threshold), point.far)
    folds = folds_of(pairs)
    return found if set(found) == set(folds) else dict.fromkeys(folds, next(iter(found.values())))


def accept(similarities: np.ndarray, fold: np.ndarray, by_fold: dict[int, Threshold]) -> np.ndarray | None:
    """bool `[m]`, s >= the threshold of its fold; None without thresholds."""
    if not by_fold:
        return None
    tau = np.empty(len(similarities))
    for one, threshold in by_fold.items():
        tau[fold == one] = threshold.platt.tau
    return similarities >= tau
