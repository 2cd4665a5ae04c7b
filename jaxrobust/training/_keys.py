"""Where randomness comes from: one key per row of the global batch, from the run's key and the step."""

import jax
import jax.numpy as jnp

from jaxrobust.types import Array, RowKeys

LABELLED, UNLABELLED = range(2)


def row_keys(key: Array, num_labelled: int, num_unlabelled: int, axis_name: str | None) -> RowKeys:
    """Keys of this device's rows: fold in the stream, then the row's place in the global batch.

    The counts are local; device i of `axis_name` holds rows i * count to (i + 1) * count - 1, so the keys of
    the global batch do not depend on the number of devices.
    """
    device = 0 if axis_name is None else jax.lax.axis_index(axis_name)

    def stream(number: int, count: int) -> Array:
        rows = device * count + jnp.arange(count)
        return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, number), rows)

    return RowKeys(stream(LABELLED, num_labelled), stream(UNLABELLED, num_unlabelled))
