"""Robust self-training (RST): a standard model's labels for the unlabelled images, then TRADES on all."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.numerics import losses
from jaxrobust.objectives import _rows
from jaxrobust.objectives._trades import check_start, clean_and_perturbed
from jaxrobust.types import Array, Attack, Aux, Batch, LossFn, Net, PyTree, RowKeys


@dataclass(frozen=True, kw_only=True)
class RST:
    r"""The robust phase of robust self-training (Carmon et al., arXiv 1905.13736, Meta-Algorithm 1).

    .. math:: \frac{\sum_{D_L} \ell(x, y) + \omega \sum_{D_U} \ell(x, \tilde y)}{|D_L| + \omega |D_U|},
              \qquad \ell(x, y) = L(f_w(x), y)
              + \beta \max_{x' \in N(x)} \mathrm{KL}\big(f_w(x) \,\|\, f_w(x')\big)

    $\tilde y$ is `Batch.pseudo_label`: what a standard model, trained on D_L, says of the unaugmented image,
    fixed for the whole run (`Experiment.teacher`). The second term needs no label, so the pseudo-labels enter
    through the first alone. x' and the modes of the passes are those of `TRADES`, which this is exactly
    without unlabelled images, and with `unlabelled_weight` 0.

    omega is the paper's w. Deviations: the paper writes the sum without its denominator; here the sizes of
    the steps do not depend on omega. The authors' code gives omega through the batch, half of which is
    unlabelled whatever the sets' sizes; here the batch is in the sets' proportion (or as
    `Experiment.labelled_per_step` says) and omega weighs its rows. Their code passes x' before x; here x is
    first, as in TRADES.

    Args:
        attack: finds x'; its target is the distribution f(x) `[b, k]`. See `TRADES` for the authors' own.
        beta: the weight of the robust term, >= 0; 6 in the paper.
        unlabelled_weight: omega, the weight of an unlabelled row against a labelled one, >= 0; 0 leaves the
            unlabelled rows out altogether.
        loss_fn: L, `(logits [b, k], label [b]) -> [b]`.
        warmup: the fraction of the run, in [0, 1], over which the attack's radius grows linearly from 0.

    Raises:
        ValueError: if `beta` or `unlabelled_weight` < 0, `warmup` is outside [0, 1], `attack` is not an
            attack or starts at the clean image; when traced, for unlabelled rows without pseudo-labels.

    >>> from jaxrobust.attacks import PGD
    >>> from jaxrobust.neighbourhoods import LInf
    >>> RST(attack=PGD(neighbourhood=LInf(eps=0.3), loss_fn=losses.kl)).beta
    6.0
    """

    needs_pseudo_labels: ClassVar[bool] = True

    attack: Attack
    beta: float = 6.0
    unlabelled_weight: float = 1.0
    loss_fn: LossFn = losses.cross_entropy
    warmup: float = 0.0

    def __post_init__(self):
        _rows.check(self.attack, self.warmup)
        _validate.non_negative("beta", self.beta)
        _validate.non_negative("unlabelled_weight", self.unlabelled_weight)
        check_start(self.attack)

    def init(self, params: PyTree) -> PyTree:
        """No state."""
        return ()

    def __call__(self, keys: RowKeys, net: Net, batch: Batch, obj_state: PyTree) -> tuple[Array, Aux]:
        """The loss; metrics `loss`, `standard_loss`, `robust_loss`, `accuracy` (of the labelled rows),
        `agreement` under attack."""
        if not self.unlabelled_weight:
            batch, keys = _rows.labelled_only(batch, keys)
        num_labelled = batch.image.shape[0]
        images = jnp.concatenate([batch.image, batch.unlabelled])
        target = jnp.concatenate([batch.label, _rows.pseudo_labels(batch, "RST")])
        all_keys = jnp.concatenate([keys.labelled, keys.unlabelled])
        attack = self.attack if self.beta else None
        passes = clean_and_perturbed(all_keys, net, images, attack, warmup=self.warmup)

        loss = standard_loss = self._mean(self.loss_fn(passes.logits, target), num_labelled)
        accuracy = _rows.accuracy(passes.logits[:num_labelled], batch.label)
        metrics = {"standard_loss": standard_loss, "accuracy": accuracy}
        if self.beta:
            robust_loss = self._mean(passes.divergence, num_labelled)
            loss = standard_loss + self.beta * robust_loss
            metrics |= {"robust_loss": robust_loss, "agreement": passes.agreement}
        return loss, Aux(passes.net.stats, obj_state, {"loss": loss, **metrics})

    def _mean(self, values: Array, num_labelled: int) -> Array:
        """The weighted mean; the numbers of rows are static and in one proportion on every device."""
        if self.unlabelled_weight in (0, 1):
            return losses.mean(values)
        weight = self.unlabelled_weight
        total = values[:num_labelled].sum() + weight * values[num_labelled:].sum()
        return total / (num_labelled + weight * (values.shape[0] - num_labelled))
