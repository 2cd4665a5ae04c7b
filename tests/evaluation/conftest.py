"""A linear classifier of two classes: margins, and so robust accuracy at any radius, are known exactly."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.types import Model, Outputs
from tests.evaluation.stand_ins import OVERSHOOT

SHAPE = (3, 4, 1)


class Linear(NamedTuple):
    """The model, its weights, and images whose margin of either sign is known."""

    model: Model
    params: dict
    images: np.ndarray
    labels: np.ndarray

    @property
    def score(self) -> np.ndarray:
        """w x + b in float64; class 1 where positive."""
        flat = self.images.reshape(len(self.images), -1).astype(np.float64)
        return flat @ np.asarray(self.params["w"], np.float64) + float(self.params["b"])

    @property
    def margin(self) -> np.ndarray:
        """Positive where the model is right."""
        return np.where(self.labels == 1, 1, -1) * self.score

    @property
    def nearest(self) -> np.ndarray:
        """||x' - x||_2 of what `stand_ins.Boundary` finds; 0 where the model is wrong already."""
        way = np.where(self.margin > 0, self.margin + OVERSHOOT, 0)
        return way / np.linalg.norm(np.asarray(self.params["w"], np.float64))

    @property
    def slope(self) -> float:
        """||w||_1: what one unit of l_inf radius takes off a margin."""
        return float(np.abs(self.params["w"]).sum())


def logits_of(params, x):
    z = x.reshape(len(x), -1) @ params["w"] + params["b"]
    return jnp.stack([-z, z], axis=-1)


def linear_apply(params, stats, x, *, train, keys=None, axis_name=None):
    return Outputs(logits_of(params, x)), stats


def make_linear() -> Linear:
    """53 images, a number that no set of devices divides."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=12).astype(np.float32)
    # Away from 0 and 1, so that no radius below 0.3 is cut by the box.
    images = rng.uniform(0.3, 0.7, size=(53, *SHAPE)).astype(np.float32)
    flat = images.reshape(53, -1)
    b = np.float32(-np.median(flat @ w))
    labels = (flat @ w + b > 0).astype(np.int32)
    labels[::9] = 1 - labels[::9]
    return Linear(Model(None, linear_apply, SHAPE, 2), {"w": w, "b": b}, images, labels)


@pytest.fixture(scope="session")
def linear() -> Linear:
    return make_linear()


@pytest.fixture(scope="session")
def make_model():
    """`make_model(fn)`: a model of two classes whose logits are `fn(params, x)`."""

    def make(fn) -> Model:
        def apply(params, stats, x, *, train, keys=None, axis_name=None):
            return Outputs(fn(params, x)), stats

        return Model(None, apply, SHAPE, 2)

    return make
