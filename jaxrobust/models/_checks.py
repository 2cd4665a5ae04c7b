"""Checks of modules, image shapes and images, made before any compilation."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.types import Array

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""The compute dtypes by name. float16 is left out: its gradients underflow without loss scaling."""


def check_image_shape(image_shape: Any) -> tuple[int, int, int]:
    """`(h, w, c)` as a tuple of positive ints, or ValueError."""
    try:
        h, w, c = image_shape
    except (TypeError, ValueError):
        raise ValueError(f"Expected image_shape=(h, w, c), got {image_shape!r}.") from None
    for name, value in (("height", h), ("width", w), ("channels", c)):
        _validate.at_least(name, value, 1, f"image_shape is {image_shape}.")
    return int(h), int(w), int(c)


def check_images(x: Array, image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError unless `x` is a batch of floating-point images of that shape."""
    if x.ndim != 4 or x.shape[1:] != image_shape:
        one = x.shape == image_shape
        hint = "Add a batch axis: x[None]." if one else "The model was built for this shape."
        expected = ", ".join(str(n) for n in image_shape)
        raise ValueError(f"Expected images of shape [b, {expected}], got {list(x.shape)}. {hint}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"Expected float images in [0, 1], got {x.dtype}. Divide 8-bit images by 255.")


def check_fields(module: nn.Module, image_shape: tuple[int, int, int]) -> None:
    """The checks that all nets share, then the net's own."""
    name, (h, w, _) = type(module).__name__, image_shape
    if not hasattr(module, "num_classes"):
        raise ValueError(f"Expected a module with a field num_classes; {name} has none.")
    _validate.at_least("num_classes", module.num_classes, 2)
    _validate.member("dtype", getattr(module, "dtype", "float32"), DTYPES)
    least = getattr(module, "min_size", 1)
    if min(h, w) < least:
        raise ValueError(
            f"Expected images of at least {least}x{least} for {name}, got {h}x{w}. "
            "Choose a net for smaller images."
        )
    check_normalisation(getattr(module, "mean", ()), getattr(module, "std", ()), image_shape)
    if hasattr(module, "check"):
        module.check(image_shape)


def check_normalisation(mean: Any, std: Any, image_shape: tuple[int, int, int]) -> None:
    """Raises ValueError unless mean and std are both empty, or both tuples of one number (per channel)."""
    if not isinstance(mean, tuple) or not isinstance(std, tuple):
        raise ValueError(f"Expected mean and std to be tuples, got mean={mean!r}, std={std!r}.")
    if len(mean) != len(std):
        raise ValueError(f"Expected both or neither of mean and std, got mean={mean}, std={std}.")
    if len(mean) not in (0, 1, image_shape[2]):
        raise ValueError(
            f"Expected {image_shape[2]} channels' values in mean and std for images of shape {image_shape}, "
            f"got {len(mean)}: {mean}. Give one per channel, or one for all."
        )
    for value in std:
        _validate.positive("std", value, "mean and std are in units of pixels in [0, 1].")
