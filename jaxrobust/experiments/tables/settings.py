"""How a table is trained at each scale: one net, schedule and inner attack for all rows of a kind.

`paper` is the published setting (`experiments.registry`). The others keep its sets, neighbourhoods and forms
of batches, and make the run shorter, alike for every row:

- `gpu`: batches of 1,024 and an eighth of the steps, so equal numbers of images, for one large accelerator;
  of CIFAR-10 a PreActResNet-18;
- `small`: about six minutes a run on two cores: 500 Adam steps of 128 images with 10 inner steps, and where
  the source states no lam for pixels the largest of Table 2's, so that tables share their runs; of MNIST a
  tenth of the labels, which are as many of each mixed batch as in the source; of CIFAR-10 a SmallCNN, with
  half of each mixed batch labelled and a weight of the robust term that grows;
- `tiny`: scikit-learn's 8x8 digits, seconds a run; shows that the command works and nothing else.
"""

import dataclasses
import enum
import math
from typing import Any, cast

from jaxrobust.attacks import PGD, RandomSearch
from jaxrobust.data import Augment
from jaxrobust.experiments import registry
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.models import PreActResNet18, SmallCNN, TinyCNN
from jaxrobust.neighbourhoods import LInf, RotationTranslation
from jaxrobust.objectives import SRT, Standard
from jaxrobust.training import OneCycle, OptimizerConfig, Steps

DATASETS = ("mnist", "cifar10")
_SMALL_LAM = 0.8


class Scale(enum.Enum):
    """How much is spent on a table."""

    TINY = "tiny"
    SMALL = "small"
    GPU = "gpu"
    PAPER = "paper"

    @property
    def about(self) -> str:
        """What a reader of a table must know; its numbers are said apart."""
        return {
            Scale.TINY: "8x8 digits and seconds of training: this shows that the command works, and nothing "
            "about the defences.",
            Scale.SMALL: "a short schedule for two cores, the same for every row.",
            Scale.GPU: "the published number of images in batches of 1,024, for one accelerator.",
            Scale.PAPER: "the published setting.",
        }[self]


class Kind(enum.Enum):
    """Which perturbations a row is trained against."""

    PIXELS = "pixels"
    GEOMETRY = "geometry"
    COMPOSITE = "composite"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What the rows of one kind share, and the weight that they have where the source states none.

    Attributes:
        base: the experiment, its objective to be replaced.
        pixels, poses: the inner attacks.
        lam: of RT and SRT.
        warmup: the fraction of the run over which a radius in pixels, alone or in a composite, grows from 0.
        lam_warmup: the fraction of the run over which lam of RT and SRT grows from 0.
    """

    base: Experiment
    pixels: PGD
    poses: RandomSearch
    lam: float
    warmup: float = 0.0
    lam_warmup: float = 0.0


def setting(dataset: str, scale: Scale, kind: Kind) -> Setting:
    """The setting of a kind at a scale; `dataset` is `mnist` or `cifar10`, and does not matter for `tiny`."""
    if scale is Scale.TINY:
        return _tiny(kind)
    paper = _paper(dataset, kind)
    if scale is Scale.PAPER:
        return paper
    return _gpu(paper, dataset, kind) if scale is Scale.GPU else _small(paper, dataset, kind)


def _paper(dataset: str, kind: Kind) -> Setting:
    """The registry's families. Composite defences, of which the source says no more, train as pixel ones."""
    pixels = registry.FAMILIES[dataset]()
    poses = registry.FAMILIES[f"{dataset}_spatial"]()
    composite = registry.FAMILIES[f"{dataset}_composite"]()
    base = {
        Kind.PIXELS: pixels["standard"],
        Kind.GEOMETRY: poses["standard"],
        Kind.COMPOSITE: dataclasses.replace(composite["srt_t1"], objective=Standard()),
    }[kind]
    climb, turn = cast(SRT, pixels["srt"].objective), cast(SRT, poses["srt"].objective)
    return Setting(
        base=base,
        pixels=cast(PGD, climb.attack),
        poses=cast(RandomSearch, turn.attack),
        lam=turn.lam if kind is Kind.GEOMETRY else climb.lam,
        warmup=climb.warmup,
    )


