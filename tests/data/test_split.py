"""The semi-supervised split: counts, disjointness, and labels that are gone."""

import dataclasses
import pickle

import jax
import numpy as np
import pytest

from jaxrobust.data import ImageSet, LazyImages, load, split


def make_train(n=200, k=5, seed=0):
    """Every image spells its own index, so that it is known wherever it turns up."""
    images = np.zeros((n, 2, 2, 1), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 1, 0] = np.arange(n) // 256, np.arange(n) % 256
    return ImageSet(images, np.random.default_rng(seed).integers(0, k, n).astype(np.int32))


def identity(images):
    return images[:, 0, 0, 0].astype(int) * 256 + images[:, 0, 1, 0]


@pytest.mark.parametrize("selection", ["first", "random", "stratified"])
def test_parts_are_disjoint_and_complete(selection):
    train = make_train()
    parts = split(train, num_labelled=30, num_validation=20, selection=selection, seed=1)
    found = [identity(parts.labelled.images), identity(parts.unlabelled), identity(parts.validation.images)]
    assert [len(f) for f in found] == [30, 150, 20]
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(200))
    for ids, name in zip(found, ("labelled", "unlabelled", "validation"), strict=True):
        np.testing.assert_array_equal(ids, parts.indices[name])
    np.testing.assert_array_equal(parts.labelled.labels, train.labels[found[0]])
    np.testing.assert_array_equal(parts.validation.labels, train.labels[found[2]])


def test_labels_of_unlabelled_images_are_nowhere_in_the_split():
    """A marker class for the unlabelled: it is found in no array of the split."""
    train = make_train()
    indices = split(train, num_labelled=30, num_validation=20, selection="first", seed=1).indices[
        "unlabelled"
    ]
    labels = train.labels.copy()
    labels[indices] = 77_777
    parts = split(
        ImageSet(train.images, labels), num_labelled=30, num_validation=20, selection="first", seed=1
    )
    np.testing.assert_array_equal(parts.indices["unlabelled"], indices)
    leaves = jax.tree.leaves(parts)
    assert len(leaves) == 8
    for leaf in leaves:
        assert isinstance(leaf, np.ndarray)
        assert not (leaf == 77_777).any()
        assert leaf.base is None or 77_777 not in np.asarray(leaf.base)


def test_first_is_first():
    parts = split(
        make_train(), num_labelled=30, num_unlabelled=50, num_validation=7, selection="first", seed=3
    )
    np.testing.assert_array_equal(parts.indices["labelled"], np.arange(30))
    assert len(parts.unlabelled) == 50
    assert len(parts.validation.labels) == 7


def test_stratified_keeps_proportions_and_every_class():
    labels = np.repeat(np.arange(4), [900, 80, 19, 1]).astype(np.int32)
    train = ImageSet(np.zeros((1000, 1, 1, 1), np.uint8), labels)
    for num, expected in ((100, [89, 8, 2, 1]), (4, [1, 1, 1, 1]), (1000, [900, 80, 19, 1])):
        parts = split(train, num_labelled=num, selection="stratified", seed=0)
        counts = np.bincount(parts.labelled.labels, minlength=4)
        assert counts.sum() == num
        assert np.abs(counts - expected).max() <= 1
        assert counts.min() >= 1


def test_the_seed_decides_and_growing_sets_are_nested():
    train = make_train()

    def chosen(seed, num_unlabelled):
        return set(
            split(
                train, num_labelled=20, num_unlabelled=num_unlabelled, num_validation=10, seed=seed
            ).indices["unlabelled"]
        )

    assert chosen(0, 50) == chosen(0, 50) != chosen(1, 50)
    assert chosen(0, 0) == set()
    assert chosen(0, 10) < chosen(0, 50) < chosen(0, 170)


def test_lazy_images_are_split_without_reading():
    def never(index):
        raise AssertionError("read")

    train = make_train()
    lazy = LazyImages(reader=never, indices=np.arange(200), image_shape=(2, 2, 1))
    parts = split(ImageSet(lazy, train.labels), num_labelled=20, num_validation=10, seed=0)
    assert parts.unlabelled.shape == (170, 2, 2, 1)
    np.testing.assert_array_equal(parts.unlabelled.indices, parts.indices["unlabelled"])


@dataclasses.dataclass(frozen=True)
class Telling:
    """A reader that knows more than pixels, as those of records and of class folders do."""

    paths: tuple[str, ...]
    source: tuple[int, ...]

    def __call__(self, index):
        return np.full((2, 2, 1), index, np.uint8)

    def labels(self):
        return self.source


def test_the_reader_of_unlabelled_images_tells_nothing_but_pixels():
    train = make_train()
    reader = Telling(paths=tuple(f"class{y}/{i}.png" for i, y in enumerate(train.labels)), source=(1, 2))
    lazy = LazyImages(reader=reader, indices=np.arange(200), image_shape=(2, 2, 1))
    parts = split(ImageSet(lazy, train.labels), num_labelled=20, num_validation=10, seed=0)
    for images in (parts.unlabelled, pickle.loads(pickle.dumps(parts.unlabelled))):
        assert [name for name in dir(images.reader) if not name.startswith("_")] == []
        assert "class" not in repr(images)
        np.testing.assert_array_equal(images[3:5], lazy[parts.indices["unlabelled"][3:5]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_labelled": 201}, "has 200 images, but num_labelled=201"),
        ({"num_labelled": 100, "num_unlabelled": 100, "num_validation": 1}, "= 201 are asked for"),
        ({"num_labelled": 0}, "num_labelled >= 1"),
        ({"num_labelled": 10, "num_validation": -1}, "num_validation >= 0"),
        ({"num_labelled": 10, "num_unlabelled": -1}, "num_unlabelled >= 0"),
        ({"num_labelled": 4, "selection": "stratified"}, "num_labelled=4 for 5 classes"),
        (
            {"num_labelled": 10, "selection": "best"},
            "Unknown selection 'best'. Known: first, random, stratified",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        split(make_train(), seed=0, **arguments)


def test_first_of_a_sorted_set_is_refused():
    train = make_train()
    train = train._replace(labels=np.sort(train.labels))
    with pytest.raises(ValueError, match="all belong to class 0; use selection='stratified'"):
        split(train, num_labelled=10, selection="first", seed=0)


def test_mnist(data_dir):
    train = load("mnist", data_dir=data_dir).train
    parts = split(train, num_labelled=1_000, num_validation=2_000, selection="stratified", seed=0)
    assert len(parts.unlabelled) == 57_000
    share = np.bincount(train.labels) / 60
    assert np.abs(np.bincount(parts.labelled.labels) - share).max() <= 1
