"""What a data set is here: uint8 images with integer labels, checked once, before any training."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

_MIX = 20200306


@runtime_checkable
class ImageReader(Protocol):
    """Random access to decoded images; picklable, so that worker processes can hold one."""

    def __call__(self, index: int) -> np.ndarray:
        """The image `[h, w, c]`, uint8."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class LazyImages:
    """Images that are decoded when asked for, for sets that do not fit in memory; indexes like an array.

    `images[i]` is one uint8 image `[h, w, c]`; a slice or an integer array gives a stack `[m, h, w, c]`, read
    at once. `subset` selects without reading.
    """

    reader: ImageReader
    indices: np.ndarray
    image_shape: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(n, h, w, c)`, as an array's."""
        return (len(self.indices), *self.image_shape)

    @property
    def dtype(self) -> np.dtype:
        """Always uint8."""
        return np.dtype(np.uint8)

    @property
    def nbytes(self) -> int:
        """The bytes that the images would take if decoded."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> np.ndarray:
        chosen = self.indices[index]
        if np.ndim(chosen) == 0:
            return self.reader(int(chosen))
        images = [self.reader(int(i)) for i in chosen]
        return np.stack(images) if images else np.zeros((0, *self.image_shape), np.uint8)

    def subset(self, index: np.ndarray) -> "LazyImages":
        """The images at `index`, still undecoded."""
        return LazyImages(reader=self.reader, indices=self.indices[index], image_shape=self.image_shape)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PixelReader:
    """Another reader's pixels and nothing else: its records, labels and folder names are not passed on."""

    _reader: ImageReader

    def __call__(self, index: int) -> np.ndarray:
        """The image `[h, w, c]`, uint8."""
        return self._reader(index)


Images: TypeAlias = np.ndarray | LazyImages
"""uint8 `[n, h, w, c]`, in memory or read on demand."""


class ImageSet(NamedTuple):
    """Images with their labels.

    Attributes:
        images: uint8 `[n, h, w, c]`, an array or `LazyImages`.
        labels: int32 `[n]`.
    """

    images: Images
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """A loaded, checked data set.

    Attributes:
        name: what it was loaded as.
        train: the training images, from which labelled, unlabelled and validation images are split.
        test: the test images, never used for a choice.
        class_names: one name per class; labels index it.
        fingerprint: 16 hexadecimal digits of a SHA-256 over the pixels and labels, the same for the same
            content wherever it was read from (over the listing of files for sets read on demand).
    """

    name: str
    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """k."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(h, w, c)`."""
        return tuple(self.train.images.shape[1:])


def take(images: Images, index: np.ndarray) -> Images:
    """The images at `index`: a copy of an array's rows, or an undecoded subset."""
    return images.subset(index) if isinstance(images, LazyImages) else images[index]


def pixels_only(images: Images) -> Images:
    """The same images; those read on demand through a reader that gives no more than pixels."""
    return replace(images, reader=PixelReader(images.reader)) if isinstance(images, LazyImages) else images


def take_set(data: ImageSet, index: np.ndarray) -> ImageSet:
    """The images and labels at `index`."""
    return ImageSet(take(data.images, index), data.labels[index])


def as_uint8(images: np.ndarray, where: str) -> np.ndarray:
    """uint8 as it is, floats in [0, 1] to the nearest of 256 levels, anything else refused."""
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(
            f"{where}: images have dtype {images.dtype}; give uint8 in [0, 255] or floats in [0, 1]."
        )
    if not np.isfinite(images).all():
        row = int(np.argwhere(~np.isfinite(images))[0][0])
        raise ValueError(f"{where}: image {row} has NaN or infinite pixels; repair or remove it.")
    low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
    if low < 0 or high > 1:
        raise ValueError(
            f"{where}: float images must lie in [0, 1], but range over [{low:g}, {high:g}]; "
            "divide by 255 or store uint8."
        )
    return np.rint(images * np.asarray(255, images.dtype)).astype(np.uint8)


