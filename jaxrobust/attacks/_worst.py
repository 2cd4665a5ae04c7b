"""The worst point found, row by row: misclassified beats correct, among equals the highest loss wins.

A candidate whose loss or logits are NaN counts as not found: it replaces nothing and is never reported as
fooling the model. A row where every candidate is NaN keeps its clean image and `found = False`. That there
was such a candidate is remembered, or a model that breaks under attack would look robust.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.attacks._rows import like_rows
from jaxrobust.types import Array, AttackResult, Example, LossFn, Neighbourhood, Theta


class Worst(NamedTuple):
    """Row by row: `theta`; `level` int8: 0 nothing, 1 correct, 2 misclassified; `loss`, -inf at level 0;
    `broken` bool: some candidate so far was NaN, the kept one or another."""

    theta: Theta
    level: Array
    loss: Array
    broken: Array


def class_of(target: Array) -> Array:
    """The class of a target `[b]`, or of a distribution `[b, k]`, whose argmax it is."""
    is_class = jnp.issubdtype(target.dtype, jnp.integer)
    return target if is_class else jnp.argmax(target, axis=-1)


def fools(logits: Array, target: Array, *, targeted: bool = False) -> Array:
    """Whether the prediction is not the target's class, or, of a targeted attack, is it; NaN never fools."""
    hits = jnp.argmax(logits, axis=-1) == class_of(target)
    return (hits if targeted else ~hits) & ~jnp.isnan(logits).any(axis=-1)


def ascended(loss_fn: LossFn, targeted: bool) -> LossFn:
    """What is ascended: the loss at the true class, or the negated loss at the designated one."""
    return (lambda logits, target: -loss_fn(logits, target)) if targeted else loss_fn


def judge(theta: Theta, logits: Array, losses: Array, target: Array, *, targeted: bool = False) -> Worst:
    """A candidate as a `Worst`; all leaves may have further axes behind the batch, as `target` then has.

    `losses` are what is ascended: of a targeted attack the negated losses, see `ascended`.
    """
    losses = losses.astype(jnp.float32)
    usable = ~(jnp.isnan(losses) | jnp.isnan(logits).any(axis=-1))
    fooled = fools(logits, target, targeted=targeted)
    level = jnp.where(usable, 1 + fooled.astype(jnp.int8), 0).astype(jnp.int8)
    return Worst(theta=theta, level=level, loss=jnp.where(usable, losses, -jnp.inf), broken=~usable)


def select(better: Array, new: Theta, old: Theta) -> Theta:
    """Per row `new` where `better`, else `old`."""

    def pick(a: Array, b: Array) -> Array:
        return jnp.where(better.reshape(better.shape + (1,) * (a.ndim - better.ndim)), a, b)

    return jax.tree.map(pick, new, old)


def worse_of(old: Worst, new: Worst) -> Worst:
    """Row by row the worse for the model; a tie keeps `old`."""
    better = (new.level > old.level) | ((new.level == old.level) & (new.loss > old.loss))
    return select(better, new, old)._replace(broken=old.broken | new.broken)


def nothing(neighbourhood: Neighbourhood, example: Example) -> Worst:
    """The state before any candidate: the identity at level 0."""
    rows = example.image.shape[0]
    blank = Worst(
        theta=jax.vmap(neighbourhood.init)(example),
        level=jnp.zeros(rows, jnp.int8),
        loss=jnp.full(rows, -jnp.inf, jnp.float32),
        broken=jnp.zeros(rows, bool),
    )
    return like_rows(blank, example)


def to_result(neighbourhood: Neighbourhood, example: Example, worst: Worst) -> AttackResult:
    """The image, its distance and whether it fools the model."""
    return AttackResult(
        image=jax.vmap(neighbourhood.apply)(example, worst.theta),
        theta=worst.theta,
        found=worst.level == 2,
        distance=jax.vmap(neighbourhood.distance)(example, worst.theta),
        nonfinite=worst.broken,
    )
