"""Streaming: batches of sets that do not fit on the device, read ahead by grain."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _validate
from jaxrobust.data.augment import Augment
from jaxrobust.data.composition import BatchSizes
from jaxrobust.data.feed import (
    Cursor,
    ResidentFeed,
    Rows,
    StreamImages,
    check_feed,
    local_rows,
    order_words,
    to_float,
)
from jaxrobust.data.shuffle import shuffled_index_on_host
from jaxrobust.data.split import Split
from jaxrobust.types import Batch, RowKeys


def _host_index(words: np.ndarray, rows: Rows, n: int) -> np.ndarray:
    """The image at each place, without a device."""
    return shuffled_index_on_host(words, rows.epoch, rows.offset, n)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Steps:
    """Random access from a step's number to the pixels it sees: the source that grain reads ahead from.

    Holds nothing of JAX's, so that worker processes need not start it.
    """

    split: Split
    sizes: BatchSizes
    words: np.ndarray
    process_index: int
    process_count: int

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, step: Any) -> Cursor:
        labelled, place = self.split.labelled, (self.process_index, self.process_count)
        num = len(labelled.labels)
        index = _host_index(self.words[0], local_rows(int(step), self.sizes.labelled, num, *place), num)
        rows = StreamImages(labelled.images[index], labelled.labels[index])
        if not self.sizes.unlabelled:
            return Cursor(rows, StreamImages(np.zeros((0, *rows.images.shape[1:]), np.uint8), None))
        num = len(self.split.unlabelled)
        index = _host_index(self.words[1], local_rows(int(step), self.sizes.unlabelled, num, *place), num)
        pseudo = self.split.pseudo_labels
        return Cursor(
            rows, StreamImages(self.split.unlabelled[index], None if pseudo is None else pseudo[index])
        )


@dataclass(frozen=True, eq=False)
class StreamFeed:
    """A set that is read and decoded as the run goes, the same images in the same order as `ResidentFeed`'s.

    Attributes:
        split: the images, in memory or `LazyImages`.
        sizes: rows of the global batch.
        seed: the order of both streams, each epoch anew.
        augment: applied row by row to both streams, on the device.
        process_index: which process this is; it reads its own slice only.
        process_count: how many share the global batch.
        threads: batches decoded at the same time; 0 reads in the calling thread.
        prefetch: batches kept ready.
        workers: processes that decode, beside the threads of each; 0 for none.
    """

    split: Split
    sizes: BatchSizes
    seed: int
    augment: Augment = field(default=Augment(), kw_only=True)
    process_index: int = field(default=0, kw_only=True)
    process_count: int = field(default=1, kw_only=True)
    threads: int = field(default=4, kw_only=True)
    prefetch: int = field(default=4, kw_only=True)
    workers: int = field(default=0, kw_only=True)

    def __post_init__(self):
        check_feed(self.split, self.sizes, self.seed, self.process_index, self.process_count)
        _validate.at_least("threads", self.threads, 0)
        _validate.at_least("prefetch", self.prefetch, 1)
        _validate.at_least("workers", self.workers, 0)

    @property
    def arrays(self) -> tuple[()]:
        """Nothing stays on the device."""
        return ()

    @cached_property
    def _steps(self) -> _Steps:
        return _Steps(
            split=self.split,
            sizes=self.sizes,
            words=order_words(self.seed),
            process_index=self.process_index,
            process_count=self.process_count,
        )

    @cached_property
    def _reading(self) -> dict[str, Any]:
        """The iterator that reads ahead and the step it gives next; a jump in `step` renews it."""
        return {"next": None, "iterator": None}

    def _read_from(self, step: int) -> Iterator[Cursor]:
        """grain's iterator over the steps from this one on."""
        import grain.python as grain
        from absl import flags

        options = grain.ReadOptions(
            num_threads=min(self.threads, self.prefetch),
            prefetch_buffer_size=self.prefetch * bool(self.threads),
        )
        steps = grain.MapDataset.source(self._steps)[step:]
        batches = steps.to_iter_dataset(options)
        if self.workers:
            # grain reads its own absl flags here and refuses where no absl application has parsed them.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers))
        return iter(batches)

    def cursor(self, step: int) -> Cursor:
        """The pixels and labels of this process's rows, read ahead as long as steps come in order."""
        reading = self._reading
        if reading["next"] != step:
            self.close()
            reading["iterator"] = self._read_from(step)
        reading["next"] = None
        cursor = next(reading["iterator"])
        reading["next"] = step + 1
        return cursor

    def close(self) -> None:
        """Stops reading ahead; `cursor` starts it again."""
        iterator = self._reading["iterator"]
        if hasattr(iterator, "close"):
            iterator.close()
        self._reading.update(next=None, iterator=None)

    def batch(self, arrays: tuple[()], cursor: Cursor, keys: RowKeys) -> Batch:
        """Makes the cursor's rows float32 in [0, 1] and augments them by their keys."""
        image = self.augment(keys.labelled, to_float(jnp.asarray(cursor.labelled.images)))
        unlabelled = to_float(jnp.asarray(cursor.unlabelled.images))
        label: jax.Array = jnp.asarray(cursor.labelled.labels)
        pseudo = None if cursor.unlabelled.labels is None else jnp.asarray(cursor.unlabelled.labels)
        return Batch(image, label, self.augment(keys.unlabelled, unlabelled), pseudo)


MAX_DEVICE_BYTES = 2**31
"""Images up to this size are put on a device."""


def make_feed(
    split: Split,
    sizes: BatchSizes,
    seed: int,
    *,
    augment: Augment | None = None,
    process_index: int = 0,
    process_count: int = 1,
    max_device_bytes: int = MAX_DEVICE_BYTES,
) -> ResidentFeed | StreamFeed:
    """A `ResidentFeed` where the images are in memory and fit on the device, else a `StreamFeed`.

    Both give the same batches.

    Args:
        split: the images.
        sizes: rows of the global batch.
        seed: the order of both streams.
        augment: applied row by row.
        process_index: which process this is.
        process_count: how many share the global batch.
        max_device_bytes: images up to this size are put on the device.

    Returns:
        The feed.
    """
    images = (split.labelled.images, split.unlabelled)
    resident = all(isinstance(part, np.ndarray) for part in images)
    resident = resident and sum(part.nbytes for part in images) <= max_device_bytes
    feed = ResidentFeed if resident else StreamFeed
    return feed(
        split,
        sizes,
        seed,
        augment=augment or Augment(),
        process_index=process_index,
        process_count=process_count,
    )
