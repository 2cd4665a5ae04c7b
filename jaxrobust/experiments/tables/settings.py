"""How a table is trained at each scale: one net, schedule and inner attack for all rows of a kind.

`paper` is the published setting (`experiments.registry`). The others keep its data, neighbourhoods and batch
composition and make the run shorter, alike for every row:

- `gpu`: batches of 1,024 and an eighth of the steps, so equal numbers of images, for one large accelerator;
- `small`: minutes a run on two cores: some 800 Adam steps of 128 images with 10 inner steps;
- `tiny`: scikit-learn's 8x8 digits, seconds a run; shows that the command works and nothing else.
"""

import dataclasses
import enum
from typing import cast

from jaxrobust.attacks import PGD, RandomSearch
from jaxrobust.data import Augment
from jaxrobust.experiments import registry
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.models import SmallCNN, TinyCNN
from jaxrobust.neighbourhoods import LInf, RotationTranslation
from jaxrobust.objectives import SRT, Standard
from jaxrobust.training import OneCycle, OptimizerConfig, Steps

DATASETS = ("mnist", "cifar10")


class Scale(enum.Enum):
    """How much is spent on a table."""

    TINY = "tiny"
    SMALL = "small"
    GPU = "gpu"
    PAPER = "paper"

    @property
    def about(self) -> str:
        """What a reader of a table must know."""
        return {
            Scale.TINY: "8x8 digits and seconds of training: this shows that the command works, and nothing "
            "about the defences.",
            Scale.SMALL: "a short schedule for two cores, the same for every row: 800 Adam steps of 128 "
            "images, 10 inner steps. The published runs are about 60 times as long.",
            Scale.GPU: "the published number of images in batches of 1,024.",
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
        warmup: the fraction of the run over which the radius grows.
    """

    base: Experiment
    pixels: PGD
    poses: RandomSearch
    lam: float
    warmup: float = 0.0


def setting(dataset: str, scale: Scale, kind: Kind) -> Setting:
    """The setting of a kind at a scale; `dataset` is `mnist` or `cifar10`, and does not matter for `tiny`."""
    if scale is Scale.TINY:
        return _tiny(kind)
    paper = _paper(dataset, kind)
    if scale is Scale.PAPER:
        return paper
    return _gpu(paper) if scale is Scale.GPU else _small(paper, dataset, kind)


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


def _gpu(paper: Setting) -> Setting:
    """Eight times the batch and the learning rate, an eighth of the steps, and a linear rise at the start."""
    base = paper.base
    optimizer = base.optimizer
    assert isinstance(optimizer.schedule, Steps)
    schedule = dataclasses.replace(optimizer.schedule, warmup=0.05)
    base = dataclasses.replace(
        base,
        batch_size=1024,
        num_steps=base.num_steps // 8,
        validate_every=base.validate_every // 8,
        optimizer=dataclasses.replace(
            optimizer, learning_rate=8 * optimizer.learning_rate, schedule=schedule
        ),
    )
    return dataclasses.replace(paper, base=base)


def _small(paper: Setting, dataset: str, kind: Kind) -> Setting:
    """The schedule of `mnist1k_*`, chosen on validation images, with more steps and 10 inner ones."""
    base = dataclasses.replace(
        paper.base,
        optimizer=OptimizerConfig(name="adam", learning_rate=2e-3, schedule=OneCycle()),
        num_steps=800,
        validate_every=200,
    )
    if dataset == "cifar10":
        # A WRN-34-10 takes seconds for one image here; crops with padding hurt so short a run.
        base = dataclasses.replace(base, model=SmallCNN(), augment=Augment(flip=True))
    pixels = dataclasses.replace(paper.pixels, steps=10, step_size=0.25)
    warmup = 0.0 if kind is Kind.GEOMETRY else 0.4
    return dataclasses.replace(paper, base=base, pixels=pixels, warmup=warmup)


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
