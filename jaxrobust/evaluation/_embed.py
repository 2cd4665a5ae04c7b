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

    def images_at(places: np.ndarray) -> np.ndarray:
        return to_float(np.asarray(identities.images[index[places]]))

    def name_of(place: int) -> str:
        image = int(index[place])
        return identities.files[image] if identities.files else f"{image} of {identities.name}"

    return _units(embed_fn, images_at, len(index), batch_size, name_of)


def embed_images(embed_fn: EmbedFn, images: np.ndarray, batch_size: int, what: str) -> np.ndarray:
    """The same of images `[m, h, w, c]`, float in [0, 1], that are in no set; `what` they are, for errors."""
    return _units(embed_fn, lambda at: images[at], len(images), batch_size, lambda i: f"{i} of {what}")


def _units(
    embed_fn: EmbedFn,
    images_at: Callable[[np.ndarray], np.ndarray],
    num: int,
    batch_size: int,
    name_of: Callable[[int], str],
) -> np.ndarray:
    found = []
    for start in range(0, num, batch_size):
        images = images_at(np.minimum(start + np.arange(batch_size), num - 1))
        out = np.asarray(embed_fn(images))
        if out.ndim != 2 or len(out) != batch_size or out.dtype.kind in "bcOSU":
            raise ValueError(
                f"The embedding function gave shape {out.shape} of {out.dtype} for {batch_size} images "
                f"{list(images.shape[1:])}; it must give real numbers [{batch_size}, d]."
            )
        out = out[: num - start].astype(np.float64)
        if not np.isfinite(out).all():
            bad = start + int(np.flatnonzero(~np.isfinite(out).all(axis=1))[0])
            raise ValueError(
                f"The embedding of image {name_of(bad)} is not finite; repair the model (it takes float32 "
                "pixels in [0, 1]), or leave the image out."
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
