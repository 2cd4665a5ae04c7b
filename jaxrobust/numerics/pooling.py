"""Pooling over non-overlapping windows, with a gradient that is fast on CPU."""

import jax.numpy as jnp

from jaxrobust.types import Array


def max_pool(x: Array, *, window: tuple[int, int] = (2, 2)) -> Array:
    """The maximum over windows of `x` `[b, h, w, c]`, with stride = window; leftover rows and columns are cut off."""
    b, h, w, c = x.shape
    i, j = h // window[0], w // window[1]
    x = x[:, : i * window[0], : j * window[1]]
    return x.reshape(b, i, window[0], j, window[1], c).max(axis=(2, 4))


def global_avg_pool(x: Array) -> Array:
    """The mean over height and width: `[b, h, w, c]` to `[b, c]`."""
    return jnp.mean(x, axis=(1, 2))
