"""Images and weights of the training benchmark: random, for speed does not depend on them. NumPy alone."""

from typing import Any

import numpy as np

SHAPE = (28, 28, 1)
_CONVOLUTIONS = ((3, 3, 1, 32), (3, 3, 32, 32), (3, 3, 32, 64), (3, 3, 64, 64))
_DENSE = ((1024, 200), (200, 200), (200, 10))


def images(settings: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 `[n, h, w, c]` labelled, their labels `[n]`, and unlabelled ones."""
    rng = np.random.default_rng(0)
    labelled = rng.integers(0, 256, (settings["num_labelled"], *SHAPE), np.uint8)
    unlabelled = rng.integers(0, 256, (settings["num_unlabelled"], *SHAPE), np.uint8)
    return labelled, rng.integers(0, 10, len(labelled)).astype(np.int32), unlabelled


def state_dict() -> dict[str, np.ndarray]:
    """SmallCNN's weights of He's scale by TRADES' names, in PyTorch's layout."""
    rng = np.random.default_rng(1)
    found = {}
    for n, (height, width, before, after) in enumerate(_CONVOLUTIONS, 1):
        scale = np.sqrt(2 / (height * width * before))
        kernel = rng.normal(0, scale, (after, before, height, width))
        found[f"feature_extractor.conv{n}.weight"] = kernel.astype(np.float32)
        found[f"feature_extractor.conv{n}.bias"] = np.zeros(after, np.float32)
    for n, (before, after) in enumerate(_DENSE, 1):
        kernel = rng.normal(0, np.sqrt(2 / before), (after, before))
        found[f"classifier.fc{n}.weight"] = kernel.astype(np.float32)
        found[f"classifier.fc{n}.bias"] = np.zeros(after, np.float32)
    return found


def nudge(shape: tuple[int, ...], size: float) -> np.ndarray:
    """A start beside the clean image, the same for everybody: `[h, w, c]`, at most `size` long."""
    return (size * np.cos(np.arange(np.prod(shape)))).reshape(shape).astype(np.float32)
