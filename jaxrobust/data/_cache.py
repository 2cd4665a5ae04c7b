"""Decoded arrays kept on disk between runs; written atomically: a killed run leaves no half of a file."""

import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def folder() -> Path:
    """JAXROBUST_CACHE, else jaxrobust in XDG_CACHE_HOME, else ~/.cache/jaxrobust."""
    if os.environ.get("JAXROBUST_CACHE"):
        return Path(os.environ["JAXROBUST_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxrobust"


def _write(path: Path, arrays: Arrays) -> None:
    """Writes beside the target, then renames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read(key: str) -> Arrays | None:
    """The arrays stored under `key`; None where there are none or the file is damaged."""
    try:
        with (folder() / f"{key}.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None


def cached(key: str, make_fn: Callable[[], Arrays]) -> Arrays:
    """The arrays stored under `key`, or those of `make_fn()`, which are then stored."""
    stored = read(key)
    if stored is not None:
        return stored
    path, arrays = folder() / f"{key}.npz", make_fn()
    try:
        _write(path, arrays)
    except OSError as error:
        warnings.warn(f"Could not keep the decoded images in {path}: {error}.", stacklevel=2)
    return arrays