def _gpu(paper: Setting, dataset: str, kind: Kind) -> Setting:
    """Eight times the batch, an eighth of the steps, a linear rise of the learning rate, clipped gradients.

    The learning rate grows as the root of the batch. Geometry's published 0.1 stays for the net without
    normalisation layers: with momentum 0.9 it is near the largest that such a net bears.
    """
    base = paper.base
    optimizer = base.optimizer
    assert isinstance(optimizer.schedule, Steps)
    bare = dataset == "mnist" and kind is Kind.GEOMETRY
    optimizer = dataclasses.replace(
        optimizer,
        learning_rate=optimizer.learning_rate * (1.0 if bare else math.sqrt(8)),
        schedule=dataclasses.replace(optimizer.schedule, warmup=0.05),
        clip=1.0 if bare else 5.0,
    )
    more: dict[str, Any] = {"model": PreActResNet18()} if dataset == "cifar10" else {}
    base = dataclasses.replace(
        base,
        batch_size=1024,
        num_steps=base.num_steps // 8,
        validate_every=base.validate_every // 8,
        optimizer=optimizer,
        **more,
    )
    return dataclasses.replace(paper, base=base)


def _small(paper: Setting, dataset: str, kind: Kind) -> Setting:
    """The schedule of `mnist1k_*`, chosen on validation images, with 10 inner steps.

    Of MNIST 1,000 images have labels: 500 steps see 10,000 of them six times at most, where the published
    runs see them hundreds of times, and what is not learnt by heart needs no unlabelled images
    (docs/results/table2/NOTES.md has the numbers). 21 of a mixed batch are labelled, however many images are
    not; in the source that is 128 * 10,000 / 60,000.

    On CIFAR-10 the net is `cifar10_small`'s, and so is the labelled half of a mixed batch. From new weights
    SRT trained that net into one class, the first of its pseudo-labels: lam grows with the radius, so that
    there is a target by the time that it weighs.
    """
    base = dataclasses.replace(
        paper.base,
        optimizer=OptimizerConfig(name="adam", learning_rate=2e-3, schedule=OneCycle()),
        num_steps=500,
        validate_every=125,
    )
    lam_warmup = 0.0
    if dataset == "mnist":
        scarce = dataclasses.replace(base.image_data, num_labelled=1_000)
        base = dataclasses.replace(base, data=scarce, labelled_per_step=21)
    else:
        # A WRN-34-10 takes seconds for one image here; crops with padding hurt so short a run.
        base = dataclasses.replace(
            base, model=SmallCNN(), augment=Augment(flip=True), labelled_per_step=base.batch_size // 2
        )
        lam_warmup = 0.4
    pixels = dataclasses.replace(paper.pixels, steps=10, step_size=0.25)
    lam = paper.lam if kind is Kind.GEOMETRY else _SMALL_LAM
    return dataclasses.replace(paper, base=base, pixels=pixels, lam=lam, warmup=0.4, lam_warmup=lam_warmup)


def _tiny(kind: Kind) -> Setting:
    base = dataclasses.replace(
        registry.get("digits_standard"),
        objective=Standard(),
        num_steps=100,
        labelled_per_step=32,
        validate_every=0,
    )
    threat = base.threat
    base = dataclasses.replace(base, model=TinyCNN(), validation_attack=None)
    return Setting(
        base=base,
        pixels=PGD(neighbourhood=LInf(eps=threat.eps), steps=3, step_size=0.5, keep_worst=False),
        poses=RandomSearch(
            neighbourhood=RotationTranslation(max_angle=threat.max_angle, max_shift=threat.max_shift), num=3
        ),
        lam=1.0 if kind is not Kind.GEOMETRY else 0.2,
        warmup=0.4,
    )
