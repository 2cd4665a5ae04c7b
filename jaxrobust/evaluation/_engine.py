"""Attacks in fixed shapes: rows are gathered on the host, padded to one batch size, and judged by the model.

Two compiled programs serve everything: `_attack`, one per attack and model shape, and `_predict`, one per
model shape. Parameters and the radius are arguments: other weights, radii and subsets never compile again.
"""

import functools
import math
import time
import zlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _validate
from jaxrobust.attacks._rows import fold_rows
from jaxrobust.data import to_float
from jaxrobust.evaluation import _draws
from jaxrobust.numerics import losses
from jaxrobust.numerics.compile import jit
from jaxrobust.types import RADIUS_TOLERANCE, Attack, Example, Model, PyTree

PIXEL_TOLERANCE = 1e-6
# Of a random model, in each answer; an attack costs so many times more.
DRAWS = 20


def _attack(apply_fn, attack, params, stats, factor, key, folds, index, images, targets):
    def score_fn(x, example):
        return apply_fn(params, stats, x, train=False)[0].logits

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    for at in range(folds.shape[0]):
        keys = fold_rows(keys, folds[at])
    result = attack.scaled(factor)(keys, score_fn, Example(images, targets))
    nonfinite = jnp.zeros(len(index), bool) if result.nonfinite is None else result.nonfinite
    length = jnp.full(len(index), jnp.nan)
    if is_minimum_norm(attack):
        length = jax.vmap(attack.neighbourhood.length)(result.image - images)
    return result.image, result.distance, nonfinite, length


def _predict(apply_fn, params, stats, images):
    logits = apply_fn(params, stats, images, train=False)[0].logits.astype(jnp.float32)
    confidence = jnp.max(jax.nn.softmax(logits), axis=-1)
    return logits, jnp.argmax(logits, axis=-1).astype(jnp.int32), confidence


# Made at first use: reading the backend at import would come before jax.distributed.initialize.
@functools.cache
def _programs() -> tuple[Any, Any]:
    return jit(_attack, static_argnums=(0, 1)), jit(_predict, static_argnums=0)


def is_minimum_norm(attack: Any) -> bool:
    """Whether the attack looks for the nearest adversarial image, at any distance."""
    return bool(getattr(attack, "minimum_norm", False))


def num_compiled() -> int:
    """How many programs the evaluation of this process has compiled; for tests and timing."""
    return sum(program._cache_size() for program in _programs())


class Subject(NamedTuple):
    """A model with its weights, and a labelled set of images to try it on.

    `batch_size` is the one shape that is compiled, at most the number of images. `judging`: the stats with
    which the model judges what attacks found, where they are not those it is attacked with (see `_draws`).
    """

    model: Model
    params: PyTree
    stats: PyTree
    images: Any
    labels: np.ndarray
    batch_size: int
    seed: int
    judging: PyTree = None

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.labels)


class Predictions(NamedTuple):
    """The model's answers by row: logits `[m, k]`, class, its probability, whether all logits are finite.

    `finite` of an attacked row also says that the attack met no NaN on its way.
    """

    logits: np.ndarray
    prediction: np.ndarray
    confidence: np.ndarray
    finite: np.ndarray

    def correct(self, labels: np.ndarray) -> np.ndarray:
        """Right and finite: a model that answers NaN has failed on that image."""
        return (self.prediction == labels) & self.finite

    def at(self, rows: np.ndarray) -> "Predictions":
        """The answers of these rows."""
        return Predictions(*(part[rows] for part in self))


class Attacked(NamedTuple):
    """One attack on some rows: the model's answers to its images and to their 8-bit roundings.

    `images` holds only the rows asked for, by their index in the set; `low` and `high` bound the pixels of
    all, NaN where there are none. `distance` is in radii, `length` of a minimum-norm attack in the norm's own
    units, NaN of any other.
    """

    images: dict[int, np.ndarray]
    low: float
    high: float
    distance: np.ndarray
    length: np.ndarray
    seen: Predictions
    seen_8bit: Predictions
    seconds: float
    images_per_second: float
    compiled: bool

    def inside(self) -> np.ndarray:
        """Whether the image lies in the neighbourhood; a minimum-norm attack may return one farther away."""
        return ~(self.distance > 1 + RADIUS_TOLERANCE)


