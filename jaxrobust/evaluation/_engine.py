"""Attacks in fixed shapes: rows are gathered on the host, padded to one batch size, and judged by the model.

The compiled programs are those of `_programs`. What an attack found is judged where it lies: it comes to the
host only to be kept.
Rows are divided over devices and hosts as `_sharding` says: whatever is called here with rows is called by
every process with all of them, and gives all of them back.
"""

import math
import time
import zlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxrobust import _validate
from jaxrobust.data import to_float
from jaxrobust.evaluation import _draws, _programs, _sharding
from jaxrobust.numerics import losses
from jaxrobust.types import RADIUS_TOLERANCE, Attack, Model, PyTree

PIXEL_TOLERANCE = 1e-6
# Of a random model, in each answer; an attack costs so many times more.
DRAWS = 20


class Subject(NamedTuple):
    """A model with its weights on the devices of a mesh, and a labelled set of images to try it on.

    `batch_size` is the one shape that is compiled: rows of this process over all devices of `mesh`, a
    multiple of their number. `judging`: the stats with which the model judges what attacks found, where they
    are not those it is attacked with (see `_draws`). `asked`: the batch size that was asked for, which no
    number of devices or hosts changes; None for `batch_size`.
    """

    model: Model
    params: PyTree
    stats: PyTree
    images: Any
    labels: np.ndarray
    batch_size: int
    seed: int
    mesh: Mesh
    judging: PyTree = None
    asked: int | None = None

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.labels)

    @property
    def judge(self) -> PyTree:
        """The parameters and stats that judge."""
        return self.params, self.stats if self.judging is None else self.judging

    def batched(self, batch_size: int) -> "Subject":
        """This subject in batches of so many rows, rounded up to what the devices divide."""
        return self._replace(batch_size=_sharding.rounded_up(batch_size, self.mesh))

    def with_weights(self, model: Model, params: PyTree, stats: PyTree) -> "Subject":
        """The same images before another model."""
        params, stats = _sharding.everywhere(self.mesh, (params, stats))
        return self._replace(model=model, params=params, stats=stats, judging=None)


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
    model: Model,
    params,
    stats,
    images,
    labels,
    *,
    batch_size: int,
    seed: int,
    draws: int = DRAWS,
    num_devices: int | None = None,
) -> Subject:
    """Checks everything that a user may get wrong, and moves the weights to the devices once.

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
    mesh = _sharding.mesh_of(num_devices)
    params, stats, judging = _sharding.everywhere(mesh, (params, stats, judging))
    rows = _sharding.rounded_up(min(batch_size, _sharding.largest_share(len(labels))), mesh)
    labels = labels.astype(np.int32)
    return Subject(model, params, stats, images, labels, rows, seed, mesh, judging, batch_size)


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


def by_rows(
    s: Subject, program: Any, *static: Any, shared: PyTree, rows: PyTree, nothing: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, ...]:
    """What a program of `_sharding.compiled` gives for rows `[m, ...]`; `nothing`: its answer to no rows."""
    m = len(jax.tree.leaves(rows)[0])
    own = _sharding.at(rows, _sharding.share(m))
    found = _by_own_rows(s, program, *static, shared=shared, rows=own, nothing=nothing)
    return _sharding.gathered(found, _sharding.shares(m))


def _by_own_rows(
    s: Subject, program: Any, *static: Any, shared: PyTree, rows: PyTree, nothing: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, ...]:
    """`by_rows` for rows of this process alone, in batches of one shape."""
    parts = [nothing]
    for positions, count in _sharding.batches(len(jax.tree.leaves(rows)[0]), s.batch_size):
        batch = _sharding.at(rows, positions)
        out = _sharding.call(program, s.mesh, *static, shared=shared, rows=batch)
        parts.append(tuple(value[:count] for value in out))
    return tuple(np.concatenate(part) for part in zip(*parts))


def _predict_own(s: Subject, images: np.ndarray) -> Predictions:
    """The model's answers to images of this process alone."""
    logits, prediction, confidence = _by_own_rows(
        s,
        _programs.programs()[1],
        s.model.apply,
        shared=s.judge,
        rows=images,
        nothing=(
            np.zeros((0, s.model.num_classes), np.float32),
            np.zeros(0, np.int32),
            np.zeros(0, np.float32),
        ),
    )
    return _answers(logits, prediction, confidence)


def _answers(logits: np.ndarray, prediction: np.ndarray, confidence: np.ndarray) -> Predictions:
    return Predictions(logits, prediction, confidence, np.isfinite(logits).all(axis=-1))


def predict(s: Subject, images: np.ndarray) -> Predictions:
    """The model's answers to float images `[m, h, w, c]`, in batches of one shape."""
    own = _predict_own(s, images[_sharding.share(len(images))])
    return _sharding.gathered(own, _sharding.shares(len(images)))


def predict_set(s: Subject) -> Predictions:
    """The model's answers to the clean images, gathered batch by batch."""
    return predict_rows(s, np.arange(s.n))


