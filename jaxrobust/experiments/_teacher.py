"""The teacher's part of a run: the class that a model trained before says of each unlabelled image.

The pseudo-labels lie in the run's folder once they are there, so that a resumed run has the same ones on
whatever machine: between two answers that are nearly equal, another device may decide otherwise.
"""

import json
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from jaxrobust import data
from jaxrobust.experiments import codec
from jaxrobust.experiments._prepare import Checked, start_config
from jaxrobust.numerics import compile as compile_
from jaxrobust.training.runtime import agree
from jaxrobust.types import Array, Model, PyTree

if TYPE_CHECKING:
    from jaxrobust.experiments.run import Run

LABELS_FILE = "pseudo_labels.npz"
# Of a compiled call: at most so many images of MNIST's size lie on the device.
_BATCH_SIZE = 500

TeachFn = Callable[[list[int]], Sequence["Run | None"]]
"""`teach_fn(which) -> runs`: trains the teachers of these runs, or loads them; None but on process 0."""


def pseudo_labels(checked: Sequence[Checked], teach_fn: TeachFn) -> list[np.ndarray | None]:
    """int32 `[n_u]` of each run, from its folder or from its teacher; None of runs without one."""
    if checked[0].experiment.teacher is None:
        return [None] * len(checked)
    found = [_stored(one) for one in checked]
    lacking = [i for i, labels in enumerate(found) if labels is None]
    if lacking:
        for i, run in zip(lacking, teach_fn(lacking), strict=True):
            found[i] = _taught(checked[i], run)
    return found


def _about(checked: Checked) -> str:
    """What the pseudo-labels depend on: those of another teacher or other images are made anew."""
    assert checked.experiment.teacher is not None
    teacher = codec.training_json(checked.experiment.teacher)
    how = start_config(None, None, checked.model, checked.runtime)
    return json.dumps([teacher, checked.dataset.fingerprint, how], sort_keys=True)


def _stored(checked: Checked) -> np.ndarray | None:
    """Process 0's pseudo-labels on every process, None where there are none for this teacher and data."""
    labels = None
    if checked.runtime.is_main:
        labels = _read(checked.folder / LABELS_FILE, _about(checked), len(checked.parts.unlabelled))
    if not agree(np.array(labels is not None)):
        return None
    return agree(np.zeros(len(checked.parts.unlabelled), np.int32) if labels is None else labels)


def _read(path: Path, about: str, num: int) -> np.ndarray | None:
    try:
        with np.load(path, allow_pickle=False) as found:
            labels, stored = found["labels"], str(found["about"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return labels.astype(np.int32) if stored == about and labels.shape == (num,) else None


def _write(path: Path, labels: np.ndarray, about: str) -> None:
    """The file is complete or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("wb") as file:
        np.savez_compressed(file, labels=labels, about=np.array(about))
    os.replace(fresh, path)


def _taught(checked: Checked, run: "Run | None") -> np.ndarray:
    """The teacher's answers, which process 0 makes and sends to the others."""
    labels, refusal = np.zeros(len(checked.parts.unlabelled), np.int32), None
    if checked.runtime.is_main:
        assert run is not None
        try:
            labels = predict_classes(run.model, run.params, run.stats, checked.parts.unlabelled)
            _write(checked.folder / LABELS_FILE, labels, _about(checked))
        except (OSError, ValueError) as error:
            refusal = error
    # The others wait in `agree`, so process 0 must reach it even where it has nothing to give.
    if agree(np.array(refusal is not None)):
        raise refusal or ValueError("Process 0 could not make the pseudo-labels.")
    return agree(labels)


def predict_classes(model: Model, params: PyTree, stats: PyTree, images: data.Images) -> np.ndarray:
    """The eval-mode argmax of every image, on one device, in batches of one shape.

    Args:
        model: takes float32 in [0, 1].
        params, stats: its weights.
        images: uint8 `[n, h, w, c]`, an array or read on demand, a batch at a time.

    Returns:
        int32 `[n]`.

    Raises:
        ValueError: where the logits of an image are not all finite.
    """

    def classify(params: PyTree, stats: PyTree, batch: Array) -> tuple[Array, Array]:
        logits = model.apply(params, stats, data.to_float(batch), train=False)[0].logits
        return jnp.argmax(logits, axis=-1).astype(jnp.int32), jnp.isfinite(logits).all(axis=-1)

    classify_fn: Any = compile_.jit(classify)
    num = len(images)
    size = min(_BATCH_SIZE, num)
    found = np.zeros(num, np.int32)
    for start in range(0, num, max(size, 1)):
        # The last batch is filled up with the last image, so that nothing is compiled twice.
        index = np.minimum(np.arange(start, start + size), num - 1)
        classes, finite = classify_fn(params, stats, jnp.asarray(images[index]))
        if not np.asarray(finite).all():
            raise ValueError(
                f"The teacher's answers to unlabelled images {start} to {index[-1]} are not all finite; "
                "train it with a smaller learning rate."
            )
        found[start : start + size] = np.asarray(classes)[: num - start]
    return found
