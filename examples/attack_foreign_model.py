"""Attacking models that know nothing of jaxrobust: a plain JAX function and a flax nnx module.

python examples/attack_foreign_model.py
"""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from optax import softmax_cross_entropy_with_integer_labels as cross_entropy
from sklearn.datasets import load_digits

import jaxrobust
from jaxrobust.attacks import PGD
from jaxrobust.neighbourhoods import LInf


def attack_a_plain_function(images: jax.Array, labels: jax.Array) -> float:
    """Parameters and a function of them, as anybody writes it; the share still right under attack."""

    def logits_fn(params, x):
        return x.reshape(len(x), -1) @ params["weights"] + params["bias"]

    params = {"weights": jnp.zeros((images[0].size, 10)), "bias": jnp.zeros(10)}
    grad_fn = jax.jit(jax.grad(lambda p: cross_entropy(logits_fn(p, images), labels).mean()))
    for _ in range(100):
        params = jax.tree.map(lambda p, g: p - 0.5 * g, params, grad_fn(params))

    pgd = PGD(neighbourhood=LInf(eps=1 / 8), steps=10, step_size=0.25)
    result = jaxrobust.attack(
        pgd, functools.partial(logits_fn, params), images, labels, key=jax.random.key(0)
    )
    return 1 - float(result.found.mean())


class Net(nnx.Module):
    """A small network with batch statistics and dropout."""

    def __init__(self, rngs: nnx.Rngs):
        self.first, self.norm = nnx.Linear(64, 32, rngs=rngs), nnx.BatchNorm(32, rngs=rngs)
        self.drop, self.last = nnx.Dropout(0.2, rngs=rngs), nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.drop(nnx.relu(self.norm(self.first(x.reshape(len(x), -1))))))


def attack_an_nnx_module(images: jax.Array, labels: jax.Array) -> float:
    """The module itself, in eval mode; the share of images still right under attack."""
    net = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(net, optax.adam(0.01), wrt=nnx.Param)

    @nnx.jit
    def step(net: Net, optimizer: nnx.Optimizer) -> None:
        optimizer.update(net, nnx.grad(lambda n: cross_entropy(n(images), labels).mean())(net))

    for _ in range(60):
        step(net, optimizer)

    net.eval()
    pgd = PGD(neighbourhood=LInf(eps=1 / 8), steps=10, step_size=0.25)
    result = jaxrobust.attack(pgd, net, images, labels, key=jax.random.key(0), chunk=128)
    return 1 - float(result.found.mean())


def main() -> dict[str, float]:
    """Both, on scikit-learn's digits."""
    digits = load_digits()
    images = jnp.asarray(digits.images[:400, :, :, None] / 16, jnp.float32)
    labels = jnp.asarray(digits.target[:400])
    return {
        "plain function": attack_a_plain_function(images, labels),
        "nnx module": attack_an_nnx_module(images, labels),
    }


if __name__ == "__main__":
    for name, accuracy in main().items():
        print(f"{name}: {accuracy:.1%} of the images are still right within 1/8 of every pixel")
