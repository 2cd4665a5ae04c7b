"""The surrogate of R_stand(D_L) + lam * R_rob(D), eq. (15): RT and SRT differ only in D."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrobust.numerics import losses
from jaxrobust.objectives import _rows
from jaxrobust.types import Array, Attack, Aux, Batch, LossFn, Net, PyTree, RowKeys


def robust_training(
    keys: RowKeys,
    net: Net,
    batch: Batch,
    obj_state: PyTree,
    *,
    attack: Attack,
    lam: float,
    loss_fn: LossFn,
    robust_loss_fn: LossFn,
    target_fn: Callable[[Array], Array],
    warmup: float,
    joint_pass: bool,
    lam_warmup: float = 0.0,
    confidence_power: float = 0.0,
) -> tuple[Array, Aux]:
    """mean L1(f(x), y) over labelled rows + lam * mean L2(f(x'), target_fn(f(x))) over all rows."""
    clean_keys = _rows.keys_for(keys.labelled, _rows.CLEAN)
    num_labelled = batch.image.shape[0]
    metrics = {}

    if lam == 0:
        outputs, net = net.train(batch.image, clean_keys)
        logits, robust_loss = outputs.logits, None
    else:
        images = jnp.concatenate([batch.image, batch.unlabelled])
        all_keys = jnp.concatenate([keys.labelled, keys.unlabelled])
        frozen = net.frozen(images).logits
        target = target_fn(frozen)
        perturbed = _rows.adversarial(attack, all_keys, net, images, target, warmup)
        robust_keys = _rows.keys_for(all_keys, _rows.ADVERSARIAL)
        if joint_pass:
            both = jnp.concatenate([batch.image, perturbed])
            outputs, net = net.train(both, jnp.concatenate([clean_keys, robust_keys]))
            logits, robust_logits = outputs.logits[:num_labelled], outputs.logits[num_labelled:]
        else:
            outputs, net = net.train(batch.image, clean_keys)
            robust_outputs, net = net.train(perturbed, robust_keys)
            logits, robust_logits = outputs.logits, robust_outputs.logits
        row_losses = robust_loss_fn(robust_logits, target)
        if confidence_power:
            confidence = jnp.max(jax.nn.softmax(frozen), axis=-1)
            row_losses = jax.lax.stop_gradient(confidence) ** confidence_power * row_losses
        robust_loss = losses.mean(row_losses)
        metrics = {"robust_loss": robust_loss, "agreement": _rows.accuracy(robust_logits, target)}

    standard_loss = losses.mean(loss_fn(logits, batch.label))
    weight = lam * jnp.clip(net.progress / lam_warmup, 0.0, 1.0) if lam_warmup else lam
    loss = standard_loss if robust_loss is None else standard_loss + weight * robust_loss
    metrics |= {"loss": loss, "standard_loss": standard_loss, "accuracy": _rows.accuracy(logits, batch.label)}
    return loss, Aux(net.stats, obj_state, metrics)
