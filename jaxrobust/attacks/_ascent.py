"""The loop of the iterative attacks: start, step along a direction, project, keep the worst iterate.

An attack is a product of a start, a gradient, a rule that turns gradients into a direction, and a
neighbourhood.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jaxrobust.attacks._gradients import GradientFn
from jaxrobust.attacks._rows import fold_rows, like_rows
from jaxrobust.attacks._starts import StartFn
from jaxrobust.attacks._worst import Worst, ascended, judge, worse_of
from jaxrobust.types import Array, Example, LossFn, Neighbourhood, ScoreFn, Theta

AccumulateFn: TypeAlias = Callable[[Theta, Theta], Theta]
"""`accumulate_fn(velocity, gradient) -> velocity` on one example; the step goes along the velocity."""


def climb(
    keys: Array,
    score_fn: ScoreFn,
    example: Example,
    worst: Worst,
    *,
    neighbourhood: Neighbourhood,
    loss_fn: LossFn,
    gradient_fn: GradientFn,
    start_fn: StartFn,
    accumulate_fn: AccumulateFn,
    steps: int,
    step_size: float,
    keep_worst: bool,
    targeted: bool = False,
) -> tuple[Worst, Worst]:
    """`(worst, last)`: the worst of `worst` and, if `keep_worst`, the iterates; the last iterate."""

    def evaluate(step: int | Array, theta: Theta) -> tuple[Worst, Theta]:
        images, pullback = jax.vjp(lambda t: jax.vmap(neighbourhood.apply)(example, t), theta)
        (losses, logits), gradients = gradient_fn(
            fold_rows(step_keys, step), score_fn, ascent_fn, images, example
        )
        return judge(theta, logits, losses, example.target, targeted=targeted), pullback(gradients)[0]

    def move(ex: Example, theta: Theta, velocity: Theta) -> Theta:
        direction = neighbourhood.ascent(velocity)
        return neighbourhood.project(ex, jax.tree.map(lambda t, d: t + step_size * d, theta, direction))

    def body(step: int, carry: tuple[Theta, Theta, Worst]) -> tuple[Theta, Theta, Worst]:
        theta, velocity, worst = carry
        candidate, gradient = evaluate(step, theta)
        # A NaN or infinite entry moves nothing, lest the row be lost for all later steps.
        gradient = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), gradient)
        velocity = jax.vmap(accumulate_fn)(velocity, gradient)
        worst = worse_of(worst, candidate) if keep_worst else worst
        return jax.vmap(move)(example, theta, velocity), velocity, worst

    ascent_fn = ascended(loss_fn, targeted)
    start_keys, step_keys = fold_rows(keys, 0), fold_rows(keys, 1)
    theta = jax.vmap(lambda key, ex: start_fn(key, neighbourhood, ex))(start_keys, example)
    theta = like_rows(theta, example)
    velocity = jax.tree.map(jnp.zeros_like, theta)
    theta, _, worst = jax.lax.fori_loop(0, steps, body, (theta, velocity, worst))
    # Only the scores of the last iterate are read, so its backward pass is never compiled.
    last, _ = evaluate(steps, theta)
    return (worse_of(worst, last) if keep_worst else worst), last
