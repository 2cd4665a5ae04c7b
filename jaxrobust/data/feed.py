"""Feeds: which images a step sees, computed from the seed and the step's number alone."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _validate
from jaxrobust.data._sets import LazyImages
from jaxrobust.data.augment import Augment
from jaxrobust.data.composition import BatchSizes
from jaxrobust.data.shuffle import shuffled_index_from_words
from jaxrobust.data.split import Split
from jaxrobust.types import Batch, PyTree, RowKeys

# Apart from every step number that training folds into a key of the same seed.
_ORDER = 0xDA7A0000
_LABELLED, _UNLABELLED = 0, 1


@runtime_checkable
class Feed(Protocol):
    """Gives each step its rows of the global batch; the same images whatever the number of devices and hosts.

    Attributes:
        arrays: what lies on every device during the run, `()` for a stream.
        sizes: rows of the *global* batch.
    """

    @property
    def arrays(self) -> PyTree: ...

    @property
    def sizes(self) -> BatchSizes: ...

    def cursor(self, step: int) -> "Cursor":
        """What step number `step` needs from the host: leaves whose leading axis is this process's rows."""
        ...

    def batch(self, arrays: PyTree, cursor: "Cursor", keys: RowKeys) -> Batch:
        """The batch of the cursor's rows, all of them or any slice: pure, for use inside jit."""
        ...


class Rows(NamedTuple):
    """Places in a stream: `epoch` int32 `[m]` and `offset` int32 `[m]` in the epoch's order."""

    epoch: np.ndarray | jax.Array
    offset: np.ndarray | jax.Array


class Cursor(NamedTuple):
    """One step's rows, stream by stream: `Rows` for resident sets, pixels and labels for a stream."""

    labelled: Any
    unlabelled: Any


class StreamImages(NamedTuple):
    """Rows that a stream has read: `images` uint8 `[m, h, w, c]`, `labels` int32 `[m]`.

    `labels` of unlabelled rows are a teacher's, None without one.
    """

    images: np.ndarray | jax.Array
    labels: np.ndarray | jax.Array | None


class Resident(NamedTuple):
    """What a resident feed keeps on every device: uint8 images, labels, the words of both shuffling keys.

    `pseudo_labels`: one for each unlabelled image, None without a teacher.
    """

    images: np.ndarray | jax.Array
    labels: np.ndarray | jax.Array
    unlabelled: np.ndarray | jax.Array
    words: np.ndarray | jax.Array
    pseudo_labels: np.ndarray | jax.Array | None = None


def order_words(seed: int) -> np.ndarray:
    """The words of the labelled and the unlabelled stream's shuffling keys, uint32 `[2, w]`."""
    key = jax.random.fold_in(jax.random.key(seed), _ORDER)
    return np.stack(
        [np.asarray(jax.random.key_data(jax.random.fold_in(key, s))) for s in (_LABELLED, _UNLABELLED)]
    )


PixelsT = TypeVar("PixelsT", jax.Array, np.ndarray)


def to_float(images: PixelsT) -> PixelsT:
    """float32 in [0, 1] from uint8, on device and host; the one place where pixels change their unit."""
    # XLA turns a division by a constant into this product inside jit, but not outside: equal in both only so.
    return images.astype(jnp.float32) * np.float32(1 / 255)


