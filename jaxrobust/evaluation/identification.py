"""Closed-set identification: is the nearest of the known faces the right person's?"""

from typing import NamedTuple

import numpy as np

from jaxrobust import _validate

_ROWS = 1024


class Rank1(NamedTuple):
    """The share of probes whose nearest gallery image is of the same person.

    Attributes:
        hits: float: with ties, each of k equally near people counts 1/k.
        num_probes: how many images were asked about.
        num_people: how many people the gallery has, which is how hard the question is.
    """

    hits: float
    num_probes: int
    num_people: int

    @property
    def rate(self) -> float:
        """hits / num_probes."""
        return self.hits / self.num_probes


def rank1(embeddings: np.ndarray, identity: np.ndarray, seed: int | None = None) -> Rank1:
    """Rank-1 identification with one gallery image a person.

    The protocol: each person's first image (or one drawn from the seed) is the gallery, all other images are
    probes, and every probe's person is in the gallery. A person with a single image is there as a distractor.

    Args:
        embeddings: `[n, d]`; compared by cosine.
        identity: int `[n]`.
        seed: draws the gallery; None takes the first image of each person.

    Returns:
        The `Rank1`. Constant embeddings reach 1 / num_people, as guessing does.

    Raises:
        ValueError: shapes that differ, NaN, fewer than two people, or no probes.

    >>> rank1(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.1]]), np.array([0, 0, 1, 1])).rate
    0.5
    """
    vectors, whose = np.asarray(embeddings, np.float64), np.asarray(identity)
    if vectors.ndim != 2 or whose.shape != vectors.shape[:1]:
        raise ValueError(
            f"Expected embeddings [n, d] and one person per row, got {vectors.shape} and {whose.shape}."
        )
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise ValueError(f"The embedding of image {row} is not finite; repair the model or leave it out.")
    order = np.arange(len(whose))
    if seed is not None:
        _validate.at_least("seed", seed, 0)
        order = np.random.default_rng(seed).permutation(len(whose))
    people, place = np.unique(whose[order], return_index=True)
    gallery = order[place]
    probes = np.setdiff1d(np.arange(len(whose)), gallery)
    if len(people) < 2 or not len(probes):
        raise ValueError(
            f"{len(people)} people with {len(probes)} images beyond the gallery's; identification needs at "
            "least two people, and one with two images."
        )
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    hits = 0.0
    for start in range(0, len(probes), _ROWS):
        rows = probes[start : start + _ROWS]
        similar = units[rows] @ units[gallery].T
        # Products of equal vectors may differ in their last bit by where they lie in the matrix.
        nearest = similar >= similar.max(axis=1, keepdims=True) - 1e-12
        own = nearest[np.arange(len(rows)), np.searchsorted(people, whose[rows])]
        hits += float(np.sum(own / nearest.sum(axis=1)))
    return Rank1(hits, len(probes), len(people))
