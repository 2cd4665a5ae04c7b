"""The classes that an attack goes through in turn."""

import jax
import jax.numpy as jnp

from jaxrobust.attacks._worst import class_of
from jaxrobust.types import Array


def likeliest_others(logits: Array, target: Array, num: int) -> Array:
    """The `min(num, k - 1)` classes `[b, n]` of the highest logits, the target's own excepted."""
    own = jax.nn.one_hot(class_of(target), logits.shape[-1], dtype=jnp.int32)
    # The target's class is last by a key of its own: masked classes have the logit -inf, and it may too.
    return jnp.lexsort((-logits, own), axis=-1)[..., : min(num, logits.shape[-1] - 1)]
