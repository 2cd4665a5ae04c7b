"""Attacks on pairs in one shape: rows of any fold and threshold share a program.

A row's threshold travels with its partner's embedding, and a fold's weights are arguments, so that neither
compiles anything anew. What an attack found is judged by the model, on the image and on its 8-bit rounding.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks._callable import Structure, merge
from jaxrobust.data import Identities, Pairs, to_float
from jaxrobust.evaluation import _engine, _programs, _provenance
from jaxrobust.evaluation._embed import EmbedFn
from jaxrobust.numerics import compile as compiler
from jaxrobust.numerics.similarity import cosine, pair_logits
from jaxrobust.types import RADIUS_TOLERANCE, Array, Attack, Example, PyTree

# Attacks look for a cosine so far beyond tau: nearer, another program of the same model may decide otherwise.
SURE = 1e-5


class Case(NamedTuple):
    """The pairs that are attacked: `first` is changed, `second` stays.

    `rows`: each pair's place in the list it was drawn from, from which its random numbers come. `mask`:
    `[h, w, 1]`, or `[n, h, w, 1]` with one region per image of the set.
    """

    identities: Identities
    pairs: Pairs
    rows: np.ndarray
    mask: np.ndarray | None
    batch_size: int
    seed: int


class Side(NamedTuple):
    """A model, or one per fold, before the pairs of a `Case`.

    `models`: structure and arrays of each; `of_row` int `[m]`: which model a pair is asked of; `references`:
    by model, the partners' embeddings with tau behind them `[m, d + 1]`, zeros where a pair is not its own;
    `tau`, `similarity` float64 `[m]`: the threshold and the clean cosine.
    """

    models: tuple[tuple[Structure, list[PyTree]], ...]
    of_row: np.ndarray
    references: tuple[np.ndarray, ...]
    tau: np.ndarray
    similarity: np.ndarray


class Found(NamedTuple):
    """What an attack did to some pairs, row by row.

    Attributes:
        broken: the decision is wrong now, within the radius and in [0, 1]; also where the model said NaN.
        broken_8bit: the same of the image rounded to 8 bits, its distance measured again.
        length: of the offset, in the units of the attack's one ball, inf where the decision is still right;
            NaN where the attack has no single ball.
        nonfinite: the model said NaN on the way, or of the image.
        outside, outside_8bit: the image lies farther than the radius (of an attack of fixed radius).
        low, high: the least and the greatest pixel.
    """

    broken: np.ndarray
    broken_8bit: np.ndarray
    length: np.ndarray
    nonfinite: np.ndarray
    outside: np.ndarray
    outside_8bit: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _score_fn(structure: Structure, arrays: list[PyTree]) -> Callable[[Array, Example], Array]:
    embed_fn = merge(structure, arrays)

    def score_fn(images: Array, example: Example) -> Array:
        assert example.reference is not None
        partner, tau = example.reference[:, :-1], example.reference[:, -1]
        # Class 0 is led below tau, class 1 above it.
        beyond = tau + SURE * (2.0 * example.target - 1.0)
        return pair_logits(embed_fn(images), partner, beyond, 1.0)

    return score_fn


def _keys(key: Array, index: Array) -> Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, index)


def _attack(
    attack: Attack, structure: Structure, arrays: list[PyTree], key: Array, factor: Array, rows: PyTree
) -> tuple[Array, Array, Array]:
    """All rows at one radius: image, distance in radii, whether NaN was met."""
    index, example = rows
    result = attack.scaled(factor)(_keys(key, index), _score_fn(structure, arrays), example)
    bad = jnp.zeros(len(index), bool) if result.nonfinite is None else result.nonfinite
    return result.image, result.distance, bad


def _attack_each(
    attack: Attack, structure: Structure, arrays: list[PyTree], key: Array, factors: Array, rows: PyTree
) -> tuple[Array, Array, Array]:
    """Every row at its own radius, as a batch of one: a batch of N gives what each row gives alone."""

    def one(factor: Array, row: PyTree) -> tuple[Array, Array, Array]:
        alone = jax.tree.map(lambda leaf: leaf[None], row)
        return jax.tree.map(lambda leaf: leaf[0], _attack(attack, structure, arrays, key, factor, alone))

    return jax.vmap(one)(factors, rows)


def _judge(
    structure: Structure, arrays: list[PyTree], images: Array, references: Array
) -> tuple[Array, Array]:
    """The cosine with the partner, and whether the embedding is finite."""
    embeddings = merge(structure, arrays)(images)
    return cosine(embeddings, references[:, :-1]), jnp.isfinite(embeddings).all(axis=-1)


def _embeddings(structure: Structure, arrays: list[PyTree], images: Array) -> Array:
    return merge(structure, arrays)(images)


def jitted(structure: Structure, arrays: list[PyTree]) -> EmbedFn:
    """The embedding function as a compiled one, which models of one structure share."""
    return functools.partial(programs().embed, structure, arrays)


def _lengths(ball: Any, delta: Array) -> Array:
    return jax.vmap(ball.length)(delta)


class Programs(NamedTuple):
    """What is compiled: attacks at one radius or at one per row, the judge, embeddings, and lengths."""

    every: Any
    each: Any
    judge: Any
    embed: Any
    lengths: Any


@functools.cache
def programs() -> Programs:
    """Made at first use, as that starts the backend."""
    return Programs(
        every=compiler.jit(_attack, static_argnums=(0, 1)),
        each=compiler.jit(_attack_each, static_argnums=(0, 1)),
        judge=compiler.jit(_judge, static_argnums=0),
        embed=compiler.jit(_embeddings, static_argnums=0),
        lengths=compiler.jit(_lengths, static_argnums=0),
    )


def num_compiled() -> int:
    """How many programs have attacked or judged pairs in this process; for tests."""
    run = programs()
    return sum(program._cache_size() for program in (run.every, run.each, run.judge))


def run(
    case: Case,
    name: str,
    attack: Attack,
    index: np.ndarray,
    *,
    judged: Side,
    maker: Side | None = None,
    factor: float | np.ndarray = 1.0,
    progress_fn: Callable[[str, int, int], None] | None = None,
) -> Found:
    """Attacks the pairs at these places of the case on `maker` (None: on `judged`), and asks `judged`.

    Args:
        factor: of the radius: one for all, or one per pair.
        name: seeds the draws, together with a pair's place in its list.
    """
    found, done = _nothing(len(index)), 0
    for places, count in _batches(case, judged, maker or judged, index):
        some = factor if np.ndim(factor) == 0 else np.asarray(factor)[places]
        batch = _one_batch(case, name, attack, index[places], judged, maker or judged, some)
        for values, new in zip(found, batch):
            values[places[:count]] = new[:count]
        done += count
        if progress_fn is not None:
            progress_fn(name, done, len(index))
    return found


def _nothing(num: int) -> Found:
    flags = [np.zeros(num, bool) for _ in range(5)]
    numbers = [np.full(num, np.nan) for _ in range(3)]
    return Found(flags[0], flags[1], numbers[0], flags[2], flags[3], flags[4], numbers[1], numbers[2])


def _batches(case: Case, judged: Side, maker: Side, index: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Places in `index`, rows of the same models together, the last piece filled up; and how many count."""
    both = np.stack([maker.of_row[index], judged.of_row[index]], axis=1)
    for models in np.unique(both, axis=0):
        own = np.flatnonzero((both == models).all(axis=1))
        for start in range(0, len(own), case.batch_size):
            part = own[start : start + case.batch_size]
            yield np.concatenate([part, np.repeat(part[-1:], case.batch_size - len(part))]), len(part)


