"""Checks what a user hands to `jaxrobust.attack`, on the host, before anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.numerics.losses import check_labels
from jaxrobust.types import Array

_TOLERANCE = 1e-6


def check_key(key: Any) -> None:
    """Raises ValueError unless `key` is one typed key."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape:
        raise ValueError(f"Expected key to be one typed key, got {key!r}. Use jax.random.key(seed).")


def check_images(x: Any) -> Array:
    """Images as float32 `[b, h, w, c]` in [0, 1], or a ValueError."""
    x = x if isinstance(x, jax.Array) else np.asarray(x)
    if x.ndim != 4:
        hint = "Add an axis for the batch: x[None]." if x.ndim == 3 else "Images are [b, h, w, c]."
        raise ValueError(f"Expected x of rank 4, got shape {x.shape}. {hint}")
    if 0 in x.shape:
        raise ValueError(f"Expected at least one image and pixel, got x of shape {x.shape}.")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"Expected x of a float dtype, got {x.dtype}. Convert 8-bit images by x / 255.")
    low, high, nans = jax.device_get((x.min(), x.max(), jnp.isnan(x).sum()))
    if nans:
        raise ValueError(f"Expected x without NaN, got {int(nans)} NaN pixels. Remove those images.")
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise ValueError(
            f"Expected x in [0, 1], got values from {float(low):g} to {float(high):g}. Attack the pixels, "
            "with the normalisation inside the model; x / 255 for 8-bit pixels."
        )
    return jnp.clip(jnp.asarray(x, jnp.float32), 0.0, 1.0)


def check_targets(y: Any, num_images: int, num_classes: int) -> Array:
    """Classes int32 `[b]` or distributions float32 `[b, k]`, or a ValueError."""
    y = np.asarray(jax.device_get(y))
    if y.ndim not in (1, 2) or y.shape[0] != num_images:
        raise ValueError(
            f"Expected y of shape [{num_images}] or [{num_images}, {num_classes}], one row per image, "
            f"got {y.shape}."
        )
    if y.ndim == 1:
        check_labels(y, num_classes)
        return jnp.asarray(y, jnp.int32)
    if y.shape[1] != num_classes or not np.issubdtype(y.dtype, np.floating):
        raise ValueError(
            f"Expected distributions y of shape [{num_images}, {num_classes}] and a float dtype, got "
            f"{y.shape} of {y.dtype}. The model has {num_classes} classes; labels are "
            f"integers of shape [{num_images}]."
        )
    wrong = ~((y >= 0).all(axis=1) & (np.abs(y.sum(axis=1) - 1) < 1e-3))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"Expected rows of y >= 0 that sum to 1, got {y[row]} in row {row}. Normalise them.")
    return jnp.asarray(y, jnp.float32)


def check_mask(mask: Any, images: Array) -> Array | None:
    """Regions as float32 `[b, h, w, 1]` of zeros and ones, or a ValueError; None where there are none."""
    if mask is None:
        return None
    b, h, w, _ = images.shape
    mask = np.asarray(jax.device_get(mask))
    shapes = {(h, w): mask[None, ..., None], (h, w, 1): mask[None], (b, h, w): mask[..., None]}
    full = mask if mask.shape == (b, h, w, 1) else shapes.get(mask.shape) if mask.ndim < 4 else None
    if full is None:
        raise ValueError(f"Expected mask of shape [{b}, {h}, {w}, 1] or [{h}, {w}, 1], got {mask.shape}.")
    if not np.isin(mask, (0, 1)).all():
        raise ValueError("Expected mask of zeros and ones (or bools): 1 where the image may change.")
    return jnp.broadcast_to(jnp.asarray(full, jnp.float32), (b, h, w, 1))


def check_embeddings(embeddings: Any, num_images: int, what: str) -> None:
    """Raises ValueError unless these (perhaps abstract) embeddings are float `[b, d]`."""
    shape, dtype = getattr(embeddings, "shape", None), getattr(embeddings, "dtype", np.dtype(object))
    if shape is None or len(shape) != 2 or shape[0] != num_images or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"Expected {what} [{num_images}, d] of a float dtype for {num_images} images, got "
            f"{embeddings if shape is None else f'{dtype} of shape {tuple(shape)}'}."
        )


def check_logits(logits: Any, num_images: int) -> int:
    """The number of classes of abstract logits `[b, k]`, or a ValueError."""
    shape, dtype = getattr(logits, "shape", None), getattr(logits, "dtype", np.dtype(object))
    if shape is None or len(shape) != 2 or shape[0] != num_images or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"Expected logits_fn to give float logits [{num_images}, k] for {num_images} images, got "
            f"{logits if shape is None else f'{dtype} of shape {shape}'}. Wrap it in a function that gives "
            "the logits alone."
        )
    if shape[1] < 2:
        raise ValueError(
            f"Expected logits of at least 2 classes, got shape {shape}. For one score z, give the "
            "logits (-z/2, z/2)."
        )
    return shape[1]
