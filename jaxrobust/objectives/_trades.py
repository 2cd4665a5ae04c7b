"""KL(f(x) || f(x')) with the gradient through both predictions: what TRADES, RST and KLR share."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.numerics import losses
from jaxrobust.objectives import _rows
from jaxrobust.objectives._targets import distribution
from jaxrobust.types import Array, Attack, Net


class Passes(NamedTuple):
    """The two passes in train mode: logits `[b, k]` of x and of x' (None without one), the net after them."""

    logits: Array
    perturbed: Array | None
    net: Net

    @property
    def divergence(self) -> Array:
        """KL(f(x) || f(x')) by row, `[b]`."""
        assert self.perturbed is not None
        # Not `distribution`: the gradient goes through f(x) too.
        return losses.kl(self.perturbed, jax.nn.softmax(self.logits))

    @property
    def agreement(self) -> Array:
        """The share of rows whose prediction the attack does not change."""
        assert self.perturbed is not None
        return _rows.accuracy(self.perturbed, jax.nn.softmax(self.logits))


def clean_and_perturbed(
    keys: Array, net: Net, images: Array, attack: Attack | None, *, warmup: float, joint_pass: bool = False
) -> Passes:
    """Attacks f(x) in eval mode, then passes x and x' in train mode: as one batch, or clean first.

    `attack`: None leaves x' out, and its pass.
    """
    clean_keys = _rows.keys_for(keys, _rows.CLEAN)
    if attack is None:
        outputs, net = net.train(images, clean_keys)
        return Passes(outputs.logits, None, net)
    target = distribution(net.frozen(images).logits)
    perturbed = _rows.adversarial(attack, keys, net, images, target, warmup)
    robust_keys = _rows.keys_for(keys, _rows.ADVERSARIAL)
    if joint_pass:
        both, both_keys = jnp.concatenate([images, perturbed]), jnp.concatenate([clean_keys, robust_keys])
        outputs, net = net.train(both, both_keys)
        return Passes(outputs.logits[: len(images)], outputs.logits[len(images) :], net)
    outputs, net = net.train(images, clean_keys)
    robust_outputs, net = net.train(perturbed, robust_keys)
    return Passes(outputs.logits, robust_outputs.logits, net)


def check_start(attack: Attack) -> None:
    """Raises ValueError for an attack that starts at x, where the KL is 0 and so is its gradient."""
    start = getattr(attack, "start_fn", None)
    if getattr(start, "__name__", "") == "identity_start":
        raise ValueError(
            "Expected an attack that starts beside the clean image, got start_fn=identity_start: the "
            "gradient of KL(f(x) || f(x')) is 0 at x' = x, so it would never move. "
            "Use start_fn=near_start(sigma=0.001)."
        )
