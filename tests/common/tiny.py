"""A net with BatchNorm and dropout, a split and an SRT objective, all as small as they can be."""

from typing import Any

import flax.linen as nn
import numpy as np

from jaxrobust.attacks import PGD
from jaxrobust.data import Augment, BatchSizes, ImageSet, ResidentFeed, Split
from jaxrobust.models import build
from jaxrobust.models._layers import BatchNorm, Conv, Dense, dropout
from jaxrobust.neighbourhoods import LInf
from jaxrobust.objectives import SRT
from jaxrobust.training import OptimizerConfig, Runtime, TrainState, Wrapper, fit
from jaxrobust.types import Array, Model, Outputs

SHAPE = (6, 6, 1)
CLASSES = 4


class TinyNet(nn.Module):
    """conv 3x3 4, BatchNorm, ReLU, dense 8, dropout, dense k."""

    num_classes: int = CLASSES
    rate: float = 0.3

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, keys: Array | None = None, axis_name: str | None = None
    ) -> Outputs:
        x = Conv(4, padding="SAME")(x)
        x = nn.relu(BatchNorm()(x, train=train, axis_name=axis_name))
        x = nn.relu(Dense(8)(x.reshape(x.shape[0], -1)))
        x = dropout(x, self.rate, train=train, keys=keys, layer=0)
        return Outputs(Dense(self.num_classes)(x))


def tiny_model(rate: float = 0.3) -> Model:
    """`TinyNet` as a model."""
    return build(TinyNet(rate=rate), SHAPE)


def tiny_objective(**options: Any) -> SRT:
    """SRT with three steps of PGD, a kink-free eps, and a warm-up."""
    return SRT(attack=PGD(neighbourhood=LInf(eps=0.1), steps=3, step_size=0.5), warmup=0.5, **options)


def tiny_split(num_labelled: int = 20, num_unlabelled: int = 50) -> Split:
    """Images whose class is the brightest quadrant, with noise."""
    rng = np.random.default_rng(0)
    num = num_labelled + num_unlabelled
    labels = (np.arange(num) % CLASSES).astype(np.int32)
    images = rng.integers(0, 120, (num, *SHAPE))
    for image, label in zip(images, labels):
        row, column = divmod(label, 2)
        image[3 * row : 3 * row + 3, 3 * column : 3 * column + 3] += 100
    images = images.astype(np.uint8)
    labelled = ImageSet(images[:num_labelled], labels[:num_labelled])
    empty = ImageSet(images[:0], labels[:0])
    return Split(labelled, images[num_labelled:], empty, {})


def tiny_feed(
    labelled: int = 4, unlabelled: int = 8, *, process_index: int = 0, process_count: int = 1
) -> ResidentFeed:
    """Both streams, augmented."""
    return ResidentFeed(
        tiny_split(),
        BatchSizes(labelled, unlabelled),
        seed=3,
        augment=Augment(pad=1, flip=True),
        process_index=process_index,
        process_count=process_count,
    )


def tiny_fit(num_steps: int = 3, *, learning_rate: float = 0.05, **options: Any) -> TrainState:
    """A run of all of the above."""
    defaults: dict[str, Any] = {
        "model": tiny_model(),
        "objective": tiny_objective(),
        "optimizer": OptimizerConfig(learning_rate=learning_rate, weight_decay=5e-4).build(num_steps),
        "feed": tiny_feed(),
        "seed": 1,
        "runtime": Runtime(wrapper=Wrapper.JIT, num_devices=1),
        "ema_decay": 0.9,
        "log_every": 4,
        "progress": False,
    }
    return fit(num_steps=num_steps, **{**defaults, **options})
