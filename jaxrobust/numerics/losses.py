"""Losses of classification, one value per row, larger is worse for the model; all work in log space.

A target is an integer class `[b]` or a distribution `[b, k]`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.types import Array


def _log_probabilities(logits: Array) -> Array:
    return jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))


def _is_class(target: Array) -> bool:
    return jnp.issubdtype(jnp.result_type(target), jnp.integer)


def _distribution(logits: Array, target: Array) -> Array:
    """The target as a distribution; a class becomes one-hot."""
    if _is_class(target):
        return jax.nn.one_hot(target, logits.shape[-1], dtype=jnp.float32)
    return target.astype(jnp.float32)


def cross_entropy(logits: Array, target: Array) -> Array:
    """Cross-entropy, L(z, t) = -sum_j t_j log softmax(z)_j, as in eqs. (11) and (13) of CN111401445A.

    Args:
        logits: `[b, k]`.
        target: classes `[b]` or distributions `[b, k]`.

    Returns:
        float32 `[b]`. A class out of range counts as an empty target, of loss 0: see `check_labels`.

    >>> import jax.numpy as jnp
    >>> float(cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))[0])  # log 4
    1.3862943649291992
    """
    return -jnp.sum(_distribution(logits, target) * _log_probabilities(logits), axis=-1)


def kl(logits: Array, target: Array) -> Array:
    """KL(t || softmax(z)) = sum_j t_j (log t_j - log softmax(z)_j), with 0 log 0 = 0 (TRADES, arXiv 1901.08573).

    Args:
        logits: `[b, k]`.
        target: classes `[b]` or distributions `[b, k]`.

    Returns:
        float32 `[b]`, >= 0 up to rounding.
    """
    target = _distribution(logits, target)
    positive = target > 0
    log_target = jnp.log(jnp.where(positive, target, 1))
    return jnp.sum(target * (log_target - _log_probabilities(logits)), axis=-1)


def margin(logits: Array, target: Array) -> Array:
    """The largest other logit less the target's: max_{j != y} z_j - z_y (Carlini and Wagner, arXiv 1608.04644).

    Args:
        logits: `[b, k]`, k >= 2.
        target: classes `[b]`, or distributions `[b, k]`, of which the argmax is taken.

    Returns:
        float32 `[b]`; positive where the target's class is not the prediction.
    """
    label = target if _is_class(target) else jnp.argmax(target, axis=-1)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    is_target = jnp.arange(logits.shape[-1]) == label[..., None]
    other = jnp.max(jnp.where(is_target, -jnp.inf, logits), axis=-1)
    return other - jnp.sum(jnp.where(is_target, logits, 0), axis=-1)


LOSSES = {"cross_entropy": cross_entropy, "kl": kl, "margin": margin}


def mean(values: Array) -> Array:
    """sum / max(count, 1): an empty stream gives 0, not NaN."""
    return jnp.sum(values) / max(values.size, 1)


def check_labels(labels, num_classes: int) -> None:
    """Raises ValueError unless every label is an integer in [0, num_classes); on the host, before compilation."""
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"Expected integer labels, got dtype {labels.dtype}. Convert them to int32.")
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        first = wrong[0]
        raise ValueError(
            f"Expected labels in [0, {num_classes - 1}], got {labels.ravel()[first]} in row {first} "
            f"({wrong.size} of {labels.size} are out of range). Check the number of classes."
        )
