"""Which pairs are attacked, the models before them, and everything that a user may get wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _validate
from jaxrobust.attacks._callable import merge, split
from jaxrobust.attacks._checks import goals, reads_mask
from jaxrobust.attacks._inputs import check_embeddings
from jaxrobust.data import Identities, Pairs
from jaxrobust.evaluation import _embed, _programs, _verification_scores
from jaxrobust.evaluation._pair_attacks import Case, Side, jitted
from jaxrobust.evaluation._verification_scores import Models
from jaxrobust.types import Attack

ENSEMBLE = "ensemble"


def draw_pairs(
    identities: Identities, pairs: Pairs, *, num_genuine: int | None, num_impostor: int | None, seed: int
) -> np.ndarray:
    """Places in the list, ascending: so many of each kind, evenly over folds and over pairs of people.

    Raises:
        ValueError: where there are not so many.
    """
    kinds = {"genuine": pairs.genuine, "impostor": ~pairs.genuine}
    wanted = {"genuine": num_genuine, "impostor": num_impostor}
    if num_impostor is None:
        most = int((~pairs.genuine).sum())
        wanted["impostor"] = min(most, int(pairs.genuine.sum()) if num_genuine is None else num_genuine)
    people = np.sort(identities.identity[np.stack([pairs.first, pairs.second], axis=1)], axis=1)
    keys = np.concatenate([pairs.fold[:, None], people], axis=1)
    couple = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    found: list[np.ndarray] = []
    for kind, mask in kinds.items():
        rows, num = np.flatnonzero(mask), wanted[kind]
        if num is None:
            num = len(rows)
        _validate.at_least(f"num_{kind}", num, 1)
        if num > len(rows):
            raise ValueError(f"num_{kind}={num}, but the list has {len(rows)} {kind} pairs; ask for fewer.")
        order = np.random.default_rng((seed, len(found))).permutation(rows)
        # Everyone's first pair before anyone's second, then the folds in turn.
        for groups in (couple, pairs.fold):
            order = order[np.argsort(_occurrence(groups[order]), kind="stable")]
        found.append(order[:num])
    return np.sort(np.concatenate(found))


def _occurrence(group: np.ndarray) -> np.ndarray:
    """How often an entry's group has come before.

    >>> _occurrence(np.array([5, 7, 5, 5, 7])).tolist()
    [0, 0, 1, 2, 1]
    """
    order = np.argsort(group, kind="stable")
    _, start, count = np.unique(group[order], return_index=True, return_counts=True)
    out = np.empty(len(group), np.int64)
    out[order] = np.arange(len(group)) - np.repeat(start, count)
    return out


def side_of(
    models: Models, case: Case, pairs: Pairs, validation: Pairs, far: float
) -> tuple[Side, list[dict[str, Any]]]:
    """A model before the pairs of a case, with thresholds of its own; and a line about each fold's.

    Raises:
        ValueError: models that do not fit the folds of the full list, or that JAX cannot trace.
    """
    _verification_scores.check_models(models, pairs, validation)
    identities, chosen = case.identities, case.pairs
    parts = [split(model) for model in ([models] if callable(models) else models)]
    for part in parts:
        _check_traceable(*part, (case.batch_size, *identities.images.shape[1:]))
    compiled: list[Any] = [jitted(*part) for part in parts]
    # The full list, so that every fold has its pairs whatever was drawn.
    whole: Models = compiled[0] if callable(models) else compiled
    scored = _verification_scores.score(whole, identities, pairs, validation, case.batch_size, False)
    by_fold = _verification_scores.thresholds(scored, pairs, validation, far)
    folds = _verification_scores.folds_of(pairs)
    tau = np.asarray([by_fold[int(fold)].platt.tau for fold in chosen.fold])
    of_row = np.zeros(len(tau), int) if callable(models) else np.searchsorted(folds, chosen.fold)
    references = []
    for number, model in enumerate(compiled):
        mine = of_row == number
        needed = np.unique(chosen.second[mine])
        partners = np.zeros((len(tau), 1), np.float32)
        if len(needed):
            units = _embed.embed(model, identities, needed, case.batch_size)
            partners = np.zeros((len(tau), units.shape[1] + 1), np.float32)
            partners[mine, :-1] = units[np.searchsorted(needed, chosen.second[mine])]
        partners[mine, -1] = tau[mine]
        references.append(partners)
    lines = [{"fold": f, "tau": by_fold[f].platt.tau, "validation_far": by_fold[f].far} for f in folds]
    return Side(tuple(parts), of_row, tuple(references), tau, scored.test[case.rows]), lines


def _check_traceable(structure: Any, arrays: Any, shape: tuple[int, ...]) -> None:
    try:
        answer = jax.eval_shape(
            lambda arrays, images: merge(structure, arrays)(images),
            arrays,
            jax.ShapeDtypeStruct(shape, jnp.float32),
        )
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            "JAX cannot trace this embedding function: it converts its images to NumPy, or branches on their "
            "values, so that it has no gradient to attack. Write it with jax.numpy."
        ) from error
    check_embeddings(answer, shape[0], "embed_fn to give embeddings")


def check_lists(identities: Identities, pairs: Pairs, validation: Any) -> None:
    """Raises ValueError unless both lists are of this set, and there are pairs of both kinds."""
    if not isinstance(validation, Pairs):
        raise ValueError(
            f"Expected validation pairs, of people who are not tested, got {validation!r}: an attack needs a "
            "threshold to cross. Make them with fold_pairs(identities, folds, 'validation', seed=...)."
        )
    if identities.images.dtype != np.uint8:
        raise ValueError(
            f"Expected the images of {identities.name} as uint8, 0 .. 255, got {identities.images.dtype}: "
            "radii are of pixels in [0, 1], into which 8-bit pixels are divided here and nowhere else."
        )
    for what, some in {"pairs": pairs, "validation pairs": validation}.items():
        _verification_scores.check_pairs_of(identities, some, what)
        people = np.unique(identities.identity[np.concatenate([some.first, some.second])])
        if len(people) < 2:
            raise ValueError(f"The {what} are of one person; verification needs at least two people.")
    for kind, mask in {"genuine": pairs.genuine, "impostor": ~pairs.genuine}.items():
        if not mask.any():
            raise ValueError(f"The pairs have no {kind} pair; make_pairs and fold_pairs list both kinds.")
    for fold in np.unique(validation.fold):
        of_fold = validation.genuine[validation.fold == fold]
        for kind, there in {"genuine": of_fold.any(), "impostor": not of_fold.all()}.items():
            if not there:
                raise ValueError(
                    f"The validation pairs of fold {fold} have no {kind} pair; a threshold needs both kinds."
                )


def check_attacks(
    attacks: Mapping[str, Attack], minimum_eps: Mapping[str, Attack], mask: np.ndarray | None
) -> None:
    """Raises ValueError for what cannot attack pairs, or not so."""
    if not attacks:
        raise ValueError("Expected at least one attack, got none. verify measures a model without any.")
    both = sorted({*attacks} & {*minimum_eps})
    if both:
        raise ValueError(f"The name {both[0]!r} is among attacks and in minimum_eps. Rename one.")
    for what, some in {"attacks": attacks, "minimum_eps": minimum_eps}.items():
        for name, attack in some.items():
            _check_attack(f"{what}[{name!r}]", name, attack, mask)
    for name, attack in minimum_eps.items():
        if _programs.is_minimum_norm(attack):
            raise ValueError(
                f"minimum_eps[{name!r}] is a minimum-norm attack, whose distances need no bisection: put it "
                "among attacks."
            )
    if mask is not None and not any(map(reads_mask, (*attacks.values(), *minimum_eps.values()))):
        raise ValueError("No attack is in a Masked neighbourhood, so none reads the mask. Leave it out.")


def _check_attack(where: str, name: str, attack: Any, mask: np.ndarray | None) -> None:
    if name == ENSEMBLE:
        raise ValueError(f"The name {ENSEMBLE!r} is taken by all attacks together. Choose another.")
    if isinstance(attack, type) or not isinstance(attack, Attack):
        raise ValueError(f"Expected {where} to be an attack, got {attack!r}.")
    try:
        hash(attack)
    except TypeError:
        raise ValueError(f"Expected {where} to be hashable, got {attack!r}. Give radii as numbers.") from None
    if True in goals(attack):
        raise ValueError(
            f"Expected {where} to be untargeted, got targeted=True. Away from the right decision is towards "
            "the wrong one: dodging for genuine pairs, impersonation for impostor pairs."
        )
    if reads_mask(attack) and mask is None:
        raise ValueError(
            f"{where} attacks in a Masked neighbourhood, and there is no mask. Give mask=, [h, w, 1] for all "
            "images, or [n, h, w, 1] with one per image of the set."
        )


def checked_mask(identities: Identities, mask: Any) -> np.ndarray | None:
    """float32 `[h, w, 1]` or `[n, h, w, 1]` of zeros and ones, or a ValueError."""
    if mask is None:
        return None
    mask = np.asarray(mask)
    n, h, w, _ = identities.images.shape
    mask = mask[..., None] if mask.shape in ((h, w), (n, h, w)) else mask
    if mask.shape not in ((h, w, 1), (n, h, w, 1)):
        raise ValueError(f"Expected mask of shape [{h}, {w}, 1] or [{n}, {h}, {w}, 1], got {mask.shape}.")
    if not np.isin(mask, (0, 1)).all():
        raise ValueError("Expected mask of zeros and ones (or bools): 1 where the image may change.")
    return mask.astype(np.float32)


def named(others: Models | Mapping[str, Models] | None) -> dict[str, Models]:
    """The models that images are made on, by name; one without a name is `other`."""
    if others is None:
        return {}
    if isinstance(others, Mapping):
        return dict(others)
    if callable(others) or isinstance(others, Sequence):
        return {"other": others}
    raise ValueError(f"Expected transfer_from as models or a dict of them by name, got {others!r}.")
