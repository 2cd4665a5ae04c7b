"""Feeds: every image once per epoch, the same rows for any slice, stream equal to resident."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.data import (
    Augment,
    BatchSizes,
    Feed,
    ImageSet,
    LazyImages,
    ResidentFeed,
    StreamFeed,
    load,
    make_feed,
    split,
    to_float,
)
from jaxrobust.training.step import _parted
from jaxrobust.types import RowKeys

AUGMENT = Augment(pad=1, flip=True)


@pytest.fixture(scope="module")
def parts():
    """30 labelled and 150 unlabelled images whose first pixel is their index."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 4, 4, 1)).astype(np.uint8)
    images[:, 0, 0, 0] = np.arange(200)
    train = ImageSet(images, rng.integers(0, 5, 200).astype(np.int32))
    return split(train, num_labelled=30, num_validation=20, seed=1)


def row_keys(sizes, step=0):
    return RowKeys(*(jax.random.split(jax.random.key(100 + 2 * step + i), n) for i, n in enumerate(sizes)))


def ids(images):
    return np.rint(np.asarray(images[:, 0, 0, 0]) * 255).astype(int)


class Reader:
    """Decodes one image, for `LazyImages`; picklable."""

    def __init__(self, images):
        self.images = images

    def __call__(self, index):
        return self.images[index]


def lazily(images):
    return LazyImages(reader=Reader(images), indices=np.arange(len(images)), image_shape=images.shape[1:])


def lazy_split(parts):
    return parts._replace(
        labelled=parts.labelled._replace(images=lazily(parts.labelled.images)),
        unlabelled=lazily(parts.unlabelled),
    )


def gather(feed, steps):
    """The ids and labels that a feed gives over some steps."""
    batch_fn = jax.jit(feed.batch)
    batches = [batch_fn(feed.arrays, feed.cursor(s), row_keys(feed.sizes)) for s in steps]
    return (
        np.concatenate([ids(b.image) for b in batches]),
        np.concatenate([np.asarray(b.label) for b in batches]),
        np.concatenate([ids(b.unlabelled) for b in batches]),
    )


def test_every_image_once_per_epoch_in_a_new_order(parts):
    feed = ResidentFeed(parts, BatchSizes(6, 15), 0)
    labelled, labels, unlabelled = gather(feed, range(10))
    epochs = labelled.reshape(2, 30)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.sort(parts.indices["labelled"]))
    assert (epochs[0] != epochs[1]).mean() > 0.7
    np.testing.assert_array_equal(np.sort(unlabelled), np.sort(parts.indices["unlabelled"]))
    label_of = dict(zip(parts.indices["labelled"], parts.labelled.labels, strict=True))
    assert [label_of[i] for i in labelled] == labels.tolist()


def test_batches_that_do_not_divide_the_set_run_on_into_the_next_epoch(parts):
    feed = ResidentFeed(parts, BatchSizes(7, 0), 0)
    labelled = gather(feed, range(30))[0]
    for epoch in labelled.reshape(7, 30):
        np.testing.assert_array_equal(np.sort(epoch), np.sort(parts.indices["labelled"]))


def test_a_batch_larger_than_the_set(parts):
    labelled = gather(ResidentFeed(parts, BatchSizes(90, 0), 0), [5])[0]
    np.testing.assert_array_equal(np.sort(labelled), np.repeat(np.sort(parts.indices["labelled"]), 3))


def test_streams_and_seeds_have_their_own_orders(parts):
    twins = parts._replace(unlabelled=parts.labelled.images)
    labelled, _, unlabelled = gather(ResidentFeed(twins, BatchSizes(30, 30), 0), [0])
    assert (labelled != unlabelled).mean() > 0.7
    other = gather(ResidentFeed(twins, BatchSizes(30, 30), 1), [0])
    assert (labelled != other[0]).mean() > 0.7
    assert (unlabelled != other[2]).mean() > 0.7


