"""Row by row: sub-keys, and values that are spread over the batch."""

import jax
import jax.numpy as jnp

from jaxrobust.types import Array, Example, PyTree


def fold_rows(keys: Array, purpose: int | Array) -> Array:
    """`fold_in(keys[i], purpose)` for every row -> `[b]`: what a row draws depends on its own key alone.

    `purpose` may be an array `[b]`, one for each row.
    """
    return jax.vmap(jax.random.fold_in, (0, 0 if jnp.ndim(purpose) else None))(keys, purpose)


def like_rows(tree: PyTree, example: Example) -> PyTree:
    """`tree` with leaves `[b, ...]`, marked as varying over the devices that the example's rows vary over.

    `shard_map` tracks this in types: a loop that starts from constants and ends with rows is refused.
    """
    zero = jnp.zeros_like(example.image[:, 0, 0, 0])
    return jax.tree.map(
        lambda leaf: leaf + zero.reshape((-1,) + (1,) * (leaf.ndim - 1)).astype(leaf.dtype), tree
    )
