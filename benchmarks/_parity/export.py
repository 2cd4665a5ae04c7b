"""SmallCNN's weights for PyTorch and for plain JAX, from the library's own parameters."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from benchmarks import _small_cnn
from benchmarks._parity import store
from jaxrobust.models import SmallCNN

LAYERS = ("conv1", "conv2", "conv3", "conv4", "fc1", "fc2", "fc3")


def to_plain(params: Mapping[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(kernel, bias) per layer, HWIO and `[in, out]`: a pytree without any module."""
    return [(np.asarray(params[name]["kernel"]), np.asarray(params[name]["bias"])) for name in LAYERS]


def plain_logits(params: list[tuple[Any, Any]], images: Any) -> Any:
    """`images [b, h, w, c] -> logits [b, k]` in functions alone, with our convolution and pooling."""
    return _small_cnn.logits(_small_cnn.OURS, params, images)


def naive_logits(params: list[tuple[Any, Any]], images: Any) -> Any:
    """The same with JAX's own convolution and pooling, many times slower to differentiate on CPU."""
    return _small_cnn.logits(_small_cnn.NAIVE, params, images)


def to_torch(
    params: Mapping[str, Any], module: SmallCNN, image_shape: tuple[int, int, int]
) -> dict[str, np.ndarray]:
    """A state dict in PyTorch's layout (OIHW, `[out, in]`, flattened channels first), with TRADES' names."""
    flattened = module.torch_flattened(image_shape)
    found = {}
    for name, (kernel, bias) in zip(LAYERS, to_plain(params)):
        if name in flattened:
            h, w, c = flattened[name]
            kernel = kernel.reshape(h, w, c, -1).transpose(2, 0, 1, 3).reshape(h * w * c, -1)
        kernel = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
        prefix = module.torch_prefix(name)
        found[f"{prefix}.weight"], found[f"{prefix}.bias"] = np.ascontiguousarray(kernel), bias
    return found


def load_plain(folder: Path) -> functools.partial:
    """The exported plain-JAX classifier `images -> logits`, its weights as arguments of the partial."""
    arrays = store.read_arrays(folder / "weights.npz")
    plain = [(jnp.asarray(arrays[f"{name}.k"]), jnp.asarray(arrays[f"{name}.b"])) for name in LAYERS]
    return functools.partial(plain_logits, plain)
