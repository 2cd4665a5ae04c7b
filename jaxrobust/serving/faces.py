"""Two faces compared, and a face looked for among those that are enrolled."""

import asyncio
from typing import Any

import numpy as np

from jaxrobust.serving.problems import Problem
from jaxrobust.serving.service import Service


async def verify(service: Service, first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """Whether two images are of one person: cos of their embeddings against the threshold."""
    while True:
        (loaded, left), (same, right) = await asyncio.gather(service.embed(first), service.embed(second))
        # Both of one model, also while another one comes.
        if same is loaded:
            break
    threshold = loaded.served.threshold
    assert threshold is not None
    similarity = _cosine(left, right)
    return {
        "model": loaded.served.id,
        "similarity": similarity,
        "threshold": threshold,
        "same_person": similarity >= threshold,
    }


async def identify(service: Service, face: np.ndarray, top: int) -> dict[str, Any]:
    """Who of the gallery it is, if anybody: the person of the nearest image, if it is over the threshold."""
    loaded, probe = await service.embed(face)
    threshold = loaded.served.threshold
    assert threshold is not None
    if loaded.gallery is None:
        raise Problem(409, "conflict", "Nobody is enrolled. Start the server with --gallery FOLDER.")
    found = await asyncio.to_thread(loaded.gallery.similarities, probe)
    near = dict(zip(loaded.gallery.names, found.tolist()))
    order = sorted(near, key=lambda name: (-near[name], name))[:top]
    best = order[0]
    return {
        "model": loaded.served.id,
        "name": best if near[best] >= threshold else None,
        "similarity": near[best],
        "threshold": threshold,
        "enrolled": len(near),
        "nearest": [{"name": name, "similarity": near[name]} for name in order],
    }


def _cosine(left: np.ndarray, right: np.ndarray) -> float:
    """Of unit vectors, as `evaluation.verify` has it."""
    return float(np.clip(np.dot(left.astype(np.float64), right.astype(np.float64)), -1, 1))
