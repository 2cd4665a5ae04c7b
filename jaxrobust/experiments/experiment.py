"""An experiment as a value: everything that decides the result of a run, and nothing else.

How it is executed (wrapper, precision, prefetch) is a `training.Runtime`, where data lies is an argument:
neither may change results beyond rounding, so neither is part of the configuration.
"""

import dataclasses
import enum
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flax import linen as nn

from jaxrobust import _validate
from jaxrobust.data import SELECTIONS, Augment, BatchSizes, Dataset, Split, compose_batch, load, split
from jaxrobust.evaluation import ThreatModel, suite
from jaxrobust.experiments.face_data import FaceData
from jaxrobust.objectives import Measure, Standard
from jaxrobust.training import OptimizerConfig
from jaxrobust.types import LATER, Attack, Objective

PIXEL_ATTACKS = ("none", "fgsm", "pgd", "mi_fgsm")
SPATIAL_ATTACKS = ("none", "rand_adv", "grid_adv", "rand_adv.t", "grid_adv.t", "rand_adv.r", "grid_adv.r")


class BatchForm(enum.Enum):
    """What a step's `batch_size` images are made of."""

    MIXED = "mixed"
    """m |D_L| / (|D_L| + |D_U|) labelled images, the rest unlabelled: SRT, eq. (9)."""
    LABELLED_SHARE = "labelled_share"
    """The labelled images of a mixed batch alone: RT as the source's code trains it, a smaller batch."""
    LABELLED = "labelled"
    """`batch_size` labelled images: equal cost per step, the fairer rival."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and who may see their labels.

    Args:
        dataset: a name or address that `jaxrobust.data.load` takes: `mnist`, `digits`, `folder:PATH`, ...
        num_labelled: |D_L|.
        num_unlabelled: |D_U|; None takes every training image that is neither labelled nor for validation.
        num_validation: images of the training set that only choose between checkpoints, disjoint from the
            others.
        selection: how the labelled images are chosen: `first`, `random` or `stratified`.
        seed: draws the split; apart from the run's own seed so that runs may share a split.
        size: `(height, width)` to resize to, or one number for both (kept as a pair); None takes images as
            they are, which must then be of one size.
        channels: 1 for grey, 3 for colour; None takes what the files have.
        test_fraction: the share held out for testing of a set that has no test split; None is the set's
            default. It is drawn from a fixed seed, the same for all runs.
    """

    dataset: str
    num_labelled: int
    num_unlabelled: int | None = None
    num_validation: int = 1000
    selection: str = "stratified"
    seed: int = 0
    size: tuple[int, int] | int | None = None
    channels: int | None = None
    test_fraction: float | None = None

    def __post_init__(self) -> None:
        _validate.member("selection", self.selection, SELECTIONS)
        _validate.at_least("num_labelled", self.num_labelled, 1)
        if self.num_unlabelled is not None:
            _validate.at_least("num_unlabelled", self.num_unlabelled, 0)
        _validate.at_least("num_validation", self.num_validation, 0)
        _validate.at_least("seed", self.seed, 0)
        if isinstance(self.size, int):
            # A square, written in the one way, or equal configurations would differ.
            object.__setattr__(self, "size", (self.size, self.size))
        if self.size is not None:
            if not isinstance(self.size, tuple) or len(self.size) != 2:
                raise ValueError(f"Expected size as (height, width) or one number, got size={self.size!r}.")
            for length in self.size:
                _validate.at_least("size", length, 1, "It is in pixels.")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"Expected channels 1 (grey) or 3 (colour), got channels={self.channels}.")
        if self.test_fraction is not None and not 0 < self.test_fraction < 1:
            raise ValueError(f"Expected 0 < test_fraction < 1, got test_fraction={self.test_fraction}.")

    @property
    def options(self) -> dict[str, Any]:
        """What `data.load` takes beside the name; only what is set, since sets differ in what they take."""
        options = {"size": self.size, "channels": self.channels, "test_fraction": self.test_fraction}
        return {name: value for name, value in options.items() if value is not None}

    def load(self, data_dir: str | os.PathLike | None) -> Dataset:
        """Reads the images; `data_dir` is the folder of prepared sets, None reads TFDS_DATA_DIR."""
        # The seed of `load` draws test images where a set has none: fixed, or runs could not be compared.
        folder = None if data_dir is None else Path(data_dir)
        return load(self.dataset, data_dir=folder, seed=0, **self.options)

    def split(self, dataset: Dataset) -> Split:
        """Divides the training images."""
        return split(
            dataset.train,
            num_labelled=self.num_labelled,
            num_unlabelled=self.num_unlabelled,
            num_validation=self.num_validation,
            selection=self.selection,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One training run and how it is judged.

    Args:
        data: the images and the split; `FaceData` for verification.
        model: a flax module of `jaxrobust.models`.
        objective: the defence.
        optimizer: optimizer and schedule.
        num_steps: optimizer steps in the whole run.
        batch_size: images a step, over all devices.
        batches: what those images are.
        labelled_per_step: labelled images of a mixed batch, where they are not to be proportional.
        augment: random crops and flips.
        ema_decay: decay of the averaged weights, 0 for none; where there is an average, it is what is
            evaluated.
        seed: initial weights, order of the images and all noise.
        validate_every: steps between validations, the last step included; 0 validates at the end only.
        validation_attack: the short attack whose accuracy on the validation images chooses the checkpoint
            kept; None chooses by clean accuracy.
        threat: radii and lengths of the evaluation's attacks.
        attacks: names of the evaluation's attacks, as `jaxrobust.evaluation.parse` reads them.
        note: what this reproduces, with the published number and what differs.
        teacher: the experiment that is trained first, of the same `data`, for an objective that needs
            pseudo-labels (`RST`, `UAT` with fixed targets): what its best checkpoint says of the unlabelled
            images. None for other objectives.
    """

    data: DataConfig | FaceData
    model: nn.Module
    objective: Objective
    optimizer: OptimizerConfig
    num_steps: int
    batch_size: int = 128
    batches: BatchForm = BatchForm.MIXED
    labelled_per_step: int | None = None
    augment: Augment = field(default_factory=Augment)
    ema_decay: float = 0.0
    seed: int = 0
    validate_every: int = 0
    validation_attack: Attack | None = None
    threat: ThreatModel
    attacks: tuple[str, ...] = PIXEL_ATTACKS
    note: str = ""
    teacher: "Experiment | None" = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        self._check_kinds()
        self._check_teacher()
        self._check_gate()
        if self.labelled_per_step is not None:
            _validate.at_least("labelled_per_step", self.labelled_per_step, 1)
        _validate.at_least("num_steps", self.num_steps, 1)
        _validate.at_least("batch_size", self.batch_size, 1)
        _validate.decay("ema_decay", self.ema_decay, "0 keeps no average of the weights.")
        _validate.at_least("seed", self.seed, 0)
        _validate.at_least("validate_every", self.validate_every, 0)
        suite(self.attacks, self.threat)

    def _check_kinds(self) -> None:
        """Each part is of its kind: a net that was given as an objective would fail deep inside a trace."""
        kinds = {
            "data": DataConfig,
            "model": nn.Module,
            "objective": Objective,
            "optimizer": OptimizerConfig,
            "augment": Augment,
            "validation_attack": Attack,
            "threat": ThreatModel,
        }
        for name, kind in kinds.items():
            value = getattr(self, name)
            if name == "data" and isinstance(value, FaceData):
                continue
            if value is None and name == "validation_attack":
                continue
            # A flax module has the methods of an objective, and is none.
            stray = isinstance(value, nn.Module) and kind is not nn.Module
            if stray or isinstance(value, type) or not isinstance(value, kind):
                what = {"Module": "flax module"}.get(kind.__name__, kind.__name__)
                raise ValueError(f"Expected {name} to be of the kind {what}, got {value!r}.")

    def _check_gate(self) -> None:
        """A gate that looks at validations has some."""
        gate = getattr(self.objective, "gate", None)
        if gate is None or gate.measure is not Measure.VAL_TAR:
            return
        if not isinstance(self.data, FaceData) or not self.validate_every:
            raise ValueError(
                "A gate of measure=val_tar reads the TAR of validations: set validate_every and train on "
                f"people (FaceData), got validate_every={self.validate_every} on {self.data.dataset}."
            )

    def _check_teacher(self) -> None:
        """There is a teacher where one is needed and nowhere else, and it sees no more than this run."""
        name, teacher = type(self.objective).__name__, self.teacher
        if teacher is None:
            if needs_pseudo_labels(self.objective):
                raise ValueError(
                    f"{name} needs pseudo-labels, got teacher=None. Give it the experiment that is trained "
                    "first, such as standard_teacher(experiment)."
                )
            return
        if not isinstance(teacher, Experiment):
            raise ValueError(f"Expected teacher to be of the kind Experiment, got {teacher!r}.")
        if not needs_pseudo_labels(self.objective):
            raise ValueError(f"{name} needs no pseudo-labels, got a teacher. Set teacher=None.")
        if teacher.teacher is not None:
            raise ValueError("Expected a teacher without a teacher of its own.")
        if teacher.data != self.data:
            raise ValueError(
                "Expected a teacher of the run's own data, or it may have seen validation images as labelled "
                f"ones: got {teacher.data} beside {self.data}. Change data, not teacher.data."
            )

    @property
    def image_data(self) -> DataConfig:
        """The data of a run that classifies images.

        Raises:
            ValueError: for one of faces, which are verified and not classified.
        """
        if isinstance(self.data, FaceData):
            raise ValueError(
                f"{self.data.dataset} holds people who are not among the net's classes: measure verification "
                "(jaxrobust evaluate RUN --task verification), not classes."
            )
        return self.data

    def batch_sizes(
        self, num_labelled: int, num_unlabelled: int, num_devices: int = 1, micro_batches: int = 1
    ) -> BatchSizes:
        """The labelled and unlabelled images of one global step, for the streams of this split."""
        if self.batches is BatchForm.LABELLED:
            return compose_batch(self.batch_size, num_labelled, 0, num_devices, micro_batches=micro_batches)
        mixed = compose_batch(
            self.batch_size,
            num_labelled,
            num_unlabelled,
            num_devices,
            labelled=self.labelled_per_step,
            micro_batches=micro_batches,
        )
        if self.batches is BatchForm.LABELLED_SHARE:
            return mixed._replace(unlabelled=0)
        return mixed

    def seeded(self, seed: int) -> "Experiment":
        """This experiment with another seed for the run, for the split, *and* for the teacher's run.

        People stay in their folds, so that seeds are asked about the same people.
        """
        if isinstance(self.data, FaceData):
            return dataclasses.replace(self, seed=seed)
        teacher = None if self.teacher is None else self.teacher.seeded(seed)
        data = dataclasses.replace(self.data, seed=seed)
        return dataclasses.replace(self, seed=seed, data=data, teacher=teacher)


def needs_pseudo_labels(objective: Objective) -> bool:
    """Whether an objective reads `Batch.pseudo_label`, so that an experiment with it has a teacher."""
    return bool(getattr(objective, "needs_pseudo_labels", False))


def standard_teacher(experiment: Experiment) -> Experiment:
    """The teacher of UAT's and RST's papers: a standard model of the same data, net, optimizer and steps.

    Its checkpoint is chosen by clean accuracy: what little robust accuracy it has is noise.
    """
    return dataclasses.replace(
        experiment,
        objective=Standard(),
        batches=BatchForm.LABELLED,
        validation_attack=None,
        note="",
        teacher=None,
    )
