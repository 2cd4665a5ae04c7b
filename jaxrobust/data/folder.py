"""Sets of image files: `train/class/*` with `test/class/*`, or `class/*` alone."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxrobust.data import _decode, _sets

EXTENSIONS = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
_TEST_NAMES = ("test", "val", "valid", "validation")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Files:
    """Image files read one by one; the reader of `LazyImages`."""

    paths: tuple[Path, ...]
    size: tuple[int, int] | None
    channels: int | None
    margin: _decode.Margin | None = None

    def __call__(self, index: int) -> np.ndarray:
        path = self.paths[index]
        return _decode.decode(path, str(path), self.size, self.channels, self.margin)


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """The files of one split with their labels."""

    paths: tuple[Path, ...]
    labels: np.ndarray


def sub_folders(root: Path) -> list[Path]:
    """Sub-folders by name, hidden ones left out."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def image_files(folder: Path, kind: str = "class") -> list[Path]:
    """The image files directly in a folder, by name; others, such as a README, are passed over."""
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS and f.is_file())
    files = [file for file in files if not file.name.startswith(".")]
    if not files:
        raise ValueError(
            f"{folder}: there are no image files directly in this folder; expected one folder per {kind} "
            f"with files ending in {', '.join(sorted(EXTENSIONS))}."
        )
    return files


def _list_split(root: Path, class_names: tuple[str, ...]) -> _Listing:
    """Every image file of `root/class/*`; other files are passed over."""
    paths: list[Path] = []
    labels: list[int] = []
    for folder in sub_folders(root):
        if folder.name not in class_names:
            raise ValueError(f"{folder}: the class {folder.name!r} does not occur in the training set.")
        files = image_files(folder)
        paths += files
        labels += [class_names.index(folder.name)] * len(files)
    if not paths:
        raise ValueError(f"{root}: there are no class folders in it.")
    return _Listing(paths=tuple(paths), labels=np.asarray(labels, np.int32))


def _concatenate(first: _Listing, second: _Listing) -> _Listing:
    """Both listings, in order."""
    return _Listing(paths=first.paths + second.paths, labels=np.concatenate([first.labels, second.labels]))


def _mix(listing: _Listing) -> _Listing:
    """The listing, in a fixed order that mixes the classes."""
    order = _sets.mixed(len(listing.paths))
    return _Listing(paths=tuple(listing.paths[i] for i in order), labels=listing.labels[order])


def _find(root: Path, test_fraction: float, seed: int) -> tuple[_Listing, _Listing, tuple[str, ...]]:
    """(train, test, class names) of either layout."""
    if not root.is_dir():
        raise ValueError(f"{root}: there is no such folder.")
    present = {folder.name for folder in sub_folders(root)}
    if "train" in present:
        tests = [name for name in _TEST_NAMES if name in present]
        names = tuple(folder.name for folder in sub_folders(root / "train"))
        if not tests:
            raise ValueError(f"{root}: beside train/ there is no test/ (or val/); add one, or drop train/.")
        train, test = _list_split(root / "train", names), _list_split(root / tests[0], names)
        for extra in tests[1:]:
            train = _concatenate(train, _list_split(root / extra, names))
        return train, test, names
    if present & set(_TEST_NAMES):
        raise ValueError(f"{root}: there is {min(present & set(_TEST_NAMES))}/ but no train/.")
    if not present:
        raise ValueError(
            f"{root}: it is empty; expected train/CLASS/*.png and test/CLASS/*.png, or CLASS/*.png."
        )
    names = tuple(folder.name for folder in sub_folders(root))
    everything = _list_split(root, names)
    chosen = _sets.hold_out(everything.labels, test_fraction, seed)
    train, test = (
        _Listing(paths=tuple(everything.paths[i] for i in c), labels=everything.labels[c]) for c in chosen
    )
    if not test.paths:
        raise ValueError(f"{root}: every class has a single image; there is none to hold out for testing.")
    return train, test, names


def _decode_all(files: _Files) -> list[np.ndarray]:
    """Every image, on a few threads."""
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(files, range(len(files.paths)), chunksize=64))


