"""People as smooth patterns with a little noise, and what inverse models of all kinds would make of them."""

import numpy as np

from jaxrobust.data import Identities

SHAPE = (16, 14, 1)


def invented_faces(num_people: int = 24, each: int = 4, seed: int = 0) -> Identities:
    """Every person a random smooth pattern; their images differ by noise and brightness."""
    rng = np.random.default_rng(seed)
    rows, columns = np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])
    identity = np.repeat(np.arange(num_people), each).astype(np.int32)
    places = rng.uniform((-1, -1, 0), (1, 1, 6), (20, 3))
    waves = np.stack([np.sin(a * rows + b * columns + p) for a, b, p in places])
    patterns = np.einsum("pk,khw->phw", rng.normal(size=(num_people, 20)), waves)[identity]
    images = 120 + 14 * patterns + 6 * rng.normal(size=(len(identity), *SHAPE[:2]))
    images += 10 * rng.normal(size=(len(identity), 1, 1))
    pixels = np.clip(np.rint(images), 0, 255).astype(np.uint8)[..., None]
    names = tuple(f"p{i}" for i in range(num_people))
    return Identities(pixels, identity, names, "0" * 16, "invented")


def pixels(faces: Identities, people) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 in [0, 1] of some people, and whose they are."""
    index = faces.images_of(people)
    return (faces.images[index] / 255).astype(np.float32), faces.identity[index]