def _one_batch(
    case: Case, name: str, attack: Attack, at: np.ndarray, judged: Side, maker: Side, factor: Any
) -> Found:
    """The rows at these places, all of one pair of models."""
    compiled = programs()
    clean = to_float(np.asarray(case.identities.images[case.pairs.first[at]]))
    genuine = case.pairs.genuine[at]
    structure, arrays, references = _of(maker, at)
    target = np.where(genuine, 0, 1).astype(np.int32)
    leaves: list[Any] = [clean, target, references, _masks(case, at)]
    rows = (case.rows[at].astype(np.int32), Example(*leaves))
    key = _engine.attack_key(case.seed, name)
    program = compiled.every if np.ndim(factor) == 0 else compiled.each
    image, distance, bad = program(attack, structure, arrays, key, np.asarray(factor, np.float32), rows)
    image, distance, bad = (np.asarray(value) for value in (image, distance, bad))
    pictures = (image, _programs.to_8bit(image))

    ball, fixed = _provenance.single_ball(attack), not _programs.is_minimum_norm(attack)
    structure, arrays, references = _of(judged, at)
    low, high = image.min(axis=(1, 2, 3)), image.max(axis=(1, 2, 3))
    in_box = (low >= -_engine.PIXEL_TOLERANCE) & (high <= 1 + _engine.PIXEL_TOLERANCE)
    wrong, length, outside = [], [], []
    for picture in pictures:
        cos, finite = (np.asarray(value) for value in compiled.judge(structure, arrays, picture, references))
        accepted = cos.astype(np.float64) >= judged.tau[at]
        bad = bad | ~finite
        wrong.append((accepted != genuine) | bad)
        own = (
            np.full(len(at), np.nan) if ball is None else np.asarray(compiled.lengths(ball, picture - clean))
        )
        length.append(own.astype(np.float64))
        beyond = np.zeros(len(at), bool)
        if ball is not None:
            # A minimum-norm attack is not scaled: the radius of its ball is its budget.
            beyond = length[-1] > float(ball.eps) * (factor if fixed else 1.0) * (1 + RADIUS_TOLERANCE)
        outside.append(beyond | (distance > 1 + RADIUS_TOLERANCE) if fixed else beyond)
    return Found(
        broken=wrong[0] & ~outside[0] & in_box,
        broken_8bit=wrong[1] & ~outside[1] & in_box,
        length=np.where(wrong[0], length[0], np.inf) if ball is not None else length[0],
        nonfinite=bad,
        outside=outside[0] & fixed,
        outside_8bit=outside[1] & fixed,
        low=low,
        high=high,
    )


def _of(side: Side, at: np.ndarray) -> tuple[Structure, list[PyTree], np.ndarray]:
    """The one model of these rows, and their partners."""
    model = int(side.of_row[at[0]])
    return *side.models[model], side.references[model][at]


def _masks(case: Case, at: np.ndarray) -> np.ndarray | None:
    """`[b, h, w, 1]`, the regions of the images that are changed."""
    if case.mask is None:
        return None
    if case.mask.ndim == 4:
        return case.mask[case.pairs.first[at]]
    return np.repeat(case.mask[None], len(at), axis=0)
