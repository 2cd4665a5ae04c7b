"""Lists of pairs of images, of one person or of two: what verification is measured on."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust import _validate
from jaxrobust.data.identities import Identities, IdentityFold

_MOST = 50_000_000


class Pairs(NamedTuple):
    """Pairs of images of an `Identities`.

    Attributes:
        first: int32 `[m]`, an index of an image.
        second: int32 `[m]`, another.
        genuine: bool `[m]`, whether both are of one person; the others are impostor pairs.
        fold: int32 `[m]`, the fold to which the pair belongs: which model is asked, or which tenth of View 2.
    """

    first: np.ndarray
    second: np.ndarray
    genuine: np.ndarray
    fold: np.ndarray

    @property
    def digest(self) -> str:
        """16 hexadecimal digits of a SHA-256 over the list, in its order."""
        digest = hashlib.sha256()
        for values, dtype in zip(self, ("<i4", "<i4", "|b1", "<i4"), strict=True):
            digest.update(np.ascontiguousarray(values, np.dtype(dtype)).data)
        return digest.hexdigest()[:16]

    def at(self, index: np.ndarray) -> "Pairs":
        """The pairs at an index or under a mask."""
        return Pairs(*(values[index] for values in self))


def join_pairs(lists: Sequence[Pairs]) -> Pairs:
    """One list of several, in order."""
    return Pairs(*(np.concatenate(values) for values in zip(*lists, strict=True)))


def make_pairs(
    identities: Identities,
    people: Sequence[int] | np.ndarray | None = None,
    *,
    num_impostor: int | None = None,
    seed: int,
    fold: int = 0,
) -> Pairs:
    """All genuine pairs of some people and impostor pairs drawn from all there are, each pair once.

    Args:
        identities: the set.
        people: whose images are paired (indices into `names`); None is everyone.
        num_impostor: how many impostor pairs, drawn uniformly without repetition; None is all of them, which
            for thousands of images are millions; 100,000 of as many pairs of people resolve a FAR of 0.01%.
        seed: of the draw; the lists for growing `num_impostor` do not contain each other.
        fold: written into every pair.

    Returns:
        The `Pairs`, genuine ones first, each kind sorted, `first` < `second`. For the 10 people x 10 images
        that a fold of ORL tests: 450 genuine and 4,500 impostor pairs.

    Raises:
        ValueError: where there is no genuine or no impostor pair, more are asked for than there are, or all
            are asked for and they do not fit in memory.

    Example:
        >>> from jaxrobust.data import load_identities
        >>> pairs = make_pairs(load_identities("orl", size=8), range(10), seed=0)
        >>> int(pairs.genuine.sum()), int((~pairs.genuine).sum())
        (450, 4500)
    """
    _validate.at_least("seed", seed, 0)
    people = np.arange(identities.num_people) if people is None else np.asarray(people, np.int64)
    images = identities.images_of(people)
    # By person, so that a person's images stand together and partners are ranges of places.
    images = images[np.argsort(identities.identity[images], kind="stable")]
    whose = identities.identity[images]
    place = np.arange(len(images))
    end = np.searchsorted(whose, whose, side="right")
    mates, strangers = end - place - 1, len(images) - end
    num_genuine, num_all = int(mates.sum()), int(strangers.sum())
    if not num_genuine:
        raise ValueError(
            f"{identities.name}: none of the {len(people)} people has two images; there is no genuine pair."
        )
    if not num_all:
        raise ValueError(f"{identities.name}: the images are of one person; there is no impostor pair.")
    wanted = num_all if num_impostor is None else num_impostor
    _validate.at_least("num_impostor", wanted, 1, "FAR is measured on impostor pairs.")
    if wanted > num_all:
        raise ValueError(
            f"{identities.name}: num_impostor={num_impostor}, but these {len(people)} people have "
            f"{num_all:,} impostor pairs; ask for fewer, or None for all."
        )
    if max(wanted, num_genuine) > _MOST:
        raise ValueError(
            f"{identities.name}: {num_genuine:,} genuine and {wanted:,} impostor pairs are more than "
            f"{_MOST:,}; give num_impostor, or fewer people."
        )
    ranks = np.arange(num_all)
    if wanted < num_all:
        ranks = np.sort(np.random.default_rng(seed).choice(num_all, wanted, replace=False, shuffle=False))
    genuine = _unrank(np.arange(num_genuine), place + 1, mates)
    impostor = _unrank(ranks, end, strangers)
    both = images[np.concatenate([genuine, impostor], axis=1)].astype(np.int32)
    flags = np.arange(both.shape[1]) < num_genuine
    return Pairs(both.min(axis=0), both.max(axis=0), flags, np.full(len(flags), fold, np.int32))


def _unrank(ranks: np.ndarray, start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """`[2, r]`: the pairs of these ranks, where place i has the partners start_i .. start_i + count_i - 1."""
    total = np.cumsum(count)
    place = np.searchsorted(total, ranks, side="right")
    return np.stack([place, start[place] + ranks - (total - count)[place]])


def fold_pairs(
    identities: Identities,
    folds: Sequence[IdentityFold],
    part: str = "test",
    *,
    num_impostor: int | None = None,
    seed: int,
) -> Pairs:
    """The pairs of every fold's `part` (`train`, `validation` or `test`), joined, `Pairs.fold` its number.

    For ORL's four folds the test lists have 1,800 genuine and 18,000 impostor pairs. `num_impostor` counts
    per fold; the seed of fold i's draw is (seed, i).

    Raises:
        ValueError: as `make_pairs`, or for a part that a fold does not have.
    """
    if part not in IdentityFold._fields:
        raise ValueError(f"Unknown part {part!r} of a fold. Known: {', '.join(IdentityFold._fields)}.")
    _validate.at_least("seed", seed, 0)
    seeds = [int(np.random.default_rng((seed, i)).integers(2**31)) for i in range(len(folds))]
    return join_pairs(
        [
            make_pairs(identities, getattr(fold, part), num_impostor=num_impostor, seed=seeds[i], fold=i)
            for i, fold in enumerate(folds)
        ]
    )
