"""What a saliency audit asks: images with what the model says of them, one model at a time.

A subject is a model before its rows. It explains a row, perturbs it by an attack, and judges what became of
it; pairs and classes differ in this file alone.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import saliency
from jaxrobust.attacks import frontend
from jaxrobust.attacks._callable import Structure, merge, split
from jaxrobust.evaluation.platt import Platt
from jaxrobust.numerics import compile as compiler
from jaxrobust.numerics.similarity import cosine
from jaxrobust.saliency import Stages, TargetFn
from jaxrobust.types import RADIUS_TOLERANCE, Array, Attack, AttackResult, PyTree

# Attacks look for a cosine so far beyond tau: nearer, another program of the same model may decide otherwise.
SURE = 1e-5


class Judged(NamedTuple):
    """What a model says of some rows.

    Attributes:
        evidence: float64 `[m]`, larger speaks for the truth: of a genuine pair its cosine, of an impostor
            pair the negative; of a class its logit over the largest other.
        support: float64 `[m]`, the probability of the truth.
        right: bool `[m]`; where the model says NaN it is wrong.
        finite: bool `[m]`.
    """

    evidence: np.ndarray
    support: np.ndarray
    right: np.ndarray
    finite: np.ndarray

    def at(self, rows: np.ndarray) -> "Judged":
        """These rows."""
        return Judged(*(values[rows] for values in self))


class Explained(NamedTuple):
    """What maps explain: a target, for some maps (by name) one that is cut at a layer, and the partners."""

    name: str
    whole: TargetFn
    cut: Mapping[str, TargetFn]
    reference: np.ndarray | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A model and its rows.

    Attributes:
        images: float32 `[m, h, w, c]` in [0, 1].
        target: int32 `[m]`; of a pair 0 for genuine and 1 for impostor, else the class.
        reference: float32 `[m, d]`, the partners' embeddings; None for a classifier.
        explained: what maps explain, mostly this model.
        judge: `(images [k, h, w, c], rows [k]) -> Judged`.
        attack: `(attack, images, rows, masks [k, h, w, 1], seed) -> images`.
        probability: the target whose insertion and deletion curves are drawn.
        randomised: the model with more and more of its layers drawn anew.
        partner: uint8 or float `[m, h, w, c]`, the other image of a pair, for pictures; None for classes.
        fill: float32 `[h, w, c]`, what takes the place of what is removed.
        people: int `[m, 2]`, whom a row is about; `fold` int `[m]`; `group` int `[m]`, whose the image is.
        number: int `[m]`, each row's number in its list, from which its random numbers come.
        name: of each row, for pictures.
    """

    images: np.ndarray
    target: np.ndarray
    reference: np.ndarray | None
    explained: Explained
    judge: Callable[[np.ndarray, np.ndarray], Judged]
    attack: Callable[..., np.ndarray]
    probability: TargetFn
    randomised: tuple[Explained, ...]
    partner: np.ndarray | None
    fill: np.ndarray
    people: np.ndarray
    fold: np.ndarray
    group: np.ndarray
    number: np.ndarray
    name: tuple[str, ...]


def pair_judge(
    embed_fn: Any, target: np.ndarray, reference: np.ndarray, platt: Platt, batch_size: int
) -> Callable[[np.ndarray, np.ndarray], Judged]:
    """Accepted where the cosine reaches tau; the probability is sigmoid(a (cos - tau))."""
    structure, arrays = split(embed_fn)

    def judge(images: np.ndarray, rows: np.ndarray) -> Judged:
        pieces = _by_batches(
            lambda part, at: _programs().cosines(structure, arrays, part, reference[at]),
            images,
            rows,
            batch_size,
        )
        cos, finite = pieces[0].astype(np.float64), pieces[1].astype(bool)
        sign = np.where(target[rows] == 0, 1.0, -1.0)
        right: np.ndarray = ((cos >= platt.tau) == (target[rows] == 0)) & finite
        margin = platt.a * (cos - platt.tau)
        return Judged(sign * cos, _sigmoid(sign * margin), right, finite)

    return judge


def class_judge(
    logits_fn: Any, target: np.ndarray, batch_size: int
) -> Callable[[np.ndarray, np.ndarray], Judged]:
    """Right where the class is the first of those with the largest logit."""
    structure, arrays = split(logits_fn)

    def judge(images: np.ndarray, rows: np.ndarray) -> Judged:
        logits = _by_batches(
            lambda part, at: (_programs().outputs(structure, arrays, part),), images, rows, batch_size
        )[0].astype(np.float64)
        own = np.take_along_axis(logits, target[rows][:, None].astype(int), axis=1)[:, 0]
        others = logits.copy()
        np.put_along_axis(others, target[rows][:, None].astype(int), -np.inf, axis=1)
        finite = np.asarray(np.isfinite(logits).all(axis=1))
        largest = logits.max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            support = np.exp(own - largest[:, 0]) / np.exp(logits - largest).sum(axis=1)
            evidence = own - others.max(axis=1)
            right = (logits.argmax(axis=1) == target[rows]) & finite
        return Judged(evidence, support, right, finite)

    return judge


