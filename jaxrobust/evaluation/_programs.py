"""What is compiled for an evaluation: the attack, the model's answers, and the rounding to 8 bits.

Two programs serve everything: `_attack`, one per attack and model shape, and `_predict`, one per model shape;
a third rounds pixels. Parameters and the radius are arguments: other weights, radii and subsets never compile
again.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks._blocks import by_blocks
from jaxrobust.attacks._rows import fold_rows
from jaxrobust.data import to_float
from jaxrobust.data.feed import PixelsT
from jaxrobust.evaluation import _sharding
from jaxrobust.types import Example


def _logits(apply_fn, params, stats, images):
    return by_blocks(lambda x: apply_fn(params, stats, x, train=False)[0].logits, images)


def _attack(apply_fn, attack, shared, rows):
    params, stats, factor, key, folds = shared
    index, images, targets = rows

    def score_fn(x, example):
        return _logits(apply_fn, params, stats, x)

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    for at in range(folds.shape[0]):
        keys = fold_rows(keys, folds[at])
    result = attack.scaled(factor)(keys, score_fn, Example(images, targets))
    nonfinite = jnp.zeros(len(index), bool) if result.nonfinite is None else result.nonfinite
    length = jnp.full(len(index), jnp.nan)
    if is_minimum_norm(attack):
        length = jax.vmap(attack.neighbourhood.length)(result.image - images)
    return result.image, result.distance, nonfinite, length


def _predict(apply_fn, shared, images):
    params, stats = shared
    logits = _logits(apply_fn, params, stats, images).astype(jnp.float32)
    confidence = jnp.max(jax.nn.softmax(logits), axis=-1)
    return logits, jnp.argmax(logits, axis=-1).astype(jnp.int32), confidence


def _rounded(shared, images):
    """The 8-bit rounding, and the least and the greatest pixel of each image."""
    del shared
    return to_8bit(images), images.min(axis=(1, 2, 3)), images.max(axis=(1, 2, 3))


def to_8bit(images: PixelsT) -> PixelsT:
    """What an image file would keep: pixels of 256 levels, the same floats that the file is read as."""
    return to_float((images * np.float32(255)).round().clip(0, 255))


# Made at first use: reading the backend at import would come before jax.distributed.initialize.
@functools.cache
def programs() -> tuple[Any, Any]:
    """`_attack` and `_predict`, compiled for one device or several."""
    return _sharding.compiled(_attack, num_static=2), _sharding.compiled(_predict, num_static=1)


@functools.cache
def rounding() -> Any:
    """`_rounded`, compiled of its own: within `_predict` its products might be joined with the model's."""
    return _sharding.compiled(_rounded, num_static=0)


def is_minimum_norm(attack: Any) -> bool:
    """Whether the attack looks for the nearest adversarial image, at any distance."""
    return bool(getattr(attack, "minimum_norm", False))


def num_compiled() -> int:
    """How many programs the evaluation of this process has compiled; for tests and timing."""
    return sum(program._cache_size() for program in programs())
