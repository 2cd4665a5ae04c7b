"""What regions, controls and agreement take: maps and regions as NumPy arrays, checked."""

from typing import Any

import jax
import numpy as np


def as_maps(maps: Any) -> np.ndarray:
    """Float64 `[b, h, w]`, finite; or a ValueError."""
    maps = np.asarray(jax.device_get(maps))
    if maps.ndim != 3 or 0 in maps.shape:
        hint = "Add an axis for the batch: maps[None]." if maps.ndim == 2 else "One map per image."
        raise ValueError(f"Expected maps [b, h, w], got shape {list(maps.shape)}. {hint}")
    if maps.dtype.kind != "f":
        raise ValueError(f"Expected maps of a float dtype, got {maps.dtype}. Convert them to float32.")
    wrong = np.flatnonzero(~np.isfinite(maps).all(axis=(1, 2)))
    if len(wrong):
        raise ValueError(
            f"Expected finite maps, got NaN or infinity in {len(wrong)} of {len(maps)}, the first in row "
            f"{wrong[0]}. Remove those images, or repair the model."
        )
    return maps.astype(np.float64)


def as_inside(inside: Any) -> np.ndarray:
    """Bool `[b, h, w]`; or a ValueError."""
    inside = np.asarray(jax.device_get(inside))
    if inside.ndim != 3 or 0 in inside.shape:
        hint = "Add an axis for the batch: inside[None]." if inside.ndim == 2 else "One region per image."
        raise ValueError(f"Expected regions [b, h, w], got shape {list(inside.shape)}. {hint}")
    if inside.dtype != bool:
        raise ValueError(f"Expected regions of bools, got {inside.dtype}. Compare with a level: mask > 0.5.")
    return inside
