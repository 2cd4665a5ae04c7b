"""The semi-supervised split: who keeps a label, who loses it, who is held out for choices."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from jaxrobust import _validate
from jaxrobust.data._sets import Images, ImageSet, pixels_only, take, take_set

SelectFn: TypeAlias = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""`select_fn(order [n], labels [n], num) -> indices [num]`; `order` is a permutation drawn from the seed."""


class Split(NamedTuple):
    """A training set divided for semi-supervised training.

    There is no label of `unlabelled` in here. Of images that are read on demand, the reader gives pixels and
    nothing else: neither the records' labels nor the folders that the files lie in.

    Attributes:
        labelled: the images that keep their labels, D_L.
        unlabelled: images only, uint8 `[n_u, h, w, c]`, D_U.
        validation: for choosing checkpoints and settings; disjoint from both.
        indices: which training images went where: `labelled`, `unlabelled`, `validation`.
        pseudo_labels: int32 `[n_u]`, a teacher's class of each unlabelled image, or None. `split` gives None:
            they come from a model, not from the data.
    """

    labelled: ImageSet
    unlabelled: Images
    validation: ImageSet
    indices: dict[str, np.ndarray]
    pseudo_labels: np.ndarray | None = None


def select_first(order: np.ndarray, labels: np.ndarray, num: int) -> np.ndarray:
    """The first images of the set, as in the reference code of SRT."""
    return np.arange(num)


def select_random(order: np.ndarray, labels: np.ndarray, num: int) -> np.ndarray:
    """Images drawn at random, whatever their class."""
    return order[:num]


def select_stratified(order: np.ndarray, labels: np.ndarray, num: int) -> np.ndarray:
    """Images drawn at random with each class in its proportion (largest remainders), at least one of each."""
    classes, counts = np.unique(labels, return_counts=True)
    if num < len(classes):
        raise ValueError(
            f"A stratified selection needs at least one labelled image per class: got num_labelled={num} for "
            f"{len(classes)} classes. Label more, or select at random."
        )
    shares = num * counts / len(labels)
    quota = np.maximum(np.floor(shares).astype(int), 1)
    while quota.sum() != num:
        step = 1 if quota.sum() < num else -1
        # Where the floor of one image pushed the sum too high, the classes furthest above their share give
        # back.
        gap = np.where(quota + step > 0, step * (shares - quota), -np.inf)
        quota[int(np.argmax(np.where(quota + step <= counts, gap, -np.inf)))] += step
    ordered = labels[order]
    return np.concatenate([order[ordered == c][:q] for c, q in zip(classes, quota, strict=True)])


SELECTIONS: Mapping[str, SelectFn] = {
    "first": select_first,
    "random": select_random,
    "stratified": select_stratified,
}


def _check_counts(num: int, num_labelled: int, num_unlabelled: int | None, num_validation: int) -> None:
    """Raises ValueError where the parts do not fit into the training set."""
    _validate.at_least("num_labelled", num_labelled, 1, "Training needs labelled images.")
    _validate.at_least("num_validation", num_validation, 0)
    if num_unlabelled is not None:
        _validate.at_least("num_unlabelled", num_unlabelled, 0)
    wanted = num_labelled + num_validation + (num_unlabelled or 0)
    if wanted > num:
        raise ValueError(
            f"The training set has {num} images, but num_labelled={num_labelled} + "
            f"num_unlabelled={num_unlabelled or 0} + num_validation={num_validation} = {wanted} are asked "
            "for; ask for fewer."
        )


def split(
    train: ImageSet,
    *,
    num_labelled: int,
    num_unlabelled: int | None = None,
    num_validation: int = 0,
    selection: str = "random",
    seed: int,
) -> Split:
    """Splits a training set into labelled, unlabelled and validation images.

    For one seed, unlabelled sets of growing size contain each other, and so do labelled ones (but for the
    rounding of classes' shares), so that a curve over sizes adds images and changes none.

    Args:
        train: the training images.
        num_labelled: |D_L|.
        num_unlabelled: |D_U|; None takes all that is left.
        num_validation: images held out, with their labels.
        selection: which images stay labelled: `first`, `random` or `stratified`, see `SELECTIONS`.
        seed: draws all of it.

    Returns:
        The `Split`.

    Raises:
        ValueError: where the numbers do not fit the set, or the labelled images would all be of one class.

    Example:
        >>> import numpy as np
        >>> train = ImageSet(np.zeros((10, 2, 2, 1), np.uint8), np.arange(10, dtype=np.int32) % 2)
        >>> parts = split(train, num_labelled=4, num_validation=2, selection="stratified", seed=0)
        >>> parts.labelled.labels.shape, parts.unlabelled.shape, parts.validation.labels.shape
        ((4,), (4, 2, 2, 1), (2,))
    """
    num, labels = len(train.images), np.asarray(train.labels)
    _check_counts(num, num_labelled, num_unlabelled, num_validation)
    select_fn = _validate.member("selection", selection, SELECTIONS)
    order = np.random.default_rng(seed).permutation(num)
    labelled = np.sort(select_fn(order, labels, num_labelled))
    if num_labelled > 1 and len(np.unique(labels[labelled])) < 2 <= len(np.unique(labels)):
        raise ValueError(
            f"The {num_labelled} labelled images chosen by selection={selection!r} all belong to class "
            f"{int(labels[labelled[0]])}; use selection='stratified'."
        )
    rest = order[~np.isin(order, labelled)]
    validation = np.sort(rest[len(rest) - num_validation :])
    rest = rest[: len(rest) - num_validation]
    if select_fn is select_first:
        rest = np.sort(rest)
    unlabelled = np.sort(rest[:num_unlabelled])
    return Split(
        labelled=take_set(train, labelled),
        unlabelled=pixels_only(take(train.images, unlabelled)),
        validation=take_set(train, validation),
        indices={"labelled": labelled, "unlabelled": unlabelled, "validation": validation},
    )