def subject(
    model: Model, params, stats, images, labels, *, batch_size: int, seed: int, draws: int = DRAWS
) -> Subject:
    """Checks everything that a user may get wrong, and moves the weights to the device once.

    A random model becomes the mean over `draws` of its draws.
    """
    _validate.at_least("batch_size", batch_size, 1)
    _validate.at_least("seed", seed, 0)
    labels = np.asarray(labels)
    if len(images) == 0:
        raise ValueError("Expected at least one image, got an empty set. Choose another split.")
    if labels.ndim != 1 or len(labels) != len(images):
        raise ValueError(f"Expected one label per image, got {len(images)} images and labels {labels.shape}.")
    losses.check_labels(labels, model.num_classes)
    check_images(images, model.image_shape)
    _validate.at_least("draws", draws, 1)
    judging = None
    if model.random:
        stats, judging = _draws.with_draws(stats, seed)
        model = model._replace(apply=_draws.averaged(model.apply, draws), random=False)
    params, stats, judging = jax.device_put((params, stats, judging))
    batch_size = min(batch_size, len(labels))
    return Subject(model, params, stats, images, labels.astype(np.int32), batch_size, seed, judging)


def check_images(images, image_shape: tuple[int, ...]) -> None:
    """Raises ValueError unless images fit the model and float pixels are numbers in [0, 1]."""
    shape, dtype = np.shape(images[0]), np.asarray(images[0]).dtype
    if shape != tuple(image_shape):
        raise ValueError(f"Expected images {tuple(image_shape)} as the model takes them, got {shape}.")
    if dtype == np.uint8:
        return
    if not np.issubdtype(dtype, np.floating):
        raise ValueError(f"Expected uint8 or float images, got {dtype}. Convert to float in [0, 1].")
    low, high = float(np.min(images)), float(np.max(images))
    if not (low >= -PIXEL_TOLERANCE and high <= 1 + PIXEL_TOLERANCE):
        raise ValueError(
            f"Expected pixels in [0, 1], got [{low:g}, {high:g}]. Pass raw pixels (uint8, or over 255): "
            "normalisation belongs inside the model, or eps means something else."
        )


def gather(images, index: np.ndarray) -> np.ndarray:
    """Rows as float32 in [0, 1]; `images` is an array or a lazy source with integer indexing."""
    rows = images[index] if isinstance(images, np.ndarray) else np.stack([images[int(i)] for i in index])
    rows = np.asarray(rows)
    if rows.dtype == np.uint8:
        return to_float(rows)
    return np.clip(rows.astype(np.float32), 0, 1)


def to_8bit(images: np.ndarray) -> np.ndarray:
    """What an image file would keep: pixels of 256 levels, the same floats that the file is read as."""
    return to_float(np.clip(np.round(images * np.float32(255)), 0, 255))


def _batches(m: int, batch_size: int):
    """Positions `[batch_size]` and the number that count; the last batch repeats its last row."""
    for start in range(0, m, batch_size):
        positions = np.arange(start, start + batch_size)
        yield np.minimum(positions, m - 1), min(batch_size, m - start)


def predict(s: Subject, images: np.ndarray) -> Predictions:
    """The model's answers to float images `[m, h, w, c]`, in batches of one shape."""
    _, program = _programs()
    stats = s.stats if s.judging is None else s.judging
    parts = []
    for positions, count in _batches(len(images), s.batch_size):
        out = program(s.model.apply, s.params, stats, images[positions])
        parts.append([np.asarray(value)[:count] for value in out])
    if not parts:
        k = s.model.num_classes
        return Predictions(
            np.zeros((0, k), np.float32), np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, bool)
        )
    logits, prediction, confidence = (np.concatenate(part) for part in zip(*parts))
    return Predictions(logits, prediction, confidence, np.isfinite(logits).all(axis=-1))


