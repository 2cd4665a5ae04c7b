"""Whose faces a run trains on, which it chooses by and which it is judged on: one fold of a set of people."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxrobust import _validate, data
from jaxrobust.data import Identities, IdentityFold, Pairs, Split


@dataclass(frozen=True, kw_only=True, eq=False)
class Faces(data.Dataset):
    """A fold as classes: `train` holds the people of the training part, `test` those of the test part.

    Attributes:
        config: by which they were divided.
        identities: everyone.
        folds: all folds.
        part: this run's fold; `part.train` in the order of the classes.
        unlabelled: people of the training part whose images come without labels, and are no class.
    """

    config: "FaceData"
    identities: Identities
    folds: tuple[IdentityFold, ...]
    part: IdentityFold
    unlabelled: np.ndarray


@dataclass(frozen=True, kw_only=True)
class FaceData:
    """A set of people and one of its folds, which share nobody.

    Args:
        dataset: what `jaxrobust.data.load_identities` takes: `orl`, `folder:PATH`, `lfw`.
        num_folds: into how many folds people are divided, each tested in exactly one.
        fold: which of them this run is.
        num_validation: people held out of training in each fold, for thresholds and for choosing checkpoints.
        num_unlabelled: people of the training part whose images are given without labels (`FaceSRT`).
        num_impostor: impostor pairs drawn for validation and test each; None takes all there are.
        seed: draws folds and pairs, apart from the run's own seed so that runs may share a division.
        size: `(height, width)` to resize to, or one number for both; None takes images as they are.
        channels: 1 for grey, 3 for colour; None takes what the files have.
        margin: what is cut off before resizing, see `load_identities`; None for nothing.

    Raises:
        ValueError: for numbers out of range; what does not fit the set is refused by `load`.
    """

    dataset: str = "orl"
    num_folds: int = 4
    fold: int = 0
    num_validation: int = 6
    num_unlabelled: int = 0
    num_impostor: int | None = None
    seed: int = 0
    size: tuple[int, int] | int | None = None
    channels: int | None = None
    margin: float | tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        _validate.at_least("num_folds", self.num_folds, 2, "One fold would leave nobody to train on.")
        _validate.within("fold", self.fold, 0, self.num_folds - 1, "Folds count from 0.")
        _validate.at_least("num_validation", self.num_validation, 2, "Thresholds need pairs of people.")
        _validate.at_least("num_unlabelled", self.num_unlabelled, 0)
        _validate.at_least("seed", self.seed, 0)
        if self.num_impostor is not None:
            _validate.at_least("num_impostor", self.num_impostor, 1)
        if isinstance(self.size, int):
            # A square, written in the one way, or equal configurations would differ.
            object.__setattr__(self, "size", (self.size, self.size))

    def load(self, data_dir: str | os.PathLike | None) -> Faces:
        """Reads the people and divides them.

        Raises:
            ValueError: for a set that is not there, or too few people for the folds, for two classes among
                them, or for as many unlabelled ones.
        """
        people = data.load_identities(
            self.dataset,
            data_dir=None if data_dir is None else Path(data_dir),
            size=self.size,
            channels=self.channels,
            margin=self.margin,
        )
        folds = data.identity_folds(people, self.num_folds, self.num_validation, self.seed)
        part = folds[self.fold]
        num_labelled = len(part.train) - self.num_unlabelled
        if num_labelled < 2:
            raise ValueError(
                f"{people.name}: num_unlabelled={self.num_unlabelled} of the {len(part.train)} people to "
                f"train on leaves {num_labelled} with labels, but a head needs 2. Take fewer."
            )
        # Which of them lose their labels is drawn apart from the folds, or those would change with it.
        order = np.random.default_rng((self.seed, 1)).permutation(part.train)
        labelled, unlabelled = np.sort(order[:num_labelled]), np.sort(order[num_labelled:])
        return Faces(
            name=people.name,
            train=people.as_classes(labelled),
            test=people.as_classes(part.test),
            class_names=tuple(people.names[i] for i in labelled),
            fingerprint=people.fingerprint,
            config=self,
            identities=people,
            folds=folds,
            part=part._replace(train=labelled),
            unlabelled=unlabelled,
        )

    def split(self, faces: Faces) -> Split:
        """All images of the labelled people, those of the unlabelled ones, those of the validation part."""
        people, part = faces.identities, faces.part
        who = {"labelled": part.train, "unlabelled": faces.unlabelled, "validation": part.validation}
        return Split(
            labelled=faces.train,
            unlabelled=people.pixels_of(faces.unlabelled),
            validation=people.as_classes(part.validation),
            indices={name: people.images_of(some) for name, some in who.items()},
        )

    def pairs(self, faces: Faces, part: str) -> Pairs:
        """The pairs of this fold's `validation` or `test` part, numbered as the fold."""
        every = data.fold_pairs(
            faces.identities, faces.folds, part, num_impostor=self.num_impostor, seed=self.seed
        )
        return every.at(every.fold == self.fold)
