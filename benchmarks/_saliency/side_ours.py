"""This library's maps through its public API, and what RISE's forward passes alone cost."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._saliency import cases
from benchmarks._speed import side_ours as speed
from benchmarks._speed.problem import Problem
from jaxrobust import saliency
from jaxrobust.numerics import compile as compiler
from jaxrobust.saliency import (
    RISE,
    GradCAM,
    Gradient,
    GradientTimesInput,
    IntegratedGradients,
    Occlusion,
    SmoothGrad,
)

PACKAGES = ("jaxrobust", "jax", "jaxlib")
MAPS: dict[str, Any] = {
    "occlusion": Occlusion(window=cases.WINDOW, stride=cases.STRIDE),
    "integrated_gradients": IntegratedGradients(steps=cases.STEPS),
    "grad_cam": GradCAM(),
    "gradient": Gradient(),
    "gradient_times_input": GradientTimesInput(),
    "smooth_grad": SmoothGrad(**cases.SMOOTH),
    "rise": RISE(**cases.RISE),
}


def bound(problem: Problem, name: str, baseline: float) -> Callable[[], np.ndarray]:
    """`run() -> maps [n, h, w]` of the logit of each image's label."""
    subject = speed.load(problem)
    at = "conv4" if name == "grad_cam" else None
    scores = saliency.model_logits(subject.model, subject.params, subject.stats, at=at)

    def run() -> np.ndarray:
        found = saliency.saliency_maps(
            MAPS[name],
            saliency.class_logit(scores),
            problem.images,
            targets=problem.labels,
            key=jax.random.key(0),
            baseline=baseline,
        )
        return np.asarray(found)

    return run


def passes(problem: Problem, name: str, baseline: float) -> Callable[[], np.ndarray]:
    """As many forward passes as RISE makes, of images that are there, in the fastest of some batches."""
    subject = speed.load(problem)
    num = cases.RISE["num"]
    batches = {}
    for size in (len(problem.images), 128, 256):
        images = jnp.asarray(np.resize(problem.images, (size, *problem.images.shape[1:])))
        rounds = num * len(problem.images) // size

        def many(logits_fn: Any, images: jax.Array, rounds: int = rounds) -> jax.Array:
            # Of other images each time, or the compiler would lift the pass out of the loop.
            def one(total: jax.Array, shift: jax.Array) -> tuple[jax.Array, None]:
                return total + logits_fn(images + shift), None

            start = jnp.zeros((images.shape[0], problem.logits.shape[1]))
            return jax.lax.scan(one, start, jnp.linspace(0, 1e-3, rounds))[0]

        batches[size] = (compiler.jit(many), images)
    seconds = {size: _time(program, subject.logits_fn, images) for size, (program, images) in batches.items()}
    program, images = batches[min(seconds, key=lambda size: seconds[size])]
    return lambda: np.asarray(program(subject.logits_fn, images))


def _time(program: Any, logits_fn: Any, images: jax.Array) -> float:
    jax.block_until_ready(program(logits_fn, images))
    began = time.perf_counter()
    jax.block_until_ready(program(logits_fn, images))
    return time.perf_counter() - began
