"""Checks what a user hands to the front end, on the host, before anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _validate
from jaxrobust.saliency._passes import check_baseline
from jaxrobust.saliency._types import SaliencyMap
from jaxrobust.types import Array, Example

_TOLERANCE = 1e-6


def check_map(method: Any) -> None:
    """Raises ValueError unless it is a saliency map, configured and hashable."""
    if isinstance(method, type) or not isinstance(method, SaliencyMap):
        raise ValueError(f"Expected a saliency map, e.g. Occlusion(window=8, stride=4), got {method!r}.")
    try:
        hash(method)
    except TypeError:
        raise ValueError(
            f"Expected a hashable saliency map, got {method!r}. Its fields must be numbers and functions; "
            "arrays go into baseline."
        ) from None


def as_key(method: Any, key: Any) -> Array | None:
    """The key, or a ValueError; None for maps that draw nothing, which may do without."""
    if key is None:
        if getattr(method, "random", False):
            raise ValueError(f"{type(method).__name__} draws at random: give key=jax.random.key(seed).")
        return None
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape:
        raise ValueError(f"Expected key to be one typed key, got {key!r}. Use jax.random.key(seed).")
    return key


def as_example(x: Any, targets: Any, references: Any) -> Example:
    """The rows as an example, or a ValueError."""
    images = _images("x", x, 4)
    num = images.shape[0]
    if targets is None:
        targets = np.zeros(num, np.int32)
    targets = np.asarray(jax.device_get(targets))
    if targets.shape != (num,) or not np.issubdtype(targets.dtype, np.integer) or (targets < 0).any():
        raise ValueError(
            f"Expected targets to be classes >= 0, integers [{num}], one per image, got {targets.dtype} of "
            f"shape {list(targets.shape)}."
        )
    if references is not None:
        references = np.asarray(jax.device_get(references))
        if references.ndim != 2 or len(references) != num or references.dtype.kind != "f":
            raise ValueError(
                f"Expected references to be embeddings [{num}, d] of a float dtype, one per image, got "
                f"{references.dtype} of shape {list(references.shape)}."
            )
        if not np.isfinite(references).all():
            raise ValueError("Expected finite references, got NaN or infinity. Repair the model.")
        references = references.astype(np.float32)
    return Example(images, targets.astype(np.int32), reference=references)


def as_baseline(baseline: Any, example: Example) -> Any:
    """The baseline as float32, of one of the shapes of `SaliencyMap`, in [0, 1]; or a ValueError."""
    check_baseline(np.shape(baseline), example.image.shape)
    return _images("baseline", baseline if np.ndim(baseline) else np.float32(baseline), None)


def as_maps(maps: Any, example: Example) -> Any:
    """Maps `[b, h, w]` for these images, finite; or a ValueError."""
    shape = example.image.shape[:3]
    if np.shape(maps) != shape:
        raise ValueError(f"Expected maps {list(shape)}, one per image, got shape {list(np.shape(maps))}.")
    check_finite(maps, "maps")
    return np.asarray(maps, np.float32)


def check_finite(values: Any, what: str) -> None:
    """Raises ValueError for rows that are not finite, and says where such come from."""
    values = np.asarray(values)
    wrong = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"Expected finite {what}, got NaN or infinity in {len(wrong)} of {len(values)} rows, first in "
            f"row {wrong[0]}. The target gives NaN where the model does, and for classes it has not."
        )


def check_rows(rows: int | None) -> None:
    """Raises ValueError for a number of rows below 1."""
    if rows is not None:
        _validate.at_least("rows", rows, 1, "None takes all images at once.")


def _images(name: str, x: Any, rank: int | None) -> Any:
    """Float32 in [0, 1], without NaN, on the host or the device as it came; or a ValueError."""
    x = x if isinstance(x, jax.Array) else np.asarray(x)
    if rank is not None and x.ndim != rank:
        hint = "Add an axis for the batch: x[None]." if x.ndim == 3 else "Images are [b, h, w, c]."
        raise ValueError(f"Expected {name} of rank {rank}, got shape {list(x.shape)}. {hint}")
    if 0 in x.shape:
        raise ValueError(f"Expected at least one image and pixel, got {name} of shape {list(x.shape)}.")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"Expected {name} of a float dtype, got {x.dtype}. Convert 8-bit images by / 255.")
    numpy: Any = jnp if isinstance(x, jax.Array) else np
    low, high, nans = jax.device_get((x.min(), x.max(), numpy.isnan(x).sum()))
    if nans:
        raise ValueError(f"Expected {name} without NaN, got {int(nans)} NaN pixels. Remove those images.")
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise ValueError(
            f"Expected {name} in [0, 1], got values from {float(low):g} to {float(high):g}. Give pixels, "
            "with the normalisation inside the model; / 255 for 8-bit pixels."
        )
    return numpy.clip(x.astype(np.float32), 0.0, 1.0)
