"""Regions that a map did not choose: what the salient region is compared with. NumPy, on the host."""

from typing import Any

import numpy as np

from jaxrobust import _validate
from jaxrobust.saliency._arrays import as_inside


def rolled(inside: Any, *, seed: int) -> np.ndarray:
    """Each region moved to a random place, with its shape and size.

    The shift is uniform over all but none at all, and goes round the borders, where a region may be cut in
    two. Row i draws from (seed, i), whatever the number of rows.

    Args:
        inside: bool `[b, h, w]`.
        seed: >= 0.

    Returns:
        bool `[b, h, w]`.

    Raises:
        ValueError: for images of a single pixel, which leave no other place.

    >>> inside = np.zeros((1, 4, 4), bool)
    >>> inside[0, 0, :2] = True
    >>> moved = rolled(inside, seed=0)
    >>> int(moved.sum()), bool((moved != inside).any())
    (2, True)
    """
    inside = as_inside(inside)
    _validate.at_least("seed", seed, 0)
    _, h, w = inside.shape
    if h * w < 2:
        raise ValueError(f"Expected regions of at least two pixels to move in, got {h}x{w}.")
    shifts = [np.random.default_rng((seed, i)).integers(1, h * w) for i in range(len(inside))]
    return np.stack([np.roll(row, divmod(int(at), w), axis=(0, 1)) for row, at in zip(inside, shifts)])


def from_others(inside: Any, groups: Any = None, *, seed: int) -> np.ndarray:
    """Each row gets the region of another: a random permutation of the regions.

    Args:
        inside: bool `[b, h, w]`.
        groups: `[b]`, whose regions these are: a row gets one of another group (another identity's). None:
            of another row.
        seed: >= 0.

    Returns:
        bool `[b, h, w]`; every region is used once.

    Raises:
        ValueError: where a group has more than half of the rows.

    >>> from_others(np.array([[[True, False]], [[False, True]]]), seed=0).tolist()
    [[[False, True]], [[True, False]]]
    """
    inside = as_inside(inside)
    num = len(inside)
    groups = np.arange(num) if groups is None else np.asarray(groups)
    if groups.shape != (num,):
        raise ValueError(f"Expected groups [{num}], one per region, got shape {list(groups.shape)}.")
    _validate.at_least("seed", seed, 0)
    rng = np.random.default_rng(seed)
    names, group = np.unique(groups, return_inverse=True)
    most = int(np.bincount(group).max())
    if 2 * most > num:
        raise ValueError(
            f"Expected no group with more than half of the regions, got {most} of {num} in one: they cannot "
            "all get another group's. Take more groups, or fewer rows of that one."
        )
    # Groups one after the other, in random order within and among them: `most` places on is another group.
    order = np.lexsort((rng.permutation(num), rng.permutation(len(names))[group]))
    given = np.empty_like(inside)
    given[order] = inside[np.roll(order, -most)]
    return given


def centre_disc(inside: Any) -> np.ndarray:
    """For each region the disc about the image's centre with exactly as many pixels.

    Pixels by their distance from the centre; of equal ones those of the smaller index.

    Args:
        inside: bool `[b, h, w]`.

    Returns:
        bool `[b, h, w]`.

    >>> centre_disc(np.array([[[True, False, False]]])).tolist()
    [[[False, True, False]]]
    """
    inside = as_inside(inside)
    _, h, w = inside.shape
    # Twice the offsets, so that they are whole numbers and equal distances compare equal.
    down, across = 2 * np.arange(h) - (h - 1), 2 * np.arange(w) - (w - 1)
    order = np.argsort((down[:, None] ** 2 + across**2).ravel(), kind="stable")
    ranks = np.empty(h * w, int)
    ranks[order] = np.arange(h * w)
    return ranks.reshape(h, w) < inside.sum(axis=(1, 2))[:, None, None]
