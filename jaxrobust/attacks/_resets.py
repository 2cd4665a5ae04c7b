"""Setting changes back to their clean values, one at a time, while the model stays fooled.

What counts as one change is a *unit*: a feature, or a pixel with all its channels where the ball counts
pixels. Images are `[b, u, g]` here, u units of g features. A row goes round its changed units in a fixed
order and ends when all that remain have failed since the last success, so no unit is tried twice in vain.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.attacks._nearest import surely_fools
from jaxrobust.attacks._worst import select
from jaxrobust.types import Array, Ball, Example, ScoreFn

_ORDER_BITS = 31


class Sweep(NamedTuple):
    """Row by row: the image `[b, u, g]`, the order of the unit last tried, failures since a success."""

    image: Array
    cursor: Array
    fails: Array


def group(ball: Ball, channels: int) -> int:
    """How many features make a unit: 1 where the ball counts the channels apart, else all of a pixel's."""
    with jax.ensure_compile_time_eval():
        return 1 if float(ball.length(jnp.ones((1, 1, channels)))) > 1 else channels


def to_units(images: Array, group: int) -> Array:
    """`[b, h, w, c] -> [b, u, g]`."""
    return images.reshape(images.shape[0], -1, group)


def random_order(key: Array, units: int) -> Array:
    """A random order of one row: distinct numbers below 2^31, uint32 `[u]`."""
    low = max(1, math.ceil(math.log2(units)))
    # The index in the low bits keeps them distinct.
    drawn = jax.random.bits(key, (units,), jnp.uint32) >> (32 - _ORDER_BITS + low)
    return (drawn << low) | jnp.arange(units, dtype=jnp.uint32)


def ascending_order(values: Array) -> Array:
    """The order of one row by its values `[u]`, uint32 `[u]`."""
    return jnp.argsort(jnp.argsort(values)).astype(jnp.uint32)


def begin(image: Array) -> Sweep:
    """At the unit of lowest order."""
    last = jnp.full_like(image[:, 0, 0], 2**_ORDER_BITS - 1, jnp.uint32)
    return Sweep(image, last, jnp.zeros_like(last, jnp.int32))


def num_changes(image: Array, clean: Array) -> Array:
    """Changed units per row, int32 `[b]`."""
    return (image != clean).any(axis=-1).sum(axis=-1, dtype=jnp.int32)


def next_unit(sweep: Sweep, clean: Array, order: Array) -> Array:
    """Which changed unit comes next in the round, bool `[b, u, 1]`, one per row (any, if nothing changed)."""
    changed = (sweep.image != clean).any(axis=-1)
    ahead = (order - sweep.cursor[:, None] - 1) & jnp.uint32(2**_ORDER_BITS - 1)
    at = jnp.argmin(jnp.where(changed, ahead, jnp.uint32(2**32 - 1)), axis=-1)
    return (jnp.arange(order.shape[1]) == at[:, None])[..., None]


def after(sweep: Sweep, order: Array, unit: Array, image: Array, succeeded: Array) -> Sweep:
    """The round goes on behind `unit`, with `image` where it still fools."""
    fails = jnp.where(succeeded, 0, sweep.fails + 1)
    return Sweep(select(succeeded, image, sweep.image), order_at(order, unit), fails)


def order_at(order: Array, unit: Array) -> Array:
    """The order of the row's unit `[b]`."""
    return jnp.where(unit[..., 0], order, 0).max(axis=-1)


def reset_all(
    score_fn: ScoreFn,
    example: Example,
    image: Array,
    order: Array,
    rows: Array,
    *,
    group: int,
    targeted: bool,
) -> tuple[Array, Array]:
    """Images `[b, h, w, c]` without the changes that these `rows` can do without; where it met NaN `[b]`."""
    clean = to_units(example.image, group)

    def active(sweep: Sweep) -> Array:
        return rows & (sweep.fails < num_changes(sweep.image, clean))

    def body(carry: tuple[Sweep, Array]) -> tuple[Sweep, Array]:
        sweep, broken = carry
        unit = next_unit(sweep, clean, order)
        trial = jnp.where(unit, clean, sweep.image)
        logits = score_fn(trial.reshape(image.shape), example)
        fooled = surely_fools(logits, example.target, targeted=targeted)
        broken |= active(sweep) & jnp.isnan(logits).any(axis=-1)
        return select(active(sweep), after(sweep, order, unit, trial, fooled), sweep), broken

    start = begin(to_units(image, group)), jnp.zeros_like(rows)
    sweep, broken = jax.lax.while_loop(lambda carry: active(carry[0]).any(), body, start)
    return sweep.image.reshape(image.shape), broken
