"""Sub-keys, row by row, so that what a row draws depends on that row's key alone."""

import jax

from jaxrobust.types import Array


def fold_rows(keys: Array, purpose: int | Array) -> Array:
    """`fold_in(keys[i], purpose)` for every row -> `[b]`."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purpose)
