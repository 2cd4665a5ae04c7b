"""What reconstructions are measured on, and the checks of it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust import _validate
from jaxrobust.evaluation.attackers import check_two_images
from jaxrobust.evaluation.critics import Critic
from jaxrobust.numerics.fidelity import check_window


class Reconstructed(NamedTuple):
    """Images and what was made of their features.

    Attributes:
        images: `[n, h, w, c]`, float in [0, 1].
        reconstructions: the same shape.
        identity: int `[n]`, whose they are, the same numbers in all folds; of classifiers the class.
        subjects: int `[n]`, what the bootstrap resamples; None for the people. Of classifiers each image is
            one, as ten classes are no sample.
    """

    images: np.ndarray
    reconstructions: np.ndarray
    identity: np.ndarray
    subjects: np.ndarray | None = None


class AttackedFold(NamedTuple):
    """One model, one attacker, and his victims.

    Attributes:
        victims: whom neither attacker nor critics have seen.
        held_out: the attacker's own people whom the inverse model was not trained on; two images each.
        mean_face: `[h, w, c]`, the mean of the attacker's images.
        features: `[n, ...]` of the victims, as published.
        critics: by name, the same in all folds, each with this fold's threshold.
    """

    victims: Reconstructed
    held_out: Reconstructed
    mean_face: np.ndarray
    features: np.ndarray
    critics: Mapping[str, Critic]


def check_folds(
    folds: Sequence[AttackedFold],
    judge: str,
    num_pairs: int | None,
    window: int,
    batch_size: int,
    seed: int,
) -> None:
    """The checks of `measure_reconstructions`' arguments."""
    if not folds:
        raise ValueError("Expected at least one fold of victims, got none.")
    _validate.at_least("batch_size", batch_size, 1)
    _validate.at_least("seed", seed, 0)
    if num_pairs is not None:
        _validate.at_least("num_pairs", num_pairs, 1, "None takes all.")
    for number, fold in enumerate(folds):
        if set(fold.critics) != set(folds[0].critics):
            raise ValueError(
                f"Fold {number} has the critics {_validate.listing(fold.critics)}, fold 0 "
                f"{_validate.listing(folds[0].critics)}; give all folds the same."
            )
        for what, given in (("victims", fold.victims), ("held-out attackers", fold.held_out)):
            _check_one(f"{what} of fold {number}", given, np.shape(fold.mean_face))
        if len(fold.features) != len(fold.victims.images) or not np.isfinite(fold.features).all():
            raise ValueError(
                f"Expected finite features of the {len(fold.victims.images)} images of victims in fold "
                f"{number}, got {len(fold.features)} rows, or NaN."
            )
        check_window(np.shape(fold.mean_face), window, 1.5)
    _validate.member("critic", judge, folds[0].critics)


def _check_one(what: str, given: Reconstructed, shape: tuple[int, ...]) -> None:
    images, made = np.asarray(given.images), np.asarray(given.reconstructions)
    if images.ndim != 4 or images.shape != made.shape or images.shape[1:] != shape:
        raise ValueError(
            f"Expected images and reconstructions [n, {', '.join(map(str, shape))}] of the {what}, as the "
            f"mean face has it, got {list(images.shape)} and {list(made.shape)}."
        )
    for name, pixels in (("images", images), ("reconstructions", made)):
        if pixels.dtype.kind != "f" or not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            raise ValueError(f"Expected {name} of the {what} as floats in [0, 1]; divide 8-bit ones by 255.")
    for name, numbers in (("identity", given.identity), ("subjects", given.subjects)):
        if numbers is not None and np.shape(numbers) != images.shape[:1]:
            raise ValueError(f"Expected one {name} per image of the {what}, got {list(np.shape(numbers))}.")
    if len(np.unique(given.identity)) < 2:
        raise ValueError(f"The {what} are one person; who is whose reconstruction needs two.")
    check_two_images(np.asarray(given.identity))
