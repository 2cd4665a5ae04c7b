"""The passes of a training step one by one, each compiled as the library compiles."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks._speed import train_ours
from jaxrobust.numerics import compile as compiler
from jaxrobust.numerics import losses

PACKAGES = train_ours.PACKAGES


def programs(name: str, settings: dict[str, Any], folder: Path) -> dict[str, Callable[[], object]]:
    """Blocking calls.

    `forward`: eval mode, all rows. `input_gradient`: of the attack's loss with respect to all rows.
    `weights_all` and `weights_labelled`: of a mean loss in train mode with respect to the weights, dropout
    drawn, on all rows and on the labelled ones.
    """
    model, params = train_ours.weights(folder, settings["dropout"])
    batch = train_ours.first_batch(settings)
    images = jnp.concatenate([batch.image, batch.unlabelled])
    keys = jax.random.split(jax.random.key(0), len(images))
    labels = jnp.arange(len(images)) % 10
    spread = jax.nn.softmax(jax.random.normal(jax.random.key(1), (len(images), 10)))
    climbed, target = (losses.kl, spread) if name == "trades" else (losses.cross_entropy, labels)

    def forward(params, images):
        return model.apply(params, {}, images, train=False)[0].logits

    def input_gradient(params, images, target):
        return jax.grad(lambda x: climbed(forward(params, x), target).sum())(images)

    def weight_gradient(params, images, labels, keys):
        def loss(params):
            logits = model.apply(params, {}, images, train=True, keys=keys)[0].logits
            return losses.mean(losses.cross_entropy(logits, labels))

        return jax.grad(loss)(params)

    def call(fn: Callable, *arguments: Any) -> Callable[[], object]:
        program = compiler.jit(fn)
        return lambda: jax.block_until_ready(program(*arguments))

    found = {
        "forward": call(forward, params, images),
        "input_gradient": call(input_gradient, params, images, target),
        "weights_all": call(weight_gradient, params, images, labels, keys),
    }
    if settings["unlabelled"]:
        rows = settings["labelled"]
        found["weights_labelled"] = call(weight_gradient, params, images[:rows], labels[:rows], keys[:rows])
    return found
