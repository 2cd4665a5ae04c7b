"""From a value per pixel and channel to one per pixel."""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp

from jaxrobust.types import Array

ReduceFn: TypeAlias = Callable[[Array], Array]
"""`[b, h, w, c] -> [b, h, w]`."""


def channel_sum(values: Array) -> Array:
    """The sum over channels, signed: for a gradient, what brightening a pixel would add."""
    return values.sum(axis=-1)


def largest_magnitude(values: Array) -> Array:
    """The largest absolute value over channels, >= 0 (Simonyan et al., arXiv 1312.6034, section 3).

    Of a gradient it says how much a pixel matters, brighter or darker, and not which way.
    """
    return jnp.abs(values).max(axis=-1)
