"""Inversion of classes by one library in one process, asked through a pipe.

    python -m benchmarks._speed.inversion_worker ROOT MODEL LIBRARY

Both do plain gradient descent on 1 - p_y from a grey image (Fredrikson et al., CCS 2015), as many steps as
they are told. ART's MIFace goes on as long as the cost is at most its threshold *or* has grown: its test
reads inverted, so that it stops almost at once, or goes on for ever. With a threshold of 1, which no cost
exceeds, it makes exactly `max_iter` steps, in its own code.
"""

import importlib.metadata
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks._parity import store
from benchmarks._speed import problem
from benchmarks._speed.protocol import serve

OURS, ART = "ours", "art"
LEARNING_RATE = 0.1


class Side(Protocol):
    """A library's inversion of the classes `[n]` in so many steps."""

    packages: tuple[str, ...]

    def invert(self, classes: np.ndarray, steps: int) -> np.ndarray:
        """Images `[n, h, w, c]` in [0, 1]."""
        ...


class Ours:
    """This library's `invert`."""

    packages = ("jaxrobust", "jax", "jaxlib")

    def __init__(self, given: problem.Problem):
        import jax

        from benchmarks._speed import side_ours

        subject = side_ours.load(given)
        self._logits_fn, self._key = subject.logits_fn, jax.random.key(0)
        self._start = np.full(given.image_shape, 0.5, np.float32)

    def invert(self, classes: np.ndarray, steps: int) -> np.ndarray:
        """See `Side`."""
        import optax

        from jaxrobust import inversion

        method = inversion.TVInversion(
            steps=steps,
            learning_rate=LEARNING_RATE,
            total_variation=0.0,
            restarts=1,
            noise=0.0,
            decay=False,
            distance_fn=inversion.one_minus_confidence,
            optimizer_fn=optax.sgd,
        )
        found = inversion.invert(method, self._logits_fn, classes, start=self._start, key=self._key)
        return found.image


class Art:
    """The Adversarial Robustness Toolbox's `MIFace`, all images as one batch."""

    packages = ("adversarial-robustness-toolbox", "torch")

    def __init__(self, given: problem.Problem):
        import torch
        from art.estimators.classification import PyTorchClassifier

        from benchmarks._speed import _torch

        h, w, c = given.image_shape
        self._shape = (c, h, w)
        self._classifier = PyTorchClassifier(
            # Its gradients are of the model's outputs, which MIFace wants to be probabilities.
            model=torch.nn.Sequential(_torch.net_of(given), torch.nn.Softmax(dim=1)),
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=self._shape,
            nb_classes=given.logits.shape[1],
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )

    def invert(self, classes: np.ndarray, steps: int) -> np.ndarray:
        """See `Side`."""
        from art.attacks.inference.model_inversion import MIFace

        attack = MIFace(
            self._classifier,
            max_iter=steps,
            window_length=1,
            threshold=1.0,
            learning_rate=LEARNING_RATE,
            batch_size=len(classes),
            verbose=False,
        )
        start = np.full((len(classes), *self._shape), 0.5, np.float32)
        return attack.infer(start, classes).transpose(0, 2, 3, 1)


SIDES = {OURS: Ours, ART: Art}


class Session:
    """What a coordinator asks: versions, runs, and whether the images are the same."""

    def __init__(self, root: Path, model: str, library: str):
        self._side: Side = SIDES[library](problem.load(root, model))
        self._last: np.ndarray | None = None

    def about(self) -> dict[str, str]:
        """Versions."""
        return {name: importlib.metadata.version(name) for name in self._side.packages}

    def run(self, classes: list[int], steps: int) -> dict[str, Any]:
        """Seconds of one inversion of these classes."""
        began = time.perf_counter()
        self._last = self._side.invert(np.asarray(classes, np.int32), steps)
        return {"seconds": time.perf_counter() - began}

    def save(self, path: str) -> None:
        """Writes the last run's images."""
        assert self._last is not None
        store.write_arrays(Path(path), images=self._last)


if __name__ == "__main__":
    serve(Session(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
