"""One row for every registered map, small, and a net cut in two on which the shared tests try them."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.numerics.convolution import conv2d
from jaxrobust.saliency import (
    RISE,
    GradCAM,
    Gradient,
    GradientTimesInput,
    IntegratedGradients,
    Occlusion,
    SaliencyMap,
    SmoothGrad,
    Stages,
    class_logit,
    largest_magnitude,
)
from jaxrobust.types import Example

SHAPE, NUM, CLASSES = (6, 5, 2), 4, 3


class Row(NamedTuple):
    """`name` in SALIENCY_MAPS, a label for the test's id, the map."""

    name: str
    label: str
    method: SaliencyMap


MAP_ROWS = (
    Row("occlusion", "overlapping", Occlusion(window=3, stride=2)),
    Row("integrated_gradients", "five", IntegratedGradients(steps=5)),
    Row("gradient", "signed", Gradient()),
    Row("gradient", "magnitude", Gradient(reduce_fn=largest_magnitude)),
    Row("gradient_times_input", "plain", GradientTimesInput()),
    Row("smooth_grad", "seven", SmoothGrad(num=7, sigma=0.2)),
    Row("grad_cam", "signed", GradCAM()),
    Row("grad_cam", "rectified", GradCAM(rectify=True)),
    Row("rise", "eleven", RISE(num=11, cells=3)),
)


def make_params(seed: int = 0) -> dict[str, jax.Array]:
    first, second, third = jax.random.split(jax.random.key(seed), 3)
    return {
        "kernel": 0.5 * jax.random.normal(first, (3, 3, SHAPE[2], 4)),
        "dense": jax.random.normal(second, (SHAPE[0] * SHAPE[1] * 4, 6)) / 4,
        "last": jax.random.normal(third, (6, CLASSES)),
    }


def features(params, images, example):
    return jnp.tanh(conv2d(images, params["kernel"], padding="SAME"))


def head(params, activations, example):
    """Smooth, so that results do not depend on which side of a kink rounding falls."""
    return jnp.tanh(activations.reshape(activations.shape[0], -1) @ params["dense"]) @ params["last"]


def target_of(params):
    return class_logit(Stages(partial(features, params), partial(head, params)))


def make_example(num: int = NUM, seed: int = 1) -> Example:
    images = jax.random.uniform(jax.random.key(seed), (num, *SHAPE))
    return Example(images, jnp.arange(num) % CLASSES)


def make_keys(num: int = NUM) -> jax.Array:
    return jax.random.split(jax.random.key(2), num)
