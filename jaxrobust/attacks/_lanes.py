"""Trials of rows until each row's first success; rows that are done leave their place to the others' trials.

A trial is a restart, a target class or a candidate. Instead of running trial i of all rows, then trial i + 1,
a batch of *lanes* is filled with trials of the rows that still need some, several of one row side by side
where few are left: one compiled shape, and no work on rows that are over.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrobust.attacks._rows import like_rows
from jaxrobust.attacks._worst import Worst, worse_of
from jaxrobust.types import Array, Example, PyTree


def until_found(
    trial_fn: Callable[[Array, Array], Worst], blank: Worst, example: Example, *, num: int, lanes: int
) -> Worst:
    """Trials 0 ... num - 1 of every row, in this order, until one fools the model.

    A row with a success keeps its first; one without, the highest loss of all its trials, the first of
    equals. Which trials share a batch decides nothing: the first r of R are those of a call with r.

    Args:
        trial_fn: `trial_fn(rows, trials)`, both `[lanes]`, is the outcome of trial `trials[j]` of row
            `rows[j]`, from nothing; see `rows_of`.
        blank: the state before any trial, `[b]` rows.
        example: the rows `[b]`.
        num: trials of a row, >= 1.
        lanes: trials run at once, >= 1.

    Returns:
        The worst `[b]`; a trial that met NaN marks its row only if it was not behind the first success.
    """
    b = blank.level.shape[0]
    at = jnp.arange(lanes)

    def active(worst: Worst, tried: Array) -> Array:
        return (worst.level < 2) & (tried < num)

    def unfinished(carry: tuple[Worst, Array]) -> Array:
        return active(*carry).any()

    def body(carry: tuple[Worst, Array]) -> tuple[Worst, Array]:
        worst, tried = carry
        needy = active(worst, tried)
        count = needy.sum()
        # Lanes go round the rows that are left: lane j takes row j mod count, and its trial j div count next.
        rows = jnp.argsort(~needy)[at % count]
        trials = tried[rows] + at // count
        outcome = trial_fn(rows, jnp.minimum(trials, num - 1))
        first = _first_of_rows(outcome, rows, trials, trials < num, b, num)
        return worse_of(worst, first), jnp.minimum(tried.at[rows].max(trials + 1), num)

    tried = like_rows(jnp.zeros(b, jnp.int32), example)
    return jax.lax.while_loop(unfinished, body, (blank, tried))[0]


def _first_of_rows(outcome: Worst, rows: Array, trials: Array, valid: Array, b: int, num: int) -> Worst:
    """The outcomes of lanes gathered by row `[b]`: level 0 where a row had no usable one."""
    lanes = len(rows)
    success = valid & (outcome.level == 2)
    # The first success of each row, `num` where there is none; what lies behind it does not count.
    first = jnp.full(b, num, jnp.int32).at[rows].min(jnp.where(success, trials, num))
    usable = valid & (trials <= first[rows])
    loss = jnp.where(usable & (outcome.level == 1), outcome.loss, -jnp.inf)
    highest = jnp.full(b, -jnp.inf, outcome.loss.dtype).at[rows].max(loss)
    fallback = usable & (outcome.level == 1) & (first[rows] == num) & (loss == highest[rows])
    wins = (success & (trials == first[rows])) | fallback
    lane = jnp.full(b, lanes, jnp.int32).at[rows].min(jnp.where(wins, jnp.arange(lanes), lanes))
    chosen = jax.tree.map(lambda leaf: leaf[jnp.minimum(lane, lanes - 1)], outcome)
    return chosen._replace(
        level=jnp.where(lane < lanes, chosen.level, 0).astype(jnp.int8),
        loss=jnp.where(lane < lanes, chosen.loss, -jnp.inf),
        broken=jnp.zeros(b, bool).at[rows].max(outcome.broken & usable),
    )


def rows_of(tree: PyTree, rows: Array) -> PyTree:
    """The leaves' rows `rows`, along their first axis."""
    return jax.tree.map(lambda leaf: leaf[rows], tree)
