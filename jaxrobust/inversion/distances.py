"""What optimisation-based inversion brings down: how far features are from those that were seen."""

import jax
import jax.numpy as jnp

from jaxrobust.numerics.similarity import cosine
from jaxrobust.types import Array


def relative_squares(features: Array, target: Array) -> Array:
    r"""$\|f - f_0\|^2 / \|f_0\|^2$ of rows `[b, ...]` -> `[b]` (Mahendran and Vedaldi, CVPR 2015, eq. (3)).

    >>> relative_squares(jnp.array([[3.0, 0.0]]), jnp.array([[2.0, 0.0]])).tolist()
    [0.25]
    """
    given, wanted = _rows(features), _rows(target)
    length = jnp.square(wanted).sum(-1)
    return jnp.square(given - wanted).sum(-1) / jnp.where(length > 0, length, 1)


def one_minus_cosine(features: Array, target: Array) -> Array:
    """1 - cos(f, f_0) of rows `[b, ...]` -> `[b]`, for features whose length says nothing."""
    return 1 - cosine(_rows(features), _rows(target))


def one_minus_confidence(logits: Array, target: Array) -> Array:
    """1 - softmax(logits)_t of logits `[b, k]` and classes `[b]` (MIFace: Fredrikson et al., CCS 2015).

    >>> round(float(one_minus_confidence(jnp.zeros((1, 4)), jnp.array([2]))[0]), 4)
    0.75
    """
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], axis=-1)[:, 0]
    # Not 1 - p, whose digits are gone where p is near 1.
    return -jnp.expm1(chosen)


DISTANCES = {
    "relative_squares": relative_squares,
    "one_minus_cosine": one_minus_cosine,
    "one_minus_confidence": one_minus_confidence,
}


def _rows(values: Array) -> Array:
    return values.reshape(values.shape[0], -1).astype(jnp.float32)
