"""A model that draws at random in eval mode, as the deterministic mean of some of its draws.

What is attacked is the mean over draws that stay the same throughout an attack, whose gradient is the mean of
theirs (expectation over transformation, arXiv 1707.07397); what judges the images is the mean over others, so
that an attack gains nothing from the draws that it happened to see.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.types import Array, Outputs, PyTree

_ATTACKED, _JUDGING = 0, 1


@functools.cache
def averaged(apply_fn: Callable[..., Any], draws: int) -> Callable[..., Any]:
    """An `apply` whose logits are the mean over `draws` draws; its stats are (the model's, a key's words).

    Draw d has one key for all rows, so that what a row gets does not depend on its batch. Cached: equal
    arguments give the same function, and so the same compiled program.
    """

    def apply(
        params: PyTree,
        stats: PyTree,
        x: Array,
        *,
        train: bool,
        keys: Array | None = None,
        axis_name: str | None = None,
    ) -> tuple[Outputs, PyTree]:
        del keys, axis_name
        own, words = stats
        key = jax.random.wrap_key_data(words)

        def draw(d: int | Array) -> Array:
            row_keys = jax.vmap(lambda _: jax.random.fold_in(key, d))(jnp.arange(x.shape[0]))
            return apply_fn(params, own, x, train=train, keys=row_keys)[0].logits

        total = jax.lax.fori_loop(1, draws, lambda d, total: total + draw(d), draw(0))
        return Outputs(total / draws), stats

    return apply


def with_draws(stats: PyTree, seed: int) -> tuple[PyTree, PyTree]:
    """The stats that `averaged` takes: for the attacks, and for the judge."""
    base = jax.random.key(seed)
    words = [np.asarray(jax.random.key_data(jax.random.fold_in(base, use))) for use in (_ATTACKED, _JUDGING)]
    return (stats, words[0]), (stats, words[1])
