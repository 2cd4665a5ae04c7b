"""Foolbox on a jitted function of plain JAX (its convolution and pooling), through eagerpy.

Left out is what does not run: SpatialAttack is written for PyTorch and TensorFlow only, and PointwiseAttack
needs `jax.ops.index_update`, which is gone from JAX.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import foolbox
import jax
import jax.numpy as jnp
import numpy as np
from foolbox import attacks

from benchmarks._parity import export, store
from benchmarks._speed.problem import Problem

PACKAGES = ("foolbox", "eagerpy", "jax", "jaxlib")


class Subject(NamedTuple):
    """The jitted model, images `[n, h, w, c]` and labels `[n]` on the device."""

    forward: Callable[[jax.Array], jax.Array]
    images: jax.Array
    labels: jax.Array


def load(problem: Problem) -> Subject | None:
    """The model and all images; None for a model that has no plain function."""
    if problem.module != "SmallCNN":
        return None
    arrays = store.read_arrays(problem.folder / "weights.npz")
    plain = [(jnp.asarray(arrays[f"{name}.k"]), jnp.asarray(arrays[f"{name}.b"])) for name in export.LAYERS]
    forward = jax.jit(lambda images: export.naive_logits(plain, images))
    return Subject(forward, jnp.asarray(problem.images), jnp.asarray(problem.labels))


def bound(
    subject: Subject, count: int, entry: tuple[str, Callable], eps: float, settings: dict[str, Any]
) -> Callable[[int], jax.Array]:
    """`run(seed) -> images`: an entry of `ATTACKS` with its budget, on the first images."""
    images = subject.images[:count]
    criterion = foolbox.criteria.Misclassification(subject.labels[:count])
    model = foolbox.JAXModel(subject.forward, bounds=(0, 1))
    attack, epsilon = entry[1](settings), eps if entry[2] else None

    def run(seed: int) -> jax.Array:
        _, found, _ = attack(model, images, criterion, epsilons=epsilon)
        return jax.block_until_ready(found)

    return run


def seed_all(seed: int) -> None:
    """Of the global generators, from which it draws."""
    np.random.seed(seed)  # noqa: NPY002
    type(foolbox.models.JAXModel).key = None


def to_numpy(images: jax.Array) -> np.ndarray:
    """`[n, h, w, c]` in [0, 1]."""
    return np.clip(np.asarray(images, np.float32), 0, 1)


def logits(subject: Subject, images: np.ndarray) -> np.ndarray:
    """`images [n, h, w, c] -> logits [n, k]`."""
    return np.asarray(subject.forward(jnp.asarray(images)))


ATTACKS = {
    "fgsm": ("LinfFastGradientAttack", lambda b: attacks.LinfFastGradientAttack(), True),
    "pgd": (
        "LinfPGD",
        lambda b: attacks.LinfPGD(steps=b["steps"], rel_stepsize=b["step"], random_start=False),
        True,
    ),
    "mi_fgsm": (
        "LinfMomentumIterativeFastGradientMethod",
        lambda b: attacks.LinfMomentumIterativeFastGradientMethod(
            momentum=b["decay"], steps=b["steps"], rel_stepsize=1 / b["steps"]
        ),
        True,
    ),
    "cw": (
        "L2CarliniWagnerAttack",
        lambda b: attacks.L2CarliniWagnerAttack(
            binary_search_steps=b["searches"],
            steps=b["steps"],
            stepsize=b["learning_rate"],
            initial_const=b["initial_const"],
            abort_early=b["abort_early"],
        ),
        False,
    ),
    "ddn": (
        "DDNAttack",
        lambda b: attacks.DDNAttack(init_epsilon=b["initial_norm"], steps=b["steps"], gamma=b["gamma"]),
        False,
    ),
}