def local_rows(step: int, num_rows: int, num_images: int, process_index: int, process_count: int) -> Rows:
    """The places of this process's rows of step `step`'s stream, in Python's unbounded integers."""
    share = num_rows // process_count
    start = step * num_rows + process_index * share
    # A batch larger than the set runs through several epochs.
    epoch, offset = divmod(start % num_images + np.arange(share, dtype=np.int64), max(num_images, 1))
    return Rows((epoch + start // num_images).astype(np.int32), offset.astype(np.int32))


def check_feed(split: Split, sizes: BatchSizes, seed: int, process_index: int, process_count: int) -> None:
    """Raises ValueError where the batch cannot be drawn from the split by these processes."""
    _validate.at_least("seed", seed, 0)
    _validate.at_least("process_count", process_count, 1)
    if not 0 <= process_index < process_count:
        raise ValueError(f"Expected 0 <= process_index < {process_count}, got process_index={process_index}.")
    _validate.at_least("sizes.labelled", sizes.labelled, 1)
    _validate.at_least("sizes.unlabelled", sizes.unlabelled, 0)
    if sizes.labelled % process_count or sizes.unlabelled % process_count:
        raise ValueError(
            f"A batch of {sizes.labelled} labelled + {sizes.unlabelled} unlabelled images is not divided by "
            f"{process_count} processes; compose it with compose_batch(..., num_devices=all devices)."
        )
    if sizes.unlabelled and len(split.unlabelled) == 0:
        raise ValueError(
            f"The batch has {sizes.unlabelled} unlabelled rows, but the split has no unlabelled images; "
            "use BatchSizes(labelled=..., unlabelled=0)."
        )
    found = split.pseudo_labels
    if found is not None and (np.shape(found) != (len(split.unlabelled),) or found.dtype != np.int32):
        raise ValueError(
            f"Expected int32 pseudo_labels [{len(split.unlabelled)}], one for each unlabelled image, got "
            f"{found.dtype} {list(np.shape(found))}."
        )


@dataclass(frozen=True, eq=False)
class ResidentFeed:
    """A set that lies on the device as uint8: shuffled, gathered and augmented inside jit.

    Attributes:
        split: the images, arrays in memory.
        sizes: rows of the global batch.
        seed: the order of both streams, each epoch anew.
        augment: applied row by row to both streams.
        process_index: which process this is.
        process_count: how many share the global batch; each takes its contiguous slice of both streams.
    """

    split: Split
    sizes: BatchSizes
    seed: int
    augment: Augment = field(default=Augment(), kw_only=True)
    process_index: int = field(default=0, kw_only=True)
    process_count: int = field(default=1, kw_only=True)

    def __post_init__(self):
        check_feed(self.split, self.sizes, self.seed, self.process_index, self.process_count)
        for images in (self.split.labelled.images, self.split.unlabelled):
            if isinstance(images, LazyImages):
                raise ValueError("A set that is read on demand does not lie on the device; use StreamFeed.")

    @cached_property
    def arrays(self) -> Resident:
        """The images and keys, to be put on every device once."""
        labelled, used = self.split.labelled, bool(self.sizes.unlabelled)
        return Resident(
            images=np.asarray(labelled.images),
            labels=np.asarray(labelled.labels, np.int32),
            unlabelled=np.asarray(self.split.unlabelled if used else self.split.unlabelled[:0]),
            words=order_words(self.seed),
            pseudo_labels=self.split.pseudo_labels if used else None,
        )

    def cursor(self, step: int) -> Cursor:
        """The epoch and the offset of each of this process's rows."""
        place = (self.process_index, self.process_count)
        return Cursor(
            local_rows(step, self.sizes.labelled, len(self.split.labelled.labels), *place),
            local_rows(step, self.sizes.unlabelled, max(len(self.split.unlabelled), 1), *place),
        )

    def batch(self, arrays: Resident, cursor: Cursor, keys: RowKeys) -> Batch:
        """Gathers the cursor's rows, makes them float32 in [0, 1] and augments them by their keys."""
        index = _index(arrays.words[_LABELLED], cursor.labelled, arrays.images.shape[0])
        image = self.augment(keys.labelled, to_float(jnp.asarray(arrays.images)[index]))
        label = jnp.asarray(arrays.labels)[index]
        if not self.sizes.unlabelled:
            return Batch(image, label, jnp.zeros((0, *image.shape[1:]), jnp.float32))
        index = _index(arrays.words[_UNLABELLED], cursor.unlabelled, arrays.unlabelled.shape[0])
        unlabelled = to_float(jnp.asarray(arrays.unlabelled)[index])
        pseudo = None if arrays.pseudo_labels is None else jnp.asarray(arrays.pseudo_labels)[index]
        return Batch(image, label, self.augment(keys.unlabelled, unlabelled), pseudo)


def _index(words: jax.Array, rows: Rows, n: int) -> jax.Array:
    """The image at each place."""
    return shuffled_index_from_words(words, rows.epoch, rows.offset, n)
