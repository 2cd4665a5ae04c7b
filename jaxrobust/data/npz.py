"""Sets in one .npz file with MedMNIST's keys."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from jaxrobust.data import _decode, _sets

_REQUIRED = ("train_images", "train_labels", "test_images", "test_labels")


def _read(path: Path) -> dict[str, np.ndarray]:
    """Every array of the file that we know the key of."""
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file.")
    try:
        # NumPy leaves a file open that it opened itself and could not read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise ValueError("it holds a single array")
            known = [*_REQUIRED, "val_images", "val_labels", "class_names"]
            return {key: archive[key] for key in known if key in archive.files}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read as an .npz file of plain arrays: {error}.") from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(f"{path}: the .npz file is damaged: {error}.") from error


def _part(arrays: dict[str, np.ndarray], part: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """One of train, val, test, checked."""
    where = f"{path} ({part}_images)"
    images = _sets.as_images(arrays[f"{part}_images"], where)
    return (images, _sets.as_labels(arrays[f"{part}_labels"], len(images), f"{path} ({part}_labels)"))


def _class_names(arrays: dict[str, np.ndarray], train_labels: np.ndarray, path: Path) -> tuple[str, ...]:
    """Names from the file, else the numbers 0 .. k-1 with k from the training labels."""
    if "class_names" in arrays:
        return tuple(str(name) for name in arrays["class_names"].reshape(-1))
    present = np.unique(train_labels)
    missing = np.setdiff1d(np.arange(int(present[-1]) + 1), present)
    if missing.size:
        raise ValueError(
            f"{path} (train_labels): labels go up to {int(present[-1])} but class {int(missing[0])} never "
            "occurs; number the classes 0 .. k-1, or add an array class_names with a name for each."
        )
    return tuple(str(label) for label in range(len(present)))


def load_npz(
    path: str | Path, *, size: int | tuple[int, int] | None = None, channels: int | None = None
) -> _sets.Dataset:
    """Loads a set from an .npz file with the keys of MedMNIST (Yang et al., 2023).

    Args:
        path: a file with `train_images`, `train_labels`, `test_images`, `test_labels`, and optionally
            `val_images`, `val_labels` (joined to the training set: `split` draws validation images from it)
            and `class_names`. Images are `[n, h, w]`, `[n, h, w, 1]` or `[n, h, w, 3]`, uint8, or floats in
            [0, 1], which are rounded to 8 bits. Labels are integers `[n]` or `[n, 1]`, 0 .. k-1.
        size: resize to this height and width in pixels.
        channels: convert to 1 (grey) or 3 (colour).

    Returns:
        The `Dataset`.

    Raises:
        ValueError: naming the file, where anything in it is not as said above.
    """
    path = Path(path).expanduser()
    arrays = _read(path)
    missing = [key for key in _REQUIRED if key not in arrays]
    if "val_images" in arrays and "val_labels" not in arrays:
        missing.append("val_labels")
    if missing:
        raise ValueError(f"{path}: missing {', '.join(missing)}; the keys are those of MedMNIST.")
    pixels = _decode.parse_size(size)
    _decode.check_channels(channels)
    train_images, train_labels = _part(arrays, "train", path)
    test_images, test_labels = _part(arrays, "test", path)
    if len(arrays.get("val_images", ())):
        extra_images, extra_labels = _part(arrays, "val", path)
        if extra_images.shape[1:] != train_images.shape[1:]:
            raise ValueError(
                f"{path} (val_images): images are {list(extra_images.shape[1:])} but training images are "
                f"{list(train_images.shape[1:])}; all must have one size."
            )
        train_images = np.concatenate([train_images, extra_images])
        train_labels = np.concatenate([train_labels, extra_labels])
    return _sets.make_dataset(
        f"npz:{path}",
        _sets.ImageSet(_decode.fit(train_images, pixels, channels), train_labels),
        _sets.ImageSet(_decode.fit(test_images, pixels, channels), test_labels),
        _class_names(arrays, train_labels, path),
        str(path),
    )
