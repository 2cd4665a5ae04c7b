"""A prepared model and its images, as every library reads them. Neither JAX nor PyTorch.

    ROOT/models/MODEL/{problem.json, images.npz, state_dict.npz, weights.npz}

`images.npz` is the parity benchmark's form. The weights are a PyTorch state dict, from which the library's
own model and the PyTorch net are made; `weights.npz`, of SmallCNN only, is for the plain JAX function.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks._parity import store

ROOT = Path("runs/speed")


class Problem(NamedTuple):
    """The first `count` images `[n, h, w, c]` with labels `[n]` and the model's logits `[n, k]`."""

    folder: Path
    images: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    module: str
    fields: dict[str, Any]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(h, w, c)`."""
        h, w, c = self.images.shape[1:]
        return h, w, c


def load(root: Path, model: str, count: int | None = None) -> Problem:
    """Reads a prepared model.

    Raises:
        ValueError: where it has not been prepared, or has fewer images.
    """
    found = store.load_problem(root, model)
    record = store.read_json(store.model_dir(root, model) / "problem.json")
    if count is not None and count > len(found.images):
        raise ValueError(
            f"Expected at most {len(found.images)} images, as {model} was prepared with, got {count}."
        )
    rows = (part[:count] for part in (found.images, found.labels, found.logits))
    return Problem(store.model_dir(root, model), *rows, record["module"], record["fields"])


def save(root: Path, model: str, state: dict[str, np.ndarray], record: dict[str, Any], **arrays: Any) -> None:
    """Writes images, labels and logits (`arrays`), the weights, and the record last."""
    folder = store.model_dir(root, model)
    weights = store.digest_arrays(state)
    images = store.digest_arrays({"x": arrays["images"], "y": arrays["labels"]})
    digest = store.digest({"weights": weights, "images": images})
    store.write_arrays(folder / "state_dict.npz", **state)
    store.write_arrays(folder / "images.npz", **arrays, digest=np.array(digest))
    store.write_json(folder / "problem.json", record | {"weights": weights, "digest": digest})
