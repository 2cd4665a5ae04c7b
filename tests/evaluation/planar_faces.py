"""People in a plane: images of two pixels, whose direction is all there is, so that least changes are known.

f(x) = x - 1/2. A pair matches where the angle between two embeddings is at most arccos(tau); the border is
two rays on either side of the partner.
"""

import jax.numpy as jnp
import numpy as np

from jaxrobust.data import Identities, Pairs, make_pairs

CENTRE = 127.5 / 255


def embed(images):
    return images.reshape(len(images), -1) - CENTRE


def scaled_embed(factor, images):
    return factor * embed(images)


def planar_faces(num_people: int = 12, each: int = 4, spread: float = 8.0, seed: int = 0) -> Identities:
    """People every 35 degrees; their images some degrees from there, about 1/4 off the centre."""
    rng = np.random.default_rng(seed)
    identity = np.repeat(np.arange(num_people), each).astype(np.int32)
    angle = np.radians(35 * identity + rng.uniform(-spread, spread, len(identity)) + 7)
    radius = rng.uniform(0.2, 0.3, len(identity))
    points = 127.5 + 255 * radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    images = np.rint(points).astype(np.uint8).reshape(-1, 1, 2, 1)
    return Identities(images, identity, tuple(f"p{i}" for i in range(num_people)), "0" * 16, "planar")


def lists(faces: Identities) -> tuple[Pairs, Pairs]:
    """Test pairs of the first six people, validation pairs of the others."""
    return make_pairs(faces, range(6), seed=0), make_pairs(faces, range(6, 12), seed=0)


def least_changes(faces: Identities, pairs: Pairs, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """By pair the least l_inf and l_2 change of the first image that turns the decision; 0 if it is wrong.

    The distances to the nearer ray, by a search along it: at most 5e-5 too large.
    """
    points = faces.images.reshape(-1, 2).astype(np.float64) / 255 - CENTRE
    moved, still = points[pairs.first], points[pairs.second]
    start = np.arctan2(still[:, 1], still[:, 0])
    ray = start + np.arccos(tau) * np.array([[-1], [1]])
    direction = np.stack([np.cos(ray), np.sin(ray)], axis=-1)
    linf, l2 = np.full((2, len(moved)), np.inf)
    for t in np.linspace(0, 0.5, 10_001):
        apart = np.abs(moved - t * direction)
        linf = np.minimum(linf, apart.max(axis=-1).min(axis=0))
        l2 = np.minimum(l2, np.linalg.norm(apart, axis=-1).min(axis=0))
    cos = (moved * still).sum(axis=1) / np.linalg.norm(moved, axis=1) / np.linalg.norm(still, axis=1)
    right = (cos >= tau) == pairs.genuine
    return np.where(right, linf, 0), np.where(right, l2, 0)


def broken_embed(images):
    """NaN for images that have been moved off their 8-bit grid."""
    levels = images * 255
    moved = jnp.abs(levels - jnp.round(levels)).max(axis=(1, 2, 3)) > 1e-3
    return jnp.where(moved[:, None], jnp.nan, embed(images))
