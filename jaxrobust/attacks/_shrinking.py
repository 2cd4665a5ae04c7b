"""Loops in which every row takes its own number of steps: on CPU those that are done leave the batch.

The loop goes on until the last row is done, and the last one may need many times what most do. On CPU a step
costs in proportion to its rows; on accelerators, which want large batches, it hardly does, and all stay.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxrobust.attacks._lanes import rows_of
from jaxrobust.attacks._worst import select
from jaxrobust.types import Array, PyTree

S = TypeVar("S", bound=PyTree)
C = TypeVar("C", bound=PyTree)

SHRINK = 4
"""When so many times fewer rows are left they go on by themselves. Each size is compiled: there are few."""
FEWEST = 8
"""No batch shrinks to fewer rows than these, for whom another compilation would hardly pay."""


def until_all_done(
    step_fn: Callable[[C, S, Array], S], active_fn: Callable[[S], Array], context: C, state: S
) -> S:
    """The state `[b]` after steps 0, 1, ... of all rows that are still active, until none is.

    Rows must not depend on each other: which of them share a batch decides nothing.

    Args:
        step_fn: `step_fn(context, state, i)` is the state after step i, for any number of rows.
        active_fn: `active_fn(state)`, bool, by row; an inactive row stays so and does not change.
        context: what each row has for itself and does not change; leaves `[b, ...]`.
        state: before step 0; leaves `[b, ...]`.
    """
    return _run(step_fn, active_fn, context, state, jnp.int32(0))


def _run(
    step_fn: Callable[[C, S, Array], S], active_fn: Callable[[S], Array], context: C, state: S, start: Array
) -> S:
    num = active_fn(state).shape[0]
    fewer = num // SHRINK if jax.default_backend() == "cpu" else 0
    fewer = fewer if fewer >= FEWEST else 0

    def unfinished(carry: tuple[Array, S]) -> Array:
        return active_fn(carry[1]).sum() > fewer

    def body(carry: tuple[Array, S]) -> tuple[Array, S]:
        i, state = carry
        return i + 1, select(active_fn(state), step_fn(context, state, i), state)

    i, state = jax.lax.while_loop(unfinished, body, (start, state))
    if not fewer:
        return state
    # The rows that are left, and some that are done to fill up.
    rows = jnp.argsort(~active_fn(state))[:fewer]
    rest = _run(step_fn, active_fn, rows_of(context, rows), rows_of(state, rows), i)
    return jax.tree.map(lambda leaf, new: leaf.at[rows].set(new), state, rest)
