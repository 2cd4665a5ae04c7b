"""Parts that every objective shares: keys by purpose, the inner attack, accuracies."""

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.numerics import losses
from jaxrobust.types import Array, Attack, Batch, Example, Net, RowKeys

ATTACK, CLEAN, ADVERSARIAL = range(3)


def keys_for(keys: Array, purpose: int) -> Array:
    """Sub-keys `[b]` for one purpose, so that the attack and the two dropout masks draw independently."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purpose)


def adversarial(attack: Attack, keys: Array, net: Net, images: Array, target: Array, warmup: float) -> Array:
    """x' of eq. (19): the attack's worst images for the frozen net, held fixed in the outer step (16)."""
    if warmup:
        attack = attack.scaled(jnp.clip(net.progress / warmup, 0.0, 1.0))
    result = attack(
        keys_for(keys, ATTACK), lambda x, _: net.frozen(x).logits, Example(image=images, target=target)
    )
    return jax.lax.stop_gradient(result.image)


def accuracy(logits: Array, target: Array) -> Array:
    """The share of rows whose largest logit is the target's class (of a distribution: its largest entry)."""
    classes = target if target.ndim == 1 else jnp.argmax(target, axis=-1)
    return losses.mean((jnp.argmax(logits, axis=-1) == classes).astype(logits.dtype))


def pseudo_labels(batch: Batch, who: str) -> Array:
    """The teacher's class of each unlabelled row, int32 `[m_u]`; ValueError where there is none."""
    if not batch.unlabelled.shape[0]:
        return jnp.zeros(0, batch.label.dtype)
    if batch.pseudo_label is None:
        raise ValueError(
            f"{who} needs a pseudo-label for each unlabelled image, and the batch has none. Give the "
            "experiment a teacher, or the feed's split `pseudo_labels`."
        )
    return batch.pseudo_label.astype(batch.label.dtype)


def labelled_only(batch: Batch, keys: RowKeys) -> tuple[Batch, RowKeys]:
    """The batch and keys without the unlabelled stream."""
    empty = batch._replace(unlabelled=batch.unlabelled[:0], pseudo_label=None)
    return empty, keys._replace(unlabelled=keys.unlabelled[:0])


def check(attack: Attack, warmup: float) -> None:
    """The checks that every adversarial objective makes at construction."""
    if not isinstance(attack, Attack):
        raise ValueError(
            f"Expected attack to be an attack such as PGD(neighbourhood=LInf(eps=0.3)), got {attack!r}."
        )
    _validate.within("warmup", warmup, 0.0, 1.0, "It is the fraction of the run over which eps grows from 0.")
