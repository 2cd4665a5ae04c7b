"""What no attack can go below: bare passes of the model, in the same form and in the fastest that XLA gives.

`gradient` is the gradient of the summed cross-entropy with respect to the images, compiled as the library
compiles its attacks. `forward` is the forward pass compiled likewise; the other programs are forward passes
compiled otherwise, of the library's model and, of SmallCNN, of a plain function with JAX's own layers.
"""

from collections.abc import Callable

import jax

from benchmarks._parity import export
from benchmarks._speed import side_ours
from benchmarks._speed.problem import Problem
from jaxrobust.numerics import compile as compiler
from jaxrobust.numerics.losses import cross_entropy

PACKAGES = ("jaxrobust", "jax", "jaxlib")


def load(problem: Problem) -> tuple[side_ours.Subject, list | None]:
    """The library's subject, and the weights of the plain function where there is one."""
    subject = side_ours.load(problem)
    return subject, export.to_plain(subject.params) if problem.module == "SmallCNN" else None


def programs(subject: tuple[side_ours.Subject, list | None], count: int) -> dict[str, Callable[[], object]]:
    """Blocking calls by name, on the first images."""
    ours, plain = subject
    images, labels = ours.images[:count], ours.labels[:count]

    def forward(params, stats, images):
        return ours.model.apply(params, stats, images, train=False)[0].logits

    def gradient(params, stats, images, labels):
        return jax.grad(lambda x: cross_entropy(forward(params, stats, x), labels).sum())(images)

    weights = (ours.params, ours.stats)
    found = {
        "gradient": _call(compiler.jit(gradient), *weights, images, labels),
        "forward": _call(compiler.jit(forward), *weights, images),
        "forward, plain jit": _call(jax.jit(forward), *weights, images),
    }
    if plain is not None:
        plain = jax.device_put(plain)
        found |= {
            "forward of JAX's layers": _call(compiler.jit(export.naive_logits), plain, images),
            "forward of JAX's layers, plain jit": _call(jax.jit(export.naive_logits), plain, images),
        }
    return found


def _call(program: Callable, *arguments: object) -> Callable[[], object]:
    return lambda: jax.block_until_ready(program(*arguments))
