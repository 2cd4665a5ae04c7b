"""Losses of classification, one value per row, larger is worse for the model; all work in log space.

A target is an integer class `[b]` or a distribution `[b, k]`. Inside jit nothing can be raised for a class
out of range: its loss is NaN, so that it is seen; `check_labels` raises on the host.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxrobust.types import Array


def _log_probabilities(logits: Array) -> Array:
    return jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))


def _is_class(target: Array) -> bool:
    return jnp.issubdtype(jnp.result_type(target), jnp.integer)


def _one_hot(label: Array, num_classes: int) -> Array:
    """`[b, k]`; NaN in the rows of labels out of range."""
    known = (label >= 0) & (label < num_classes)
    return jnp.where(known[..., None], jax.nn.one_hot(label, num_classes, dtype=jnp.float32), jnp.nan)


def _distribution(logits: Array, target: Array) -> Array:
    """The target as a distribution; a class becomes one-hot."""
    if _is_class(target):
        return _one_hot(target, logits.shape[-1])
    return target.astype(jnp.float32)


def _expected(target: Array, values: Array) -> Array:
    """sum_j t_j v_j, where a class of no weight counts 0 whatever its value.

    A class that a model masks has the logit -inf, and 0 * inf would be NaN.
    """
    masked = (target == 0) & jnp.isinf(values)
    return jnp.sum(target * jnp.where(masked, 0, values), axis=-1)


def cross_entropy(logits: Array, target: Array) -> Array:
    """Cross-entropy, L(z, t) = -sum_j t_j log softmax(z)_j, as in eqs. (11) and (13) of CN111401445A.

    Args:
        logits: `[b, k]`.
        target: classes `[b]` or distributions `[b, k]`.

    Returns:
        float32 `[b]`; its gradient, softmax(z) - t, is finite however large the logits. A masked class (logit
        -inf) counts for nothing, unless it is the target's: then the loss is inf.

    >>> float(cross_entropy(jnp.zeros((1, 4)), jnp.array([2]))[0])  # log 4
    1.3862943649291992
    """
    return -_expected(_distribution(logits, target), _log_probabilities(logits))


def kl(logits: Array, target: Array) -> Array:
    """KL(t || softmax(z)) = sum_j t_j (log t_j - log softmax(z)_j), 0 log 0 = 0 (TRADES, arXiv 1901.08573).

    Args:
        logits: `[b, k]`.
        target: classes `[b]` or distributions `[b, k]`; differentiable in both arguments.

    Returns:
        float32 `[b]`, >= 0 up to rounding.

    >>> float(kl(jnp.zeros((1, 4)), jnp.array([2]))[0])  # log 4
    1.3862943649291992
    """
    target = _distribution(logits, target)
    log_target = jnp.log(jnp.where(target > 0, target, 1))
    return _expected(target, log_target - _log_probabilities(logits))


def margin(logits: Array, target: Array) -> Array:
    """The largest other logit less the target's: max_{j != y} z_j - z_y (Carlini, Wagner, arXiv 1608.04644).

    Args:
        logits: `[b, k]`, k >= 2.
        target: classes `[b]`, or distributions `[b, k]`, of which the argmax is taken.

    Returns:
        float32 `[b]`; positive where the target's class is not the prediction. The gradient is the difference
        of two unit vectors (of averages of them where other logits tie).

    >>> float(margin(jnp.array([[1.0, 5.0, 3.0]]), jnp.array([1]))[0])
    -2.0
    """
    label = target if _is_class(target) else jnp.argmax(target, axis=-1)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    one_hot = _one_hot(label, logits.shape[-1])
    other = jnp.max(jnp.where(one_hot > 0, -jnp.inf, logits), axis=-1)
    # A sum, not an index, so that a label out of range gives NaN and not another class.
    return other - _expected(one_hot, logits)


def log_odds(logits: Array, target: Array) -> Array:
    """The log-odds of an error, log((1 - p_y) / p_y) = log sum_{j != y} exp z_j - z_y with p = softmax(z).

    It is log(exp(L) - 1) of the cross-entropy L: it rises with L, and its gradient has the same direction and
    does not vanish. In float32 that of L loses the part of z_y from a gap of 17 logits on, and is 0 from 104
    on. For attacks that use the direction of the gradient alone.

    Args:
        logits: `[b, k]`, k >= 2.
        target: classes `[b]`, or distributions `[b, k]`, of which the argmax is taken.

    Returns:
        float32 `[b]`; the gradient in z_y is -1, that in the others adds up to 1.

    >>> round(float(log_odds(jnp.zeros((1, 4)), jnp.array([2]))[0]), 4)  # log 3
    1.0986
    """
    label = target if _is_class(target) else jnp.argmax(target, axis=-1)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    one_hot = _one_hot(label, logits.shape[-1])
    others = jax.nn.logsumexp(jnp.where(one_hot > 0, -jnp.inf, logits), axis=-1)
    return others - _expected(one_hot, logits)


def dlr(logits: Array, target: Array) -> Array:
    """The difference of logits ratio, (max_{j != y} z_j - z_y) / (z_1 - z_3), arXiv 2003.01690, eq. (6).

    z_1 >= z_2 >= z_3 are the sorted logits. It does not change when the logits are shifted or rescaled, so a
    confident model does not hide its gradient.

    Args:
        logits: `[b, k]`.
        target: classes `[b]`, or distributions `[b, k]`, of which the argmax is taken.

    Returns:
        float32 `[b]`, at most 1 where z_y is among the two largest; positive where the target's class is not
        the prediction.

    Deviation: it is the margin, undivided, where the ratio is not defined: with fewer than three classes (of
    a logit above -inf), and where z_1 = z_3.

    >>> float(dlr(jnp.array([[1.0, 5.0, 3.0]]), jnp.array([1]))[0])
    -0.5
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if logits.shape[-1] < 3:
        return margin(logits, target)
    top = jax.lax.top_k(logits, 3)[0]
    return _ratio(margin(logits, target), top[..., 0] - top[..., 2])