def pair_attack(
    embed_fn: Any, target: np.ndarray, reference: np.ndarray, tau: float, batch_size: int
) -> Callable[..., np.ndarray]:
    """Dodging of genuine pairs, impersonation of impostors, beyond tau by more than rounding."""

    def attack(
        method: Attack, images: np.ndarray, rows: np.ndarray, masks: np.ndarray, seed: int
    ) -> np.ndarray:
        found = np.array(images)
        key = jax.random.key(seed)
        for same in (True, False):
            own = np.flatnonzero((target[rows] == 0) == same)
            if not len(own):
                continue
            beyond = tau - SURE if same else tau + SURE
            result = frontend.attack_pairs(
                method,
                embed_fn,
                images[own],
                reference[rows[own]],
                np.full(len(own), same),
                threshold=float(np.clip(beyond, -1, 1)),
                key=jax.random.fold_in(key, int(same)),
                mask=masks[own],
                chunk=batch_size,
            )
            found[own] = _within_radius(result, images[own])
        return found

    return attack


def class_attack(logits_fn: Any, target: np.ndarray, batch_size: int) -> Callable[..., np.ndarray]:
    """Away from the class that is audited."""

    def attack(
        method: Attack, images: np.ndarray, rows: np.ndarray, masks: np.ndarray, seed: int
    ) -> np.ndarray:
        found = frontend.attack(
            method,
            logits_fn,
            images,
            target[rows].astype(np.int32),
            key=jax.random.key(seed),
            mask=masks,
            chunk=batch_size,
        )
        return _within_radius(found, images)

    return attack


def _within_radius(result: AttackResult, images: np.ndarray) -> np.ndarray:
    """What was found, and the clean image where it lies farther than the radius, as minimum norms may."""
    inside = np.asarray(result.distance) <= 1 + RADIUS_TOLERANCE
    return np.where(inside[:, None, None, None], np.asarray(result.image), images)


def score_fn(fn: Any) -> Any:
    """A function of images as a score function; one that is cut at a layer is one already."""
    return fn if isinstance(fn, Stages) else saliency.of_images(fn)


def outputs(fn: Any, images: np.ndarray, batch_size: int) -> np.ndarray:
    """`fn(images)` in batches of one shape, float32 `[m, k]`."""
    structure, arrays = split(fn)
    rows = np.arange(len(images))
    return _by_batches(
        lambda part, at: (_programs().outputs(structure, arrays, part),), images, rows, batch_size
    )[0]


def check_finite_outputs(values: np.ndarray, what: str) -> None:
    """Raises ValueError where a model gives NaN for clean images: there is nothing to audit."""
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(
            f"Expected finite {what}, got NaN or infinity for {len(bad)} of {len(values)} clean images, the "
            f"first number {bad[0]}. Repair the model, or leave these images out."
        )


def _by_batches(
    fn: Callable[..., tuple[Array, ...]], images: np.ndarray, rows: np.ndarray, batch_size: int
) -> list[np.ndarray]:
    """All rows, piece by piece, the last one filled up by its last row."""
    pieces = []
    for start in range(0, len(images), batch_size):
        part, at = images[start : start + batch_size], rows[start : start + batch_size]
        room = batch_size - len(part)
        full = np.concatenate([part, np.repeat(part[-1:], room, axis=0)])
        found = fn(full.astype(np.float32), np.concatenate([at, np.repeat(at[-1:], room)]))
        pieces.append([np.asarray(one)[: len(part)] for one in found])
    return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]


class _Programs(NamedTuple):
    outputs: Callable[..., Array]
    cosines: Callable[..., tuple[Array, Array]]


@functools.cache
def _programs() -> _Programs:
    """Made at first use, as that starts the backend."""
    return _Programs(
        outputs=compiler.jit(_outputs, static_argnums=0), cosines=compiler.jit(_cosines, static_argnums=0)
    )


def _outputs(structure: Structure, arrays: list[PyTree], images: Array) -> Array:
    return merge(structure, arrays)(images)


def _cosines(
    structure: Structure, arrays: list[PyTree], images: Array, reference: Array
) -> tuple[Array, Array]:
    embeddings = merge(structure, arrays)(images)
    return cosine(embeddings, reference), jnp.isfinite(embeddings).all(axis=-1)


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -z))