def test_pixels_are_uint8_over_255(parts):
    feed = ResidentFeed(parts, BatchSizes(30, 0), 0)
    batch = jax.jit(feed.batch)(feed.arrays, feed.cursor(0), row_keys(feed.sizes))
    assert batch.image.dtype == jnp.float32
    assert batch.label.dtype == jnp.int32
    by_id = dict(zip(parts.indices["labelled"], parts.labelled.images, strict=True))
    expected = np.stack([by_id[i] for i in ids(batch.image)]).astype(np.float32) / 255
    np.testing.assert_allclose(np.asarray(batch.image), expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [ResidentFeed, StreamFeed])
def test_a_pseudo_label_goes_with_its_image(parts, kind):
    """Through shuffling, processes, devices and micro-batches; each is what the image's own index says."""
    taught = parts._replace(pseudo_labels=(parts.indices["unlabelled"] * 7 % 11).astype(np.int32))
    sizes, keys = BatchSizes(8, 16), row_keys(BatchSizes(8, 16))

    def check(batch):
        np.testing.assert_array_equal(batch.pseudo_label, ids(batch.unlabelled) * 7 % 11)
        assert batch.pseudo_label.dtype == jnp.int32

    feed = kind(taught, sizes, 0)
    batch_fn = jax.jit(feed.batch)
    for step in (0, 9, 10, 3):
        check(batch_fn(feed.arrays, feed.cursor(step), keys))
    own = jax.tree.map(lambda leaf: leaf[: len(leaf) // 2], keys)
    for process in range(2):
        half = kind(taught, sizes, 0, process_index=process, process_count=2)
        check(half.batch(half.arrays, half.cursor(5), own))
    shares = jax.tree.map(lambda leaf: leaf.reshape(4, -1, *leaf.shape[1:]), (feed.cursor(5), keys))
    by_device = jax.pmap(feed.batch, in_axes=(None, 0, 0))(feed.arrays, *shares)
    for device in range(4):
        check(jax.tree.map(lambda leaf, device=device: leaf[device], by_device))
    micro = jax.tree.map(lambda leaf: _parted(leaf, 4), feed.batch(feed.arrays, feed.cursor(5), keys))
    for part in range(4):
        check(jax.tree.map(lambda leaf, part=part: leaf[part], micro))

    without = kind(taught, BatchSizes(8, 0), 0)
    assert without.batch(without.arrays, without.cursor(0), row_keys(BatchSizes(8, 0))).pseudo_label is None
    for wrong in (taught.pseudo_labels[:-1], taught.pseudo_labels.astype(np.int64)):
        with pytest.raises(ValueError, match=r"Expected int32 pseudo_labels \[150\]"):
            kind(taught._replace(pseudo_labels=wrong), sizes, 0)


def test_to_float():
    levels = jnp.arange(256, dtype=jnp.uint8)
    inside, outside = np.asarray(jax.jit(to_float)(levels)), np.asarray(to_float(levels))
    np.testing.assert_array_equal(inside, outside)
    np.testing.assert_allclose(inside, np.arange(256) / 255, rtol=1e-7)
    assert (inside[0], inside[255]) == (0, 1)
    np.testing.assert_array_equal(np.rint(inside * 255), np.arange(256))


@pytest.mark.parametrize("kind", [ResidentFeed, StreamFeed])
def test_a_slice_of_rows_gives_the_rows_of_the_batch(parts, kind):
    sizes = BatchSizes(4, 8)
    feed = kind(parts, sizes, 0, augment=AUGMENT)
    batch_fn, keys, cursor = jax.jit(feed.batch), row_keys(sizes), feed.cursor(3)
    whole = batch_fn(feed.arrays, cursor, keys)
    for half in range(2):
        rows = jax.tree.map(
            lambda x, half=half: x[half * len(x) // 2 : (half + 1) * len(x) // 2], (cursor, keys)
        )
        part = batch_fn(feed.arrays, *rows)
        jax.tree.map(
            lambda x, y, half=half: np.testing.assert_array_equal(x[half * len(y) : (half + 1) * len(y)], y),
            whole,
            part,
        )


@pytest.mark.parametrize("kind", [ResidentFeed, StreamFeed])
def test_processes_share_the_batch(parts, kind):
    sizes, keys = BatchSizes(6, 15), row_keys(BatchSizes(6, 15))
    whole_feed = ResidentFeed(parts, sizes, 0, augment=AUGMENT)
    whole = jax.jit(whole_feed.batch)(whole_feed.arrays, whole_feed.cursor(4), keys)
    shares = []
    for process in range(3):
        feed = kind(parts, sizes, 0, augment=AUGMENT, process_index=process, process_count=3)
        own = RowKeys(
            keys.labelled[2 * process : 2 * process + 2], keys.unlabelled[5 * process : 5 * process + 5]
        )
        shares.append(jax.jit(feed.batch)(feed.arrays, feed.cursor(4), own))
    jax.tree.map(lambda x, *y: np.testing.assert_array_equal(x, np.concatenate(y)), whole, *shares)


@pytest.mark.parametrize("sizes", [BatchSizes(6, 15), BatchSizes(8, 0)])
def test_every_leaf_of_a_cursor_has_the_rows_of_its_stream(parts, sizes):
    for feed in (ResidentFeed(parts, sizes, 0), StreamFeed(parts, sizes, 0, threads=0)):
        assert isinstance(feed, Feed)
        cursor = feed.cursor(2)
        assert {len(leaf) for leaf in jax.tree.leaves(cursor.labelled)} == {sizes.labelled}
        assert {len(leaf) for leaf in jax.tree.leaves(cursor.unlabelled)} == {sizes.unlabelled}


def test_one_compilation_for_all_steps_and_seeds(parts):
    traces = []
    sizes = BatchSizes(6, 15)
    feed = ResidentFeed(parts, sizes, 0)

    @jax.jit
    def batch_fn(arrays, cursor, keys):
        traces.append(1)
        return feed.batch(arrays, cursor, keys)

    for seed in range(2):
        other = ResidentFeed(parts, sizes, seed)
        for step in (0, 1, 10**9):
            batch_fn(other.arrays, other.cursor(step), row_keys(sizes))
    assert len(traces) == 1


def test_far_steps_do_not_overflow(parts):
    feed, sizes = ResidentFeed(parts, BatchSizes(7, 15), 0), BatchSizes(7, 15)
    step = 3_000_000_001
    cursor = feed.cursor(step)
    assert cursor.labelled.epoch[0] == step * sizes.labelled // 30
    assert cursor.labelled.offset[0] == step * sizes.labelled % 30


@pytest.mark.parametrize("options", [{}, {"threads": 0}, {"threads": 8, "prefetch": 2}])
@pytest.mark.parametrize("lazy", [False, True])
def test_stream_equals_resident_in_any_order_of_steps(parts, options, lazy):
    sizes = BatchSizes(6, 15)
    resident = ResidentFeed(parts, sizes, 3, augment=AUGMENT)
    stream = StreamFeed(lazy_split(parts) if lazy else parts, sizes, 3, augment=AUGMENT, **options)
    first, second = jax.jit(resident.batch), jax.jit(stream.batch)
    for step in (0, 1, 2, 3, 40, 41, 7, 0):
        jax.tree.map(
            np.testing.assert_array_equal,
            first(resident.arrays, resident.cursor(step), row_keys(sizes, step)),
            second(stream.arrays, stream.cursor(step), row_keys(sizes, step)),
        )
    stream.close()


def test_stream_through_worker_processes(parts):
    sizes = BatchSizes(6, 15)
    resident = ResidentFeed(parts, sizes, 3)
    stream = StreamFeed(lazy_split(parts), sizes, 3, workers=2)
    for step in (5, 6, 7, 8):
        expected = jax.jit(resident.batch)(resident.arrays, resident.cursor(step), row_keys(sizes))
        found = stream.batch((), stream.cursor(step), row_keys(sizes))
        jax.tree.map(np.testing.assert_array_equal, expected, found)
    stream.close()


def test_a_damaged_image_stops_the_stream_with_its_name(parts):
    def damaged(index):
        raise ValueError("/data/3.png: cannot be read as an image")

    lazy = LazyImages(reader=damaged, indices=np.arange(150), image_shape=(4, 4, 1))
    stream = StreamFeed(parts._replace(unlabelled=lazy), BatchSizes(6, 15), 0)
    with pytest.raises(ValueError, match=r"/data/3\.png"):
        stream.cursor(0)


def test_make_feed_keeps_on_the_device_what_fits(parts):
    sizes = BatchSizes(6, 15)
    assert isinstance(make_feed(parts, sizes, 0), ResidentFeed)
    assert isinstance(make_feed(parts, sizes, 0, max_device_bytes=1000), StreamFeed)
    assert isinstance(make_feed(lazy_split(parts), sizes, 0), StreamFeed)


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        (BatchSizes(0, 4), {}, "sizes.labelled >= 1"),
        (BatchSizes(4, 6), {"process_count": 4}, "is not divided by 4 processes"),
        (BatchSizes(4, 4), {"process_count": 2, "process_index": 2}, "0 <= process_index < 2"),
    ],
)
@pytest.mark.parametrize("kind", [ResidentFeed, StreamFeed])
def test_bad_feeds(parts, kind, sizes, options, message):
    with pytest.raises(ValueError, match=message):
        kind(parts, sizes, 0, **options)


def test_bad_sources(parts):
    with pytest.raises(ValueError, match="use StreamFeed"):
        ResidentFeed(lazy_split(parts), BatchSizes(2, 2), 0)
    with pytest.raises(ValueError, match="has no unlabelled images"):
        ResidentFeed(parts._replace(unlabelled=parts.unlabelled[:0]), BatchSizes(2, 2), 0)
    with pytest.raises(ValueError, match="prefetch >= 1"):
        StreamFeed(parts, BatchSizes(2, 2), 0, prefetch=0)


@pytest.mark.parametrize("name", ["mnist", pytest.param("cifar10", marks=pytest.mark.slow)])
def test_real_images(data_dir, name):
    """One step of the source's composition, streamed and resident, against the records themselves."""
    train = load(name, data_dir=data_dir).train
    parts = split(train, num_labelled=1_000, num_unlabelled=9_000, selection="stratified", seed=0)
    sizes = BatchSizes(13, 115)
    resident = ResidentFeed(parts, sizes, 0)
    batch = jax.jit(resident.batch)(resident.arrays, resident.cursor(700), row_keys(sizes))
    known = {x.tobytes(): y for x, y in zip(*parts.labelled, strict=True)}
    raw = np.rint(np.asarray(batch.image) * 255).astype(np.uint8)
    assert [known[x.tobytes()] for x in raw] == np.asarray(batch.label).tolist()
    lazy = load(name, data_dir=data_dir, max_resident_bytes=1).train
    lazy_parts = split(lazy, num_labelled=1_000, num_unlabelled=9_000, selection="stratified", seed=0)
    stream = StreamFeed(lazy_parts, sizes, 0)
    jax.tree.map(
        np.testing.assert_array_equal, stream.batch((), stream.cursor(700), row_keys(sizes))[:3], batch[:3]
    )
    stream.close()


@pytest.mark.parametrize("sizes", [BatchSizes(4, 8), BatchSizes(4, 0)])
def test_devices_share_the_batch(parts, sizes):
    feed, keys = ResidentFeed(parts, sizes, 0, augment=AUGMENT), row_keys(sizes)
    whole = jax.jit(feed.batch)(feed.arrays, feed.cursor(3), keys)
    shares = jax.tree.map(
        lambda x: x.reshape(4, -1, *x.shape[1:]) if len(x) else x.reshape(4, 0), (feed.cursor(3), keys)
    )
    found = jax.pmap(feed.batch, in_axes=(None, 0, 0))(feed.arrays, *shares)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y.reshape(x.shape)), whole, found)
