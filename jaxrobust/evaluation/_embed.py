"""Embeddings of images by any callable, in batches of one size, and the cosines of pairs."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from jaxrobust.data import Identities, to_float

EmbedFn: TypeAlias = Callable[[Any], Any]
"""`embed_fn(images float32 [b, h, w, c] in [0, 1]) -> embeddings [b, d]`, of any length."""

_NUMBERS = 2**22


def embed(embed_fn: EmbedFn, identities: Identities, index: np.ndarray, batch_size: int) -> np.ndarray:
    """float32 `[m, d]`, of length 1, of the images at `index`; an embedding of length 0 stays 0.

    The last batch is filled up, so that a jitted function is compiled once.
    """
    found = []
    for start in range(0, len(index), batch_size):
        rows = index[start : start + batch_size]
        full = np.concatenate([rows, np.repeat(rows[-1:], batch_size - len(rows))])
        out = np.asarray(embed_fn(to_float(np.asarray(identities.images[full]))))
        if out.ndim != 2 or len(out) != batch_size or out.dtype.kind in "bcOSU":
            raise ValueError(
                f"The embedding function gave shape {out.shape} of {out.dtype} for {batch_size} images "
                f"{list(identities.images.shape[1:])}; it must give real numbers [{batch_size}, d]."
            )
        out = out[: len(rows)].astype(np.float64)
        if not np.isfinite(out).all():
            bad = int(rows[np.flatnonzero(~np.isfinite(out).all(axis=1))[0]])
            which = identities.files[bad] if identities.files else f"{bad} of {identities.name}"
            raise ValueError(
                f"The embedding of image {which} is not finite; repair the model (it takes float32 pixels in "
                "[0, 1]), or leave the image out."
            )
        length = np.linalg.norm(out, axis=1, keepdims=True)
        found.append(np.divide(out, length, out=np.zeros_like(out), where=length > 0).astype(np.float32))
    return np.concatenate(found)


def cosines(units: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """float64 `[m]` in [-1, 1]: products of rows of length 1, in chunks."""
    chunk = max(1, _NUMBERS // units.shape[1])
    out = np.empty(len(first))
    for start in range(0, len(first), chunk):
        part = slice(start, start + chunk)
        left, right = (units[rows[part]].astype(np.float64) for rows in (first, second))
        out[part] = np.einsum("id,id->i", left, right)
    return np.clip(out, -1, 1)
