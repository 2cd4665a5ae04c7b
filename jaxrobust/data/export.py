"""Writing a set to one file, for a machine that does not have it."""

import os
import tempfile
from pathlib import Path

import numpy as np

from jaxrobust.data._sets import Dataset


def export_npz(dataset: Dataset, path: str | Path) -> Path:
    """Writes a set as an .npz file with MedMNIST's keys, which `load("npz:...")` reads back unchanged.

    The file is written beside its target and renamed, so that a killed export leaves no half of it.

    Args:
        dataset: any loaded set; one that is read on demand is decoded as a whole and must fit in memory.
        path: the file to write; it must end in `.npz`. An existing file is replaced.

    Returns:
        The path.

    Raises:
        ValueError: where the path does not end in `.npz` or its folder does not exist.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"{path}: expected a file name that ends in .npz.")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no folder {path.parent}; create it first.")
    label_type = np.uint8 if dataset.num_classes <= 256 else np.int32
    arrays = {"class_names": np.asarray(dataset.class_names)}
    for part, data in (("train", dataset.train), ("test", dataset.test)):
        images = np.asarray(data.images[:])
        # MedMNIST keeps grey images without an axis for channels, and labels with one.
        arrays[f"{part}_images"] = images[..., 0] if images.shape[-1] == 1 else images
        arrays[f"{part}_labels"] = data.labels.astype(label_type)[:, None]
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path
