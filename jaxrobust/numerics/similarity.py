"""Similarity of embeddings, and the two logits that make a classifier of a verification model."""

import jax
import jax.numpy as jnp

from jaxrobust.numerics.projections import l2_direction
from jaxrobust.types import Array


def unit(embeddings: Array) -> Array:
    """Rows of `[b, d]` scaled to l2 length 1; a zero row stays zero, without NaN in its derivative."""
    return jax.vmap(l2_direction)(embeddings.astype(jnp.promote_types(embeddings.dtype, jnp.float32)))


def cosine(first: Array, second: Array) -> Array:
    """cos(first_i, second_i) of rows `[b, d]` -> `[b]` in [-1, 1] up to rounding.

    >>> float(cosine(jnp.array([[3.0, 0.0]]), jnp.array([[2.0, 2.0]]))[0])
    0.7071067690849304
    """
    return jnp.sum(unit(first) * unit(second), axis=-1)


def pair_logits(
    embeddings: Array, references: Array, threshold: float | Array, scale: float | Array
) -> Array:
    r"""The verification decision as two logits, $(z/2, -z/2)$ with $z = a\,(\cos(f(x), f(x')) - \tau)$.

    Class 0 is "the same person", class 1 "another person", so that softmax gives the match probability
    sigmoid(z), and every attack on a classifier is one on verification: away from class 0 is dodging, away
    from class 1 impersonation.

    Args:
        embeddings: `[b, d]`, f(x); of any length.
        references: `[b, d]`, the partners' embeddings f(x').
        threshold: tau in [-1, 1]: pairs above it match.
        scale: a > 0, the slope of the probability (Platt).

    Returns:
        float32 `[b, 2]`.

    >>> pair_logits(jnp.array([[1.0, 0.0]]), jnp.array([[1.0, 0.0]]), 0.5, 4.0).tolist()
    [[1.0, -1.0]]
    """
    z = scale * (cosine(embeddings, references) - threshold)
    return jnp.stack([z / 2, -z / 2], axis=-1)