def _check_sizes(paths: tuple[Path, ...], sizes: list[tuple[int, int]]) -> None:
    """Raises ValueError naming two files where sizes are mixed."""
    other = next((i for i, size in enumerate(sizes) if size != sizes[0]), None)
    if other is not None:
        (h, w), (h2, w2) = sizes[0], sizes[other]
        raise ValueError(
            f"{paths[0]} is {h} x {w} pixels (height x width) but {paths[other]} is {h2} x {w2}; all images "
            f"must have one size. Give a size to resize all to, e.g. size={min(h, w)}."
        )


def _in_memory(files: _Files) -> np.ndarray:
    """uint8 `[n, h, w, c]`; grey where every file is grey."""
    images = _decode_all(files)
    _check_sizes(files.paths, [image.shape[:2] for image in images])
    depth = max(image.shape[2] for image in images)
    out = np.empty((len(images), *images[0].shape[:2], depth), np.uint8)
    for row, image in zip(out, images, strict=True):
        row[:] = image
    return out


def _on_demand(files: _Files, headers: list[tuple[int, int, int]]) -> _sets.LazyImages:
    """The same images, decoded when asked for; sizes are known from the headers."""
    if files.size is None:
        _check_sizes(files.paths, [(height, width) for height, width, _ in headers])
    depth = files.channels or max(header[2] for header in headers)
    top, left, bottom, right = _decode.margin_box(*headers[0][:2], files.margin)
    shape = (*(files.size or (bottom - top, right - left)), depth)
    reader = replace(files, channels=depth)
    return _sets.LazyImages(reader=reader, indices=np.arange(len(files.paths)), image_shape=shape)


def read_images(
    paths: tuple[Path, ...],
    size: tuple[int, int] | None,
    channels: int | None,
    max_resident_bytes: int,
    margin: _decode.Margin | None = None,
) -> tuple[_sets.Images, str | None]:
    """The images, and a fingerprint of the listing where they stay on disk."""
    files = _Files(paths=paths, size=size, channels=channels, margin=margin)
    height, width, depth = _decode.header(paths[0])
    top, left, bottom, right = _decode.margin_box(height, width, margin)
    height, width = size or (bottom - top, right - left)
    if len(paths) * height * width * (channels or depth) <= max_resident_bytes:
        return _in_memory(files), None
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        headers = list(pool.map(_decode.header, paths, chunksize=64))
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.parent.name}/{path.name} {path.stat().st_size}\n".encode())
    return _on_demand(files, headers), digest.hexdigest()[:16]


def load_folder(
    path: str | Path,
    *,
    seed: int = 0,
    test_fraction: float = 0.2,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    max_resident_bytes: int = 2**31,
) -> _sets.Dataset:
    """Loads a folder of image files.

    Two layouts: `train/CLASS/*` with `test/CLASS/*` (`val/` serves for testing where there is no `test/`, and
    joins the training set where there is), or `CLASS/*` with a seeded split. Photographs are turned upright
    by their EXIF orientation; transparent images are refused (an opaque alpha
    channel is dropped); the set is grey where every file is.

    Args:
        path: the folder.
        seed: draws the test images in the second layout.
        test_fraction: their share of each class.
        size: resize (bilinear with antialiasing, the aspect ratio not kept) to this height and width in
            pixels; None requires all images to have one size.
        channels: convert to 1 (grey) or 3 (colour).
        max_resident_bytes: a set whose decoded images take more is read on demand (`LazyImages`).

    Returns:
        The `Dataset`; classes are the folders' names, sorted.

    Raises:
        ValueError: naming the file or folder that is missing, empty, damaged, or of another size.
    """
    root, pixels = Path(path).expanduser(), _decode.parse_size(size)
    _decode.check_channels(channels)
    train, test, names = _find(root, test_fraction, seed)
    train, test = _mix(train), _mix(test)
    images, digest = read_images(train.paths + test.paths, pixels, channels, max_resident_bytes)
    cut = len(train.paths)
    return _sets.make_dataset(
        f"folder:{path}",
        _sets.ImageSet(_sets.take(images, np.arange(cut)), train.labels),
        _sets.ImageSet(_sets.take(images, np.arange(cut, len(images))), test.labels),
        names,
        str(root),
        digest,
    )