def as_images(images: np.ndarray, where: str) -> np.ndarray:
    """uint8 `[n, h, w, c]` from `[n, h, w]` or `[n, h, w, c]`, or a ValueError naming `where`."""
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape[1:]:
        raise ValueError(
            f"{where}: expected images [n, h, w], [n, h, w, 1] or [n, h, w, 3], "
            f"got shape {list(images.shape)}."
        )
    if len(images) == 0:
        raise ValueError(f"{where}: there are no images.")
    return np.ascontiguousarray(as_uint8(images, where))


def as_labels(labels: np.ndarray, num_images: int, where: str) -> np.ndarray:
    """int32 `[n]` from integer labels `[n]` or `[n, 1]`, or a ValueError naming `where`."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(
            f"{where}: expected one label per image, [n] or [n, 1], got shape {list(labels.shape)}; "
            "sets with several labels per image are not classification sets."
        )
    if len(labels) != num_images:
        raise ValueError(
            f"{where}: {len(labels)} labels for {num_images} images; there must be one per image."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{where}: labels have dtype {labels.dtype}; give integers 0 .. k-1.")
    if len(labels) and int(labels.min()) < 0:
        row = int(np.argmax(labels < 0))
        raise ValueError(
            f"{where}: label {int(labels[row])} of image {row} is out of range; labels are 0 .. k-1."
        )
    if len(labels) and int(labels.max()) > np.iinfo(np.int32).max:
        raise ValueError(f"{where}: label {int(labels.max())} is out of range; labels are 0 .. k-1.")
    return labels.astype(np.int32)


def check_range(labels: np.ndarray, num_classes: int, where: str) -> None:
    """Raises ValueError, naming `where` and the image, where a label has no class."""
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        row = int(wrong[0])
        raise ValueError(
            f"{where}: label {int(labels[row])} of image {row} is out of range; "
            f"the set has {num_classes} classes, 0 .. {num_classes - 1}."
        )


def fingerprint(*sets: ImageSet) -> str:
    """16 hexadecimal digits of a SHA-256 over shapes, pixels and labels of sets in memory."""
    digest = hashlib.sha256()
    for data in sets:
        digest.update(repr(tuple(data.images.shape)).encode())
        digest.update(np.ascontiguousarray(data.images).data)
        digest.update(np.ascontiguousarray(data.labels, np.dtype("<i4")).data)
    return digest.hexdigest()[:16]


def make_dataset(
    name: str,
    train: ImageSet,
    test: ImageSet,
    class_names: Sequence[str],
    where: str,
    digest: str | None = None,
) -> Dataset:
    """Builds the `Dataset` after the checks that all sources share; `where` is the file or folder to name."""
    repeated = sorted(name for name, count in Counter(class_names).items() if count > 1)
    if repeated:
        raise ValueError(
            f"{where}: the class name {repeated[0]!r} occurs more than once; give every class its own name."
        )
    for part, data in (("training", train), ("test", test)):
        if len(data.images) == 0:
            raise ValueError(f"{where}: the {part} set is empty.")
        check_range(data.labels, len(class_names), f"{where} ({part} set)")
    if tuple(train.images.shape[1:]) != tuple(test.images.shape[1:]):
        raise ValueError(
            f"{where}: training images are {list(train.images.shape[1:])} but test images are "
            f"{list(test.images.shape[1:])}; all must have one size (the size option resizes them)."
        )
    classes = np.unique(train.labels)
    if len(classes) < 2:
        raise ValueError(
            f"{where}: all {len(train.labels)} training images belong to the one class "
            f"{class_names[int(classes[0])]!r}; a classifier needs at least two."
        )
    digest = fingerprint(train, test) if digest is None else digest
    return Dataset(name=name, train=train, test=test, class_names=tuple(class_names), fingerprint=digest)


def mixed(num_images: int) -> np.ndarray:
    """A fixed order for images that are listed class by class, so that the first few are of all classes."""
    return np.random.default_rng(_MIX).permutation(num_images)


def hold_out(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) indices: `fraction` of each class, at least one image, drawn from the seed for testing.

    A class with a single image keeps it for training.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"Expected 0 < test_fraction < 1, got test_fraction={fraction}.")
    order = np.random.default_rng(seed).permutation(len(labels))
    chosen = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        chosen[members[:count]] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)
