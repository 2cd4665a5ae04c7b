"""This library, through its public API, on its own model."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxrobust
from benchmarks._parity import side_ours as parity
from benchmarks._speed.problem import Problem
from jaxrobust import attacks, evaluation, models
from jaxrobust.neighbourhoods import L0, LInf
from jaxrobust.types import Model, PyTree

PACKAGES = ("jaxrobust", "jax", "jaxlib")


class Subject(NamedTuple):
    """The library's model, its weights, images `[n, h, w, c]` and labels `[n]` on the device."""

    model: Model
    params: PyTree
    stats: PyTree
    logits_fn: Callable[[jax.Array], jax.Array]
    images: jax.Array
    labels: jax.Array


def _logits(model: Model, params: PyTree, stats: PyTree, images: jax.Array) -> jax.Array:
    return model.apply(params, stats, images, train=False)[0].logits


def load(problem: Problem) -> Subject:
    """The model and all images."""
    module = getattr(models, problem.module)(**_tuples(problem.fields))
    path = problem.folder / "state_dict.npz"
    params, stats = models.load_state_dict(path, module, image_shape=problem.image_shape)
    model = models.build(module, problem.image_shape)
    logits_fn = jax.tree_util.Partial(functools.partial(_logits, model), params, stats)
    images, labels = jnp.asarray(problem.images), jnp.asarray(problem.labels)
    return Subject(model, params, stats, logits_fn, images, labels)


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists, modules have tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def bound(
    subject: Subject, count: int, entry: tuple[str, Callable], eps: float, settings: dict[str, Any]
) -> Callable[[int], jax.Array | np.ndarray]:
    """`run(seed) -> images`: an entry of `ATTACKS` with its budget, on the first images."""
    attack = entry[1](eps, settings)
    images, labels = subject.images[:count], subject.labels[:count]
    if evaluated(attack):
        given, classes = np.asarray(images), np.asarray(labels)
        return lambda seed: _evaluate(subject, attack, given, classes, seed)

    def run(seed: int) -> jax.Array:
        found = jaxrobust.attack(attack, subject.logits_fn, images, labels, key=jax.random.key(seed))
        return jax.block_until_ready(found.image)

    return run


def evaluated(attack: Any) -> bool:
    """Whether it is run by an evaluation: of an ensemble, each member sees the images that are left."""
    return isinstance(attack, attacks.Ensemble)


def _evaluate(subject: Subject, attack: Any, images: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    report = evaluation.evaluate(
        subject.model,
        subject.params,
        subject.stats,
        images,
        labels,
        {"attack": evaluation.EvalAttack(attack)},
        batch_size=len(images),
        seed=seed,
        trust_checks=False,
        refuse_batch_dependent=False,
        num_samples=0,
        keep_images=True,
    )
    return report.images["attack"]


def seed_all(seed: int) -> None:
    """Nothing is drawn from global state."""


def to_numpy(images: jax.Array | np.ndarray) -> np.ndarray:
    """`[n, h, w, c]`."""
    return np.asarray(images)


def logits(subject: Subject, images: np.ndarray) -> np.ndarray:
    """`images [n, h, w, c] -> logits [n, k]`."""
    return np.asarray(jax.jit(subject.logits_fn)(images))


def _pgd(eps: float, b: dict[str, Any]) -> Any:
    return attacks.PGD(
        neighbourhood=LInf(eps=eps),
        steps=b["steps"],
        step_size=b["step"],
        start_fn=attacks.identity_start,
        keep_worst=False,
    )


def _pointwise(eps: float, b: dict[str, Any]) -> Any:
    ball = L0(eps=eps, features=True)
    return attacks.PointWise(neighbourhood=ball, starts=b["starts"], bisections=b["bisections"])


def _grid_first(eps: float, b: dict[str, Any]) -> Any:
    return dataclasses.replace(parity._grid(eps, b), stop_at_success=True)


def _pgd_plus(eps: float, b: dict[str, Any]) -> Any:
    pgd = attacks.PGD(
        neighbourhood=LInf(eps=b["pixel_eps"]),
        steps=b["steps"],
        step_size=b["step"],
        restarts=b["restarts"],
    )
    return attacks.Sequence(stages=(pgd, parity._grid(eps, b)))


ATTACKS = {
    "fgsm": parity.ATTACKS["fgsm"],
    "pgd": ("PGD", _pgd),
    "mi_fgsm": parity.ATTACKS["mi_fgsm"],
    "cw": parity.ATTACKS["cw"],
    "ddn": parity.ATTACKS["ddn"],
    "jsma": parity.ATTACKS["jsma"],
    "pointwise": ("PointWise", _pointwise),
    "apgd": parity.ATTACKS["apgd_ce"],
    "autoattack": parity.ATTACKS["autoattack"],
    "rand_adv": parity.ATTACKS["spatial_random"],
    "grid_adv": parity.ATTACKS["spatial_grid"],
    "grid_first": ("GridSearch", _grid_first),
    "pgd_plus": ("PGD, GridSearch", _pgd_plus),
}
