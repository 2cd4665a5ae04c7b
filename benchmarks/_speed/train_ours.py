"""A step of training by this library: the loop's compiled update, and the step alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._speed import train_data
from jaxrobust import models
from jaxrobust.attacks import PGD, near_start, uniform_start
from jaxrobust.data import BatchSizes, ImageSet, ResidentFeed, Split
from jaxrobust.models import SmallCNN, build
from jaxrobust.neighbourhoods import LInf
from jaxrobust.numerics import compile as compiler
from jaxrobust.numerics import losses
from jaxrobust.objectives import AT, SRT, TRADES
from jaxrobust.training import OptimizerConfig, Runtime, init_state, make_train_step
from jaxrobust.training.loop import make_update
from jaxrobust.types import Array, Batch, Example, Model, Neighbourhood, Objective, PyTree

PACKAGES = ("jaxrobust", "jax", "jaxlib", "flax", "optax")
_NUM_STEPS = 100_000


def nudged_start(key: Array, neighbourhood: Neighbourhood, ex: Example) -> PyTree:
    """The start of the check: beside the clean image, nothing random."""
    del key
    return jnp.asarray(train_data.nudge(ex.image.shape, 0.001))


def objective_of(name: str, settings: dict[str, Any], *, fixed: bool = False) -> Objective:
    """The objective with its attack; `fixed` takes all chance out of it."""
    start: Any = near_start(settings["near"]) if name == "trades" else uniform_start
    attack = PGD(
        neighbourhood=LInf(eps=settings["eps"]),
        steps=settings["steps"],
        step_size=settings["step"],
        start_fn=nudged_start if fixed else start,
        loss_fn=losses.kl if name == "trades" else losses.cross_entropy,
        keep_worst=False,
    )
    if name == "at":
        return AT(attack=attack)
    if name == "trades":
        return TRADES(attack=attack, beta=settings["beta"])
    return SRT(attack=attack, lam=settings["lam"])


def weights(folder: Any, dropout: float) -> tuple[Model, PyTree]:
    """The model and its parameters, read from the state dict."""
    module = SmallCNN(dropout=dropout)
    params, _ = models.load_state_dict(folder / "state_dict.npz", module, image_shape=train_data.SHAPE)
    return build(module, train_data.SHAPE), params


def _optimizer(settings: dict[str, Any]) -> Any:
    return OptimizerConfig(
        learning_rate=settings["learning_rate"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
    ).build(_NUM_STEPS)


def first_batch(settings: dict[str, Any]) -> Batch:
    """The first images of both streams as floats."""
    labelled, labels, unlabelled = train_data.images(settings)
    rows, others = settings["labelled"], settings["unlabelled"]
    return Batch(
        jnp.asarray(labelled[:rows], jnp.float32) / 255,
        jnp.asarray(labels[:rows]),
        jnp.asarray(unlabelled[:others], jnp.float32) / 255,
    )


def check(name: str, settings: dict[str, Any], folder: Any) -> dict[str, np.ndarray]:
    """The parameters after one step without any chance, by PyTorch's names and layout."""
    from benchmarks._parity.export import to_torch

    model, params = weights(folder, dropout=0.0)
    objective, optimizer = objective_of(name, settings, fixed=True), _optimizer(settings)
    step = compiler.jit(make_train_step(model, objective, optimizer, num_steps=_NUM_STEPS))
    state = init_state(jax.random.key(0), model, objective, optimizer, init_from=(params, {}))
    state, _ = step(state, first_batch(settings), jax.random.key(0))
    return to_torch(state.params, SmallCNN(), train_data.SHAPE)


def update(name: str, settings: dict[str, Any], folder: Any) -> Callable[[], None]:
    """Makes one step more: the batch from the resident set, then the step, as `training.fit` does."""
    model, params = weights(folder, settings["dropout"])
    objective, optimizer = objective_of(name, settings), _optimizer(settings)
    images, labels, unlabelled = train_data.images(settings)
    split = Split(ImageSet(images, labels), unlabelled, ImageSet(images[:0], labels[:0]), {})
    feed = ResidentFeed(split, BatchSizes(settings["labelled"], settings["unlabelled"]), seed=0)
    runtime = Runtime(num_devices=1)
    step = make_train_step(model, objective, optimizer, num_steps=_NUM_STEPS, axis_name=runtime.axis_name)
    compiled = runtime.compile(make_update(feed, step, runtime.axis_name))
    host = init_state(jax.random.key(0), model, objective, optimizer, init_from=(params, {}))
    words = jax.random.key_data(jax.random.key(1))
    state, arrays, words = runtime.replicate((host, feed.arrays, words))
    made = 0

    def one() -> None:
        nonlocal state, made
        state, _ = jax.block_until_ready(compiled(state, arrays, runtime.shard(feed.cursor(made)), words))
        made += 1

    return one


def step(name: str, settings: dict[str, Any], folder: Any) -> Callable[[], None]:
    """Makes one step more on the same batch, the state donated."""
    model, params = weights(folder, settings["dropout"])
    objective, optimizer = objective_of(name, settings), _optimizer(settings)
    compiled = compiler.jit(
        make_train_step(model, objective, optimizer, num_steps=_NUM_STEPS), donate_argnums=0
    )
    state = init_state(jax.random.key(0), model, objective, optimizer, init_from=(params, {}))
    batch, key = first_batch(settings), jax.random.key(1)

    def one() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(compiled(state, batch, key))

    return one
