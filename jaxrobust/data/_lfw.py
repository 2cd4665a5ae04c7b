"""Labeled Faces in the Wild as tensorflow-datasets prepares it: images and names, without file numbers."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxrobust.data import _cache, _decode, _sets, prepared

_CHUNK = 1000


def _names(record: prepared.Record) -> np.ndarray:
    """Whose each record is."""
    num, found = len(record.source), []
    for start in range(0, num, _CHUNK):
        for item in record.fetch(range(start, min(start + _CHUNK, num))):
            label = item[record.label_key]
            found.append(label.decode() if isinstance(label, bytes) else str(label))
    return np.asarray(found)


def _decode_all(images: _sets.LazyImages) -> np.ndarray:
    """uint8 `[n, h, w, c]`, on a few threads."""
    out = np.empty(images.shape, np.uint8)
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        for row, image in zip(out, pool.map(images.__getitem__, range(len(images))), strict=True):
            if image.shape != row.shape:
                raise ValueError(
                    f"lfw: an image is {list(image.shape)} but the first is {list(row.shape)}; give a size "
                    "to resize all to."
                )
            row[:] = image
    return out


def read_lfw(
    data_dir: str | Path | None,
    size: tuple[int, int] | None,
    channels: int | None,
    margin: _decode.Margin | None,
    max_resident_bytes: int,
) -> tuple[_sets.Images, np.ndarray, str | None]:
    """(images, the name of each, fingerprint of the listing where they stay on disk), sorted by name."""
    import tensorflow_datasets as tfds

    folder = prepared.find_prepared("lfw", prepared.resolve_data_dir(data_dir))
    with prepared.quiet():
        builder = tfds.builder_from_directory(str(folder))
        record = prepared.open_record(builder, folder, "train", ("image", "label"), size, channels, margin)
        key = f"lfw-{folder.name}-{prepared.listing(folder, times=True)}"
        names = _cache.cached(f"{key}-names", lambda: {"names": _names(record)})["names"]
        # Stable: two images of one person keep the order of the records.
        order = np.argsort(names, kind="stable")
        images = _sets.LazyImages(reader=record, indices=order, image_shape=record(0).shape)
        if images.nbytes > max_resident_bytes:
            return images, names[order], prepared.listing(folder, times=False)
        options = "-".join(repr(option).replace(" ", "") for option in (size, channels, margin))
        arrays = _cache.cached(f"{key}-{options}", lambda: {"images": _decode_all(images)})
    return arrays["images"], names[order], None