def targeted_dlr(logits: Array, label: Array, target: Array) -> Array:
    """The targeted ratio, (z_t - z_y) / (z_1 - (z_3 + z_4) / 2), arXiv 2003.01690, eq. (7).

    Its ascent leads from the class y to the class t.

    Args:
        logits: `[b, k]`.
        label: the true classes `[b]`, or distributions `[b, k]`, of which the argmax is taken.
        target: the classes t `[b]` to lead to, other than the true ones.

    Returns:
        float32 `[b]`; positive where the target's logit is above the label's.

    Deviation: it is z_t - z_y, undivided, where the ratio is not defined: with fewer than four classes (of a
    logit above -inf), and where z_1 = z_4.

    >>> float(targeted_dlr(jnp.array([[1.0, 5.0, 3.0, 1.0]]), jnp.array([1]), jnp.array([2]))[0])
    -0.5
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    num_classes = logits.shape[-1]
    label = label if _is_class(label) else jnp.argmax(label, axis=-1)
    own, other = (_expected(_one_hot(classes, num_classes), logits) for classes in (label, target))
    if num_classes < 4:
        return other - own
    top = jax.lax.top_k(logits, 4)[0]
    return _ratio(other - own, top[..., 0] - (top[..., 2] + top[..., 3]) / 2)


def _ratio(difference: Array, scale: Array) -> Array:
    """`difference / scale`; undivided where the scale is 0 or infinite."""
    return difference / jnp.where((scale > 0) & jnp.isfinite(scale), scale, 1.0)


LOSSES = {"cross_entropy": cross_entropy, "kl": kl, "margin": margin, "log_odds": log_odds, "dlr": dlr}


def mean(values: Array) -> Array:
    """sum / max(count, 1): an empty stream gives 0, not NaN.

    >>> float(mean(jnp.zeros(0)))
    0.0
    """
    return jnp.sum(values) / max(values.size, 1)


def check_labels(labels: ArrayLike, num_classes: int) -> None:
    """Checks on the host, before compilation, that every label is an integer in [0, num_classes).

    Args:
        labels: any shape.
        num_classes: k.

    Raises:
        ValueError: names the first wrong label, its row and how many there are.

    >>> check_labels([0, 9], 10)
    """
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"Expected integer labels, got dtype {labels.dtype}. Convert them to int32.")
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        value = labels.ravel()[wrong[0]]
        raise ValueError(
            f"Expected labels in [0, {num_classes - 1}], got {value} in row {wrong[0]} "
            f"({wrong.size} of {labels.size} are out of range). Check the number of classes."
        )
