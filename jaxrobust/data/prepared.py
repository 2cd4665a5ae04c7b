"""Sets prepared by tensorflow-datasets, read without TensorFlow through its data sources."""

import contextlib
import difflib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust.data import _cache, _decode, _sets

_CHUNK = 1000
_TEST_SPLITS = ("test", "validation")


def resolve_data_dir(data_dir: str | Path | None) -> Path:
    """The given folder, else TFDS_DATA_DIR; raises ValueError where there is neither."""
    given = data_dir or os.environ.get("TFDS_DATA_DIR")
    if not given:
        raise ValueError(
            "No folder of tensorflow-datasets was given: pass --data-dir FOLDER or set TFDS_DATA_DIR=FOLDER."
        )
    return Path(given).expanduser()


def prepared_names(data_dir: Path) -> list[str]:
    """The sets prepared under a folder, as `name` or `name/config`."""
    infos = [*data_dir.glob("*/*/dataset_info.json"), *data_dir.glob("*/*/*/dataset_info.json")]
    return sorted({info.parent.parent.relative_to(data_dir).as_posix() for info in infos})


def _version_key(folder: Path) -> tuple[int, ...]:
    """Sorts version folders numerically."""
    return tuple(int(part) for part in folder.name.split("."))


def find_prepared(name: str, data_dir: Path) -> Path:
    """The folder of a prepared set `name[/config][:version]`, the newest version where none is said."""
    base, _, version = name.partition(":")
    command = f"jaxrobust data prepare {name} --data-dir {data_dir}"
    folder = data_dir / base
    found = [info.parent for info in folder.glob("*/dataset_info.json")]
    found = [f for f in found if f.name.replace(".", "").isdigit() and version in ("", f.name)]
    if not found:
        names = prepared_names(data_dir)
        close = difflib.get_close_matches(base, [*names, "digits", "orl"], n=1)
        hint = f" Did you mean {close[0]!r}?" if close and close[0] != base else ""
        there = f"prepared there: {', '.join(names)}" if names else "nothing is prepared there"
        if not data_dir.is_dir():
            there = "there is no such folder"
        raise ValueError(
            f"The set {name!r} is not prepared in {data_dir} ({there}).{hint} Prepare it with: {command}"
        )
    folder = max(found, key=_version_key)
    try:
        file_format = json.loads((folder / "dataset_info.json").read_text()).get("fileFormat")
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / 'dataset_info.json'}: cannot be read: {error}.") from error
    if file_format != "array_record":
        raise ValueError(
            f"{folder}: prepared as {file_format}, which only TensorFlow reads. Move that folder away and "
            f"prepare it anew with: {command}"
        )
    return folder


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps out tensorflow-datasets' advice to install OpenCV: we decode with Pillow ourselves."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """One split: its undecoded records, and what is needed to decode one and to name its file."""

    source: Any
    image_key: str
    label_key: str
    files: tuple[str, ...]
    shard_lengths: tuple[int, ...]
    size: tuple[int, int] | None
    channels: int | None
    margin: _decode.Margin | None = None

    def where(self, index: int) -> str:
        """The file and record to name in a message."""
        for file, length in zip(self.files, self.shard_lengths, strict=True):
            if index < length:
                return f"{file} (record {index})"
            index -= length
        raise AssertionError("index beyond the split")

    def fetch(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Parsed records with the image still encoded."""
        try:
            return self.source.__getitems__(list(indices))
        # The record reader's C++ errors surface as RuntimeError, protobuf's as DecodeError.
        except Exception as error:
            if len(indices) > 1:
                return [record for index in indices for record in self.fetch([index])]
            raise ValueError(f"{self.where(indices[0])}: cannot be read: {error}.") from error

    def decode(self, index: int, record: dict[str, Any]) -> np.ndarray:
        """uint8 `[h, w, c]`."""
        return _decode.decode(
            record[self.image_key], self.where(index), self.size, self.channels, self.margin
        )

    def __call__(self, index: int) -> np.ndarray:
        return self.decode(index, self.fetch([index])[0])

    def labels(self, records: Sequence[dict[str, Any]]) -> np.ndarray:
        """int32 labels of parsed records."""
        return np.asarray([record[self.label_key] for record in records], np.int64).astype(np.int32)


def _keys(info: Any, folder: Path) -> tuple[str, str]:
    """The features that hold the image and its label."""
    import tensorflow_datasets as tfds

    features: dict[str, Any] = dict(info.features)
    images = [key for key, value in features.items() if type(value) is tfds.features.Image]
    labels = [key for key, value in features.items() if isinstance(value, tfds.features.ClassLabel)]
    for image_key, label_key in [info.supervised_keys] if len(info.supervised_keys or ()) == 2 else []:
        if image_key in images and label_key in labels:
            return image_key, label_key
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(
            f"{folder}: not an image classification set; it has the features {', '.join(sorted(features))}."
        )
    return images[0], labels[0]


def open_record(
    builder: Any,
    folder: Path,
    split: str,
    keys: tuple[str, str],
    size: tuple[int, int] | None,
    channels: int | None,
    margin: _decode.Margin | None = None,
) -> Record:
    """The records of a split, whose images and labels are the features `keys`."""
    import tensorflow_datasets as tfds

    info, (image_key, label_key) = builder.info, keys
    depth, dtype = info.features[image_key].shape[-1], np.dtype(info.features[image_key].np_dtype)
    if dtype != np.uint8:
        raise ValueError(f"{folder}: images have dtype {dtype}; only 8 bits per channel are supported.")
    source = builder.as_data_source(split=split, decoders={image_key: tfds.decode.SkipDecoding()})
    return Record(
        source=source,
        image_key=image_key,
        label_key=label_key,
        files=tuple(str(path) for path in info.splits[split].filepaths),
        shard_lengths=tuple(info.splits[split].shard_lengths),
        size=size,
        channels=channels or (1 if depth == 1 else 3),
        margin=margin,
    )


def _open(
    folder: Path, split: str, size: tuple[int, int] | None, channels: int | None
) -> tuple[Record, tuple[str, ...]]:
    """The records of a split, and the class names."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(folder))
    keys = _keys(builder.info, folder)
    record = open_record(builder, folder, split, keys, size, channels)
    return record, tuple(builder.info.features[keys[1]].names)


def _read_all(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Decodes a whole split on a few threads (Pillow releases the interpreter lock while it decodes)."""
    num = len(record.source)
    chunks = [range(start, min(start + _CHUNK, num)) for start in range(0, num, _CHUNK)]
    first = record(0).shape
    images, labels = np.empty((num, *first), np.uint8), np.empty(num, np.int32)

    def read(chunk: range) -> None:
        records = record.fetch(chunk)
        labels[chunk.start : chunk.stop] = record.labels(records)
        for index, item in zip(chunk, records, strict=True):
            image = record.decode(index, item)
            if image.shape != first:
                raise ValueError(
                    f"{record.where(index)}: the image is {list(image.shape)} but that of "
                    f"{record.where(0)} is {list(first)}; give a size to resize all to."
                )
            images[index] = image

    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        list(pool.map(read, chunks))
    return images, labels


def _read_lazily(record: Record, key: str) -> _sets.ImageSet:
    """Labels now (kept on disk, since every record must be read for them), images when asked for."""
    num = len(record.source)

    def read_labels() -> dict[str, np.ndarray]:
        chunks = [range(start, min(start + _CHUNK, num)) for start in range(0, num, _CHUNK)]
        return {"labels": np.concatenate([record.labels(record.fetch(chunk)) for chunk in chunks])}

    labels = _cache.cached(key, read_labels)["labels"]
    images = _sets.LazyImages(reader=record, indices=np.arange(num), image_shape=record(0).shape)
    return _sets.ImageSet(images, labels)


def listing(folder: Path, times: bool) -> str:
    """A hash of the set's description and of its files' names and sizes, with their times where asked."""
    digest = hashlib.sha256((folder / "dataset_info.json").read_bytes())
    for path in sorted(folder.iterdir()):
        status = path.stat()
        digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns if times else ''}\n".encode())
    return digest.hexdigest()[:16]


def load_prepared(
    name: str,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    test_fraction: float = 0.2,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    max_resident_bytes: int = 2**31,
) -> _sets.Dataset:
    """Loads a set prepared by tensorflow-datasets, without TensorFlow.

    The first read decodes every image and keeps the arrays under the cache folder (`JAXROBUST_CACHE`, by
    default `~/.cache/jaxrobust`); later reads take them from there.

    Args:
        name: `name[/config][:version]`, as tensorflow-datasets writes it.
        data_dir: its folder; None reads the environment variable TFDS_DATA_DIR.
        seed: draws the held-out test images of a set that has no test split.
        test_fraction: their share of each class.
        size: resize to this height and width in pixels.
        channels: convert to 1 (grey) or 3 (colour).
        max_resident_bytes: a set whose decoded images take more is read on demand (`LazyImages`).

    Returns:
        The `Dataset`; a `validation` split serves for testing where there is no `test` split.

    Raises:
        ValueError: naming the command that prepares the set, or the damaged file.
    """
    folder = find_prepared(name, resolve_data_dir(data_dir))
    pixels = _decode.parse_size(size)
    _decode.check_channels(channels)
    label = name.partition(":")[0].replace("/", "-")
    key = f"{label}-{folder.name}-{listing(folder, times=True)}"
    if pixels or channels:
        key += f"-{'x'.join(map(str, pixels or ('any',)))}-{channels or 'any'}"
    splits = [split["name"] for split in json.loads((folder / "dataset_info.json").read_text())["splits"]]
    if "train" not in splits:
        raise ValueError(f"{folder}: there is no train split; it has {', '.join(splits) or 'none'}.")
    parts = ["train", *[split for split in _TEST_SPLITS if split in splits][:1]]
    with quiet():
        sets, names, digest = _load_parts(folder, parts, pixels, channels, key, max_resident_bytes)
    if len(parts) == 1:
        train, test = _sets.hold_out(sets[0].labels, test_fraction, seed)
        sets = [_sets.take_set(sets[0], train), _sets.take_set(sets[0], test)]
    return _sets.make_dataset(name, sets[0], sets[1], names, str(folder), digest)


def _load_parts(
    folder: Path,
    parts: Sequence[str],
    size: tuple[int, int] | None,
    channels: int | None,
    key: str,
    max_resident_bytes: int,
) -> tuple[list[_sets.ImageSet], tuple[str, ...], str | None]:
    """The splits, the class names, and the fingerprint where the content is not at hand to make it."""

    def decode_all() -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {"class_names": np.asarray(names)}
        for part, record in records.items():
            arrays[f"{part}_images"], arrays[f"{part}_labels"] = _read_all(record)
        return arrays

    arrays = _cache.read(key) or {}
    if arrays and sum(arrays[f"{p}_images"].nbytes for p in parts) <= max_resident_bytes:
        names = tuple(str(n) for n in arrays["class_names"])
        return [_sets.ImageSet(arrays[f"{p}_images"], arrays[f"{p}_labels"]) for p in parts], names, None
    opened = {part: _open(folder, part, size, channels) for part in parts}
    records, names = {part: record for part, (record, _) in opened.items()}, opened[parts[0]][1]
    num_bytes = sum(len(record.source) * int(np.prod(record(0).shape)) for record in records.values())
    if num_bytes > max_resident_bytes:
        lazy = [_read_lazily(record, f"{key}-{part}-labels") for part, record in records.items()]
        return lazy, names, listing(folder, times=False)
    arrays = _cache.cached(key, decode_all)
    return [_sets.ImageSet(arrays[f"{p}_images"], arrays[f"{p}_labels"]) for p in parts], names, None