def predict_rows(s: Subject, index: np.ndarray, *, rounded: bool = False) -> Predictions:
    """The model's answers to clean images, or to their 8-bit roundings, gathered batch by batch."""
    own = index[_sharding.share(len(index))]
    starts = range(0, len(own), s.batch_size)
    parts = [gather(s.images, own[at : at + s.batch_size]) for at in starts]
    found = [_predict_own(s, np.zeros((0, *s.model.image_shape), np.float32))]
    found += [_predict_own(s, _programs.to_8bit(part) if rounded else part) for part in parts]
    return _sharding.gathered(_joined(found), _sharding.shares(len(index)))


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
    need not fit in memory as floats. `progress_fn` hears of this process's rows.
    """
    wanted = set(map(int, keep))
    own = _sharding.share(len(index))
    found = _attack_own(
        s, name, attack, index[own], targets[own],
        factor=factor, folds=folds, wanted=wanted, progress_fn=progress_fn,
    )  # fmt: skip
    return _of_all(s, found, index, wanted)


def _attack_own(
    s: Subject,
    name: str,
    attack: Attack,
    index: np.ndarray,
    targets: np.ndarray,
    *,
    factor: float,
    folds: Sequence[int],
    wanted: Collection[int],
    progress_fn: Callable[[str, int, int], None] | None,
) -> Attacked:
    """Attacks the rows of this process alone."""
    program, judge = _programs.programs()
    compiled_before = program._cache_size()
    kept: dict[int, np.ndarray] = {}
    low, high, times = math.inf, -math.inf, []
    nothing = _predict_own(s, np.zeros((0, *s.model.image_shape), np.float32))
    distances, lengths = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    seen, seen_8bit = [nothing], [nothing]
    numbers = (np.float32(factor), attack_key(s.seed, name), np.asarray(folds, np.int32))
    shared = (s.params, s.stats, *_sharding.everywhere(s.mesh, numbers))
    for positions, count in _sharding.batches(len(index), s.batch_size):
        rows = index[positions]
        start = time.perf_counter()
        batch = (rows.astype(np.int32), gather(s.images, rows), targets[positions].astype(np.int32))
        attacked = _sharding.started(program, s.mesh, s.model.apply, attack, shared=shared, rows=batch)
        image, distance, nonfinite, length = jax.block_until_ready(attacked)
        times.append((time.perf_counter() - start, count))
        image_8bit, *ends = _sharding.started(_programs.rounding(), s.mesh, shared=(), rows=image)
        judged = [
            _sharding.started(judge, s.mesh, s.model.apply, shared=s.judge, rows=pixels)
            for pixels in (image, image_8bit)
        ]
        by_row = jax.device_get((distance, nonfinite, length, ends, judged))
        distance, nonfinite, length, ends, judged = _sharding.at(by_row, slice(count))
        distances.append(distance)
        lengths.append(length)
        low, high = float(np.minimum(low, ends[0].min())), float(np.maximum(high, ends[1].max()))
        # An attack never returns a point where the model answers NaN, yet a model that does so is not robust.
        for answers, found in zip((seen, seen_8bit), judged):
            answer = _answers(*found)
            answers.append(answer._replace(finite=answer.finite & ~nonfinite))
        places = [at for at, row in enumerate(rows[:count]) if int(row) in wanted]
        if places:
            # Copies, or one row would keep its whole batch alive.
            pixels = jax.device_get(image)
            kept |= {int(rows[at]): pixels[at].copy() for at in places}
        if progress_fn is not None:
            progress_fn(name, sum(done for _, done in times), len(index))
    compiled = program._cache_size() > compiled_before
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
        seconds=sum(t for t, _ in times),
        images_per_second=rate if times else 0.0,
        compiled=compiled,
    )


def _of_all(s: Subject, own: Attacked, index: np.ndarray, wanted: Collection[int]) -> Attacked:
    """What all processes found on the rows `index`, from what each found on its share."""
    counts = _sharding.shares(len(index))
    if len(counts) == 1:
        return own
    by_row = (own.distance, own.length, own.seen, own.seen_8bit)
    distance, length, seen, seen_8bit = _sharding.gathered(by_row, counts)
    ends = np.cumsum(counts)
    kept = [
        [int(row) for row in index[end - count : end] if int(row) in wanted]
        for end, count in zip(ends, counts)
    ]
    mine = [own.images[row] for row in kept[jax.process_index()]]
    pixels = np.stack(mine) if mine else np.zeros((0, *s.model.image_shape), np.float32)
    pixels = _sharding.gathered(pixels, [len(rows) for rows in kept])
    about = np.array([[own.low, own.high, own.seconds, own.images_per_second, own.compiled]])
    about = _sharding.gathered(about, [1] * len(counts))
    # A process without rows has no bounds; of NaN among the pixels of another, minimum and maximum tell.
    low, high, seconds, rate, compiled = about[np.array(counts) > 0].T if len(index) else about.T
    return Attacked(
        images=dict(zip((row for rows in kept for row in rows), pixels)),
        low=float(low.min()),
        high=float(high.max()),
        distance=distance,
        length=length,
        seen=seen,
        seen_8bit=seen_8bit,
        seconds=float(seconds.max()),
        images_per_second=float(rate.sum()),
        compiled=bool(compiled.any()),
    )
