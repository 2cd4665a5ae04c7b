"""A face net as small as can be, with batch normalisation and dropout, and runs of it."""

from typing import Any

import flax.linen as nn

from jaxrobust.attacks import PGD
from jaxrobust.models import build
from jaxrobust.models._layers import BatchNorm, Conv, Dense, dropout
from jaxrobust.models.heads import identify
from jaxrobust.neighbourhoods import LInf
from jaxrobust.training import TrainState
from jaxrobust.types import Array, Outputs
from tests.common.tiny import CLASSES, SHAPE, tiny_feed, tiny_fit


class TinyFace(nn.Module):
    """conv 3x3 4, BatchNorm, ReLU, dropout, dense 8, unit embedding, softmax of the features."""

    num_classes: int = CLASSES
    rate: float = 0.2

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, keys: Array | None = None, axis_name: str | None = None
    ) -> Outputs:
        x = nn.relu(BatchNorm()(Conv(4, padding="SAME")(x), train=train, axis_name=axis_name))
        x = dropout(x.reshape(x.shape[0], -1), self.rate, train=train, keys=keys, layer=0)
        return identify(Dense(8)(x), self.num_classes, None, {})


MODEL = build(TinyFace(), SHAPE)
PAIRS = PGD(neighbourhood=LInf(eps=0.1), steps=2, step_size=0.5, keep_worst=False)


def face_fit(num_steps: int, objective: Any, **options: Any) -> TrainState:
    """A run of `TinyFace` on eight labelled images a step."""
    return tiny_fit(num_steps, **{"model": MODEL, "objective": objective, "feed": tiny_feed(8, 0), **options})
