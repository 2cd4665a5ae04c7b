"""Regular grids over the few parameters of a neighbourhood."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.types import Array


def axis(limit: float | Array, num: int, *, one_sided: bool = False) -> Array:
    """`num` values from -limit to limit, exactly symmetric, so that the middle one is exactly 0.

    One-sided: from 0 to limit. For one value, or a limit of 0 that is known, 0 alone.
    """
    if num == 1 or (not isinstance(limit, jax.core.Tracer) and limit == 0):
        return jnp.zeros(1)
    steps = np.arange(num) if one_sided else 2.0 * np.arange(num) - (num - 1)
    return jnp.asarray(limit * steps / (num - 1), jnp.float32)


def product(*axes: Array) -> list[Array]:
    """All combinations `[n]`, one array per axis; the last axis varies fastest."""
    return [values.ravel() for values in jnp.meshgrid(*axes, indexing="ij")]
