"""Where things lie, and when a result still holds. Neither JAX nor PyTorch.

    ROOT/models/MODEL/{run/, images.npz, weights.npz, state_dict.npz, problem.json}
    ROOT/results/MODEL/CASE/LIBRARY.{npz,json}

A result's JSON is written last and holds the digest of all that decided it; a result with another digest is
made anew.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path("runs/parity")


class Problem(NamedTuple):
    """A model's images `[n, h, w, c]`, labels `[n]`, its logits, and the digest of images and weights."""

    model: str
    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    digest: str


def digest(value: Any) -> str:
    """16 hexadecimal digits of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def digest_arrays(arrays: dict[str, np.ndarray]) -> str:
    """16 hexadecimal digits of named arrays."""
    state = hashlib.sha256()
    for name in sorted(arrays):
        state.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        state.update(np.ascontiguousarray(arrays[name]).tobytes())
    return state.hexdigest()[:16]


def model_dir(root: Path, model: str) -> Path:
    """The folder of a model."""
    return root / "models" / model


def result_path(root: Path, model: str, case: str, library: str) -> Path:
    """The JSON of a result."""
    return root / "results" / model / case / f"{library}.json"


def write_json(path: Path, value: Any) -> None:
    """Writes at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n")
    temporary.replace(path)


def read_json(path: Path) -> Any | None:
    """The value, or None where there is no readable file."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes a compressed npz at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
    temporary.replace(path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def load_problem(root: Path, model: str) -> Problem:
    """The images that every library attacks.

    Raises:
        ValueError: where the model has not been prepared.
    """
    path = model_dir(root, model) / "images.npz"
    if not path.is_file():
        raise ValueError(f"{path} is missing. Run `python -m benchmarks.parity --prepare`.")
    arrays = read_arrays(path)
    return Problem(model, arrays["images"], arrays["labels"], arrays["logits"], str(arrays["digest"]))


def is_current(root: Path, model: str, case: str, library: str, key: str) -> bool:
    """Whether there is a result of exactly this task."""
    path = result_path(root, model, case, library)
    found = read_json(path)
    return (
        bool(found)
        and found.get("key") == key
        and "error" not in found
        and path.with_suffix(".npz").is_file()
    )


def save_result(
    root: Path, model: str, case: str, library: str, images: np.ndarray | None, record: dict[str, Any]
) -> None:
    """Images first, the record last."""
    path = result_path(root, model, case, library)
    if images is not None:
        write_arrays(path.with_suffix(".npz"), images=images)
    write_json(path, record)
