"""What a robust term holds on to: the frozen model's own prediction, as a class or as a distribution."""

import jax
import jax.numpy as jnp

from jaxrobust.types import Array


def hard_label(logits: Array) -> Array:
    """The predicted label C(x) = argmax f_w(x), as in eqs. (9) and (15) of CN111401445A.

    Args:
        logits: `[b, k]`.

    Returns:
        int32 `[b]`.

    >>> import jax.numpy as jnp
    >>> int(hard_label(jnp.array([[0.0, 2.0, 1.0]]))[0])
    1
    """
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def distribution(logits: Array) -> Array:
    """The predicted distribution f_w(x), held fixed; with `losses.kl` the robust term is KL(f(x) || f(x')).

    Args:
        logits: `[b, k]`.

    Returns:
        `[b, k]`, rows sum to 1.

    >>> import jax.numpy as jnp
    >>> float(distribution(jnp.zeros((1, 4)))[0, 0])
    0.25
    """
    return jax.lax.stop_gradient(jax.nn.softmax(logits, axis=-1))


TARGETS = {"hard_label": hard_label, "distribution": distribution}
