"""Restarts that look only at the rows that no earlier one has fooled the model on."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrobust.attacks._worst import Worst, select
from jaxrobust.types import Array


def restart(run_fn: Callable[[Array, Worst], Worst], worst: Worst, times: int) -> Worst:
    """`worst = run_fn(i, worst)` for i < times; a row that was fooled before run i keeps what it has.

    It ends with the row's first success, hence early where all rows have one; the first r of R runs are those
    of a call with r.
    """

    def unfinished(carry: tuple[Array, Worst]) -> Array:
        return (carry[0] < times) & (carry[1].level < 2).any()

    def body(carry: tuple[Array, Worst]) -> tuple[Array, Worst]:
        i, worst = carry
        return i + 1, select(worst.level == 2, worst, run_fn(i, worst))

    return jax.lax.while_loop(unfinished, body, (jnp.int32(0), worst))[1]
