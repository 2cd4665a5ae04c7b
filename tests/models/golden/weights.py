"""Weights and images drawn from a seed by NumPy: equal where golden files are made and read."""

import numpy as np


def state_dict(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Arrays for the names and shapes of a PyTorch state dict, with running statistics far from 0 and 1."""
    rng = np.random.Generator(np.random.PCG64(seed))
    found = {}
    for name in sorted(shapes):
        shape, draw = tuple(shapes[name]), rng.standard_normal(tuple(shapes[name]))
        if name.endswith("num_batches_tracked"):
            value = np.array(7, np.int64)
        elif name.endswith("running_var"):
            value = 0.5 + draw**2
        elif name.endswith("running_mean"):
            value = 0.3 * draw
        elif len(shape) > 1:
            value = draw * np.sqrt(2 / np.prod(shape[1:]))
        elif name.endswith("weight"):
            value = 1 + 0.2 * draw
        else:
            value = 0.1 * draw
        found[name] = value if value.dtype == np.int64 else value.astype(np.float32)
    return found


def images(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Images `[b, h, w, c]`, float32 in [0, 1]."""
    return np.random.Generator(np.random.PCG64(seed)).random(shape, np.float32)
