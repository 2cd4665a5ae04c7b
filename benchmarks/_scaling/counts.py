"""Parameters, FLOPs and all-reduced bytes, counted in the library's own lowered programs."""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxrobust.attacks import PGD
from jaxrobust.models import build
from jaxrobust.neighbourhoods import LInf
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.objectives import AT, SRT
from jaxrobust.training import OptimizerConfig, init_state, make_train_step
from jaxrobust.types import Batch, Model, Objective

ROWS = 8
LABELLED_SHARE = 0.2
"""Of SRT's batches: 10,000 labelled images among 50,000, as in the source's Table 3."""


class Counts(NamedTuple):
    """Of one model: parameters, FLOPs per image, and by defence what a step all-reduces."""

    parameters: int
    forward: float
    attack: float
    training: float
    reduced: dict[str, tuple[int, int, int]]
    """Bytes, those among them of batch normalisation, and how many all-reduces those are."""

    def flops(self, defence: str, steps: int) -> float:
        """Per image of the batch: `steps` input gradients and the training passes."""
        inner = steps * self.attack
        if defence == "AT":
            return inner + self.training
        return self.forward + inner + (1 + LABELLED_SHARE) * self.training


def defences(steps: int) -> dict[str, Objective]:
    """The two objectives, whose attack returns its last point, as in training."""
    attack = PGD(neighbourhood=LInf(eps=0.03), steps=steps, keep_worst=False)
    return {"AT": AT(attack=attack), "SRT": SRT(attack=attack)}


def count(module: nn.Module) -> Counts:
    """Everything that is counted of a model."""
    model = build(module, type(module).native_shape)  # type: ignore[attr-defined]
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((ROWS, *model.image_shape), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), ROWS))
    labels = jnp.zeros(ROWS, jnp.int32)

    def logits(params: Any, stats: Any, x: jax.Array) -> jax.Array:
        return model.apply(params, stats, x, train=False)[0].logits

    def input_gradient(params: Any, stats: Any, x: jax.Array) -> jax.Array:
        return jax.grad(lambda x: cross_entropy(logits(params, stats, x), labels).sum())(x)

    def training_pass(params: Any, stats: Any, x: jax.Array, keys: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            outputs, _ = model.apply(params, stats, x, train=True, keys=keys)
            return cross_entropy(outputs.logits, labels).mean()

        return jax.grad(loss)(params)

    return Counts(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        forward=flops(logits, params, stats, images) / ROWS,
        attack=flops(input_gradient, params, stats, images) / ROWS,
        training=flops(training_pass, params, stats, images, keys) / ROWS,
        reduced={name: all_reduced(model, objective) for name, objective in defences(1).items()},
    )


def flops(fn: Callable, *args: Any) -> float:
    """FLOPs of a program as XLA counts them (a product and a sum are two), lowered for an accelerator.

    Loops count once, whatever their length.
    """
    lowered = jax.jit(fn).trace(*args).lower(lowering_platforms=("tpu",))
    return float(lowered.cost_analysis()["flops"])


def all_reduced(model: Model, objective: Objective) -> tuple[int, int, int]:
    """Bytes that a step all-reduces, those of batch normalisation, and their number, read off the program."""
    optimizer = OptimizerConfig(learning_rate=0.1).build(1)
    state = jax.eval_shape(lambda key: init_state(key, model, objective, optimizer), jax.random.key(0))
    images = jax.ShapeDtypeStruct((ROWS, *model.image_shape), jnp.float32)
    batch = Batch(images, jax.ShapeDtypeStruct((ROWS,), jnp.int32), images)
    step = make_train_step(model, objective, optimizer, num_steps=1, axis_name="batch")
    mesh = Mesh(np.array(jax.devices()[:2]), ("batch",), axis_types=(AxisType.Auto,))
    program = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(P(), P("batch"), P()), out_specs=P()))
    text = program.lower(state, batch, jax.eval_shape(lambda: jax.random.key(0))).as_text()
    sizes = [_bytes(part) for part in text.split('"stablehlo.all_reduce"(')[1:]]
    gradients = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    # Gradients come last but for the metrics, each a number; what is before them is batch normalisation's.
    ours = sizes[: len(sizes) - len(jax.tree.leaves(state.params)) - sizes.count(4)]
    assert sum(ours) + gradients + 4 * sizes.count(4) == sum(sizes), sizes
    return sum(sizes), sum(ours), len(ours)


def _bytes(part: str) -> int:
    """Of the operands of an all-reduce, from its type in StableHLO's text; all are float32."""
    found = re.search(r"\}\) : \((.*?)\) ->", part, re.DOTALL)
    assert found is not None
    shapes = re.findall(r"tensor<((?:\d+x)*)f32>", found.group(1))
    return sum(4 * math.prod(int(n) for n in shape.split("x") if n) for shape in shapes)