def predict_set(s: Subject) -> Predictions:
    """The model's answers to the clean images, gathered batch by batch."""
    return predict_rows(s, np.arange(s.n))


def predict_rows(s: Subject, index: np.ndarray, *, rounded: bool = False) -> Predictions:
    """The model's answers to clean images, or to their 8-bit roundings, gathered batch by batch."""
    starts = range(0, len(index), s.batch_size)
    parts = [gather(s.images, index[at : at + s.batch_size]) for at in starts]
    return _joined([predict(s, to_8bit(part) if rounded else part) for part in parts])


def _joined(parts: Sequence[Predictions]) -> Predictions:
    return Predictions(*(np.concatenate(part) for part in zip(*parts)))


def attack_key(seed: int, name: str) -> jax.Array:
    """The key of an attack: other attacks added to the list, or their order, do not change its draws."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def run_attack(
    s: Subject,
    name: str,
    attack: Attack,
    index: np.ndarray,
    targets: np.ndarray,
    *,
    factor: float = 1.0,
    folds: Sequence[int] = (),
    keep: Collection[int] = (),
    progress_fn: Callable[[str, int, int], None] | None = None,
) -> Attacked:
    """Attacks the rows `index` of the set, away from `targets` (a targeted attack: towards them).

    Row i draws from fold_in(key, i) only, folded further with each of `folds`, which is how a member of an
    ensemble is told apart. Each batch is judged at once and dropped but for the rows in `keep`: a large set
    need not fit in memory as floats.
    """
    program, _ = _programs()
    key, compiled_before = attack_key(s.seed, name), program._cache_size()
    kept: dict[int, np.ndarray] = {}
    low, high, times = math.inf, -math.inf, []
    nothing = predict(s, np.zeros((0, *s.model.image_shape), np.float32))
    distances, lengths = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    seen, seen_8bit = [nothing], [nothing]
    folded = np.asarray(folds, np.int32)
    wanted = set(map(int, keep))
    for positions, count in _batches(len(index), s.batch_size):
        rows = index[positions]
        start = time.perf_counter()
        out = program(
            s.model.apply, attack, s.params, s.stats, np.float32(factor), key, folded,
            rows.astype(np.int32), gather(s.images, rows), targets[positions].astype(np.int32),
        )  # fmt: skip
        image, distance, nonfinite, length = (part[:count] for part in jax.device_get(out))
        times.append((time.perf_counter() - start, count))
        distances.append(distance)
        lengths.append(length)
        low, high = float(np.minimum(low, image.min())), float(np.maximum(high, image.max()))
        # An attack never returns a point where the model answers NaN, yet a model that does so is not robust.
        for answers, pixels in ((seen, image), (seen_8bit, to_8bit(image))):
            answer = predict(s, pixels)
            answers.append(answer._replace(finite=answer.finite & ~nonfinite))
        # Copies, or one row would keep its whole batch alive.
        kept |= {int(row): image[at].copy() for at, row in enumerate(rows[:count]) if int(row) in wanted}
        if progress_fn is not None:
            progress_fn(name, sum(done for _, done in times), len(index))
    compiled = program._cache_size() > compiled_before
    seconds = sum(t for t, _ in times)
    # The first batch also waited for the compiler; the others tell the speed where there are any.
    timed = times[1:] if compiled and len(times) > 1 else times
    rate = sum(c for _, c in timed) / max(sum(t for t, _ in timed), 1e-9)
    return Attacked(
        images=kept,
        low=low if times else math.nan,
        high=high if times else math.nan,
        distance=np.concatenate(distances),
        length=np.concatenate(lengths),
        seen=_joined(seen),
        seen_8bit=_joined(seen_8bit),
        seconds=seconds,
        images_per_second=rate if times else 0.0,
        compiled=compiled,
    )
