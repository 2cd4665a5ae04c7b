"""Unsupervised adversarial training (UAT): online targets, fixed targets of a standard model, or both."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.numerics import losses
from jaxrobust.objectives import _rows
from jaxrobust.objectives._targets import distribution
from jaxrobust.types import Array, Attack, Aux, Batch, Net, PyTree, RowKeys


@dataclass(frozen=True, kw_only=True)
class UAT:
    r"""UAT-OT, UAT-FT and UAT++ (Alayrac, Uesato et al., NeurIPS 2019, arXiv 1905.13725, section 3).

    .. math:: \frac{c}{|D_L|} \sum_{D_L} \mathrm{CE}(f_w(x), y) + \frac{1}{|D_L \cup D_U|}
              \sum_{D_L \cup D_U} \max_{x' \in N(x)} \Big[ a\, \mathrm{CE}(f_w(x'), \hat y(x))
              + b\, \mathrm{KL}\big(f_{\hat w}(x) \,\|\, f_w(x')\big) \Big]

    The target $\hat y(x)$ of a labelled image is its label; of an unlabelled one it is fixed:
    `Batch.pseudo_label`, the label of a standard model trained on D_L (`Experiment.teacher`). $\hat w$ is a
    copy of the present weights through which no gradient goes. The three forms:

    - UAT-OT, online targets, smoothness beside the supervised loss: `clean_weight=1, fixed_weight=0`. It is
      `SRT` with `target_fn=distribution` and `losses.kl`, exactly, and needs no pseudo-labels.
    - UAT-FT, fixed targets, adversarial training on labels and pseudo-labels: `online_weight=0`. Without
      unlabelled images it is `AT`, exactly.
    - UAT++, both: the defaults.

    A labelled image enters by its label through the fixed term where there is one, through `clean_weight`
    where there is not. What the authors published of their code evaluates only, so this follows the text, and
    for UAT++ the published code of the comparison in arXiv 2308.04061: one x' serves both terms, labelled
    images with their labels. Deviations: there x' climbs the fixed term alone. Here it climbs the sum that is
    trained, which is, up to what x' does not change, the cross-entropy to the mixture
    $(a\, 1_{\hat y} + b f_{\hat w}(x)) / (a + b)$: that is the attack's target, where both weights are
    positive. $f_{\hat w}(x)$ is of eval mode, as in SRT, not of train mode. The batch is in the sets'
    proportion, where the authors give labelled images a larger share.

    Args:
        attack: finds x'; its target is a class `[b]` where `online_weight` is 0, else a distribution
            `[b, k]`.
        online_weight: b, >= 0. What SRT's source compared with is not stated; 1 is ours.
        fixed_weight: a, >= 0.
        clean_weight: c, >= 0. A term of weight 0 is left out altogether.
        warmup: the fraction of the run, in [0, 1], over which the attack's radius grows linearly from 0.

    Raises:
        ValueError: if a weight is < 0 or all are 0, `warmup` is outside [0, 1], or `attack` is not an attack;
            when traced, for unlabelled rows without the pseudo-labels that the fixed term needs.

    >>> from jaxrobust.attacks import PGD
    >>> from jaxrobust.neighbourhoods import LInf
    >>> attack = PGD(neighbourhood=LInf(eps=0.3))
    >>> online = UAT(attack=attack, clean_weight=1.0, fixed_weight=0.0)
    >>> online.needs_pseudo_labels, UAT(attack=attack).needs_pseudo_labels
    (False, True)
    """

    attack: Attack
    online_weight: float = 1.0
    fixed_weight: float = 1.0
    clean_weight: float = 0.0
    warmup: float = 0.0

    def __post_init__(self):
        _rows.check(self.attack, self.warmup)
        for name in ("online_weight", "fixed_weight", "clean_weight"):
            _validate.non_negative(name, getattr(self, name))
        if not (self.online_weight or self.fixed_weight or self.clean_weight):
            raise ValueError("Expected online_weight, fixed_weight or clean_weight > 0, got 0 for all three.")

    @property
    def needs_pseudo_labels(self) -> bool:
        """Whether an experiment must have a teacher."""
        return self.fixed_weight > 0

    def init(self, params: PyTree) -> PyTree:
        """No state."""
        return ()

    def __call__(self, keys: RowKeys, net: Net, batch: Batch, obj_state: PyTree) -> tuple[Array, Aux]:
        """The loss; metrics `loss` and, of the terms there are, `standard_loss` and `accuracy` on clean
        labelled rows, `fixed_loss`, `online_loss`, and `adversarial_accuracy` on the labelled rows' x'."""
        num_labelled = batch.image.shape[0]
        terms: list[Array] = []
        metrics: dict[str, Array] = {}
        robust = self.online_weight or self.fixed_weight
        if robust:
            images = jnp.concatenate([batch.image, batch.unlabelled])
            all_keys = jnp.concatenate([keys.labelled, keys.unlabelled])
            label, online = self._targets(net, images, batch)
            target = self._aim(label, online)
            perturbed = _rows.adversarial(self.attack, all_keys, net, images, target, self.warmup)
        if self.clean_weight:
            outputs, net = net.train(batch.image, _rows.keys_for(keys.labelled, _rows.CLEAN))
            standard_loss = losses.mean(losses.cross_entropy(outputs.logits, batch.label))
            terms.append(self.clean_weight * standard_loss)
            accuracy = _rows.accuracy(outputs.logits, batch.label)
            metrics |= {"standard_loss": standard_loss, "accuracy": accuracy}
        if robust:
            outputs, net = net.train(perturbed, _rows.keys_for(all_keys, _rows.ADVERSARIAL))
            logits = outputs.logits
            if label is not None:
                metrics["fixed_loss"] = losses.mean(losses.cross_entropy(logits, label))
                terms.append(self.fixed_weight * metrics["fixed_loss"])
            if online is not None:
                metrics["online_loss"] = losses.mean(losses.kl(logits, online))
                terms.append(self.online_weight * metrics["online_loss"])
            metrics["adversarial_accuracy"] = _rows.accuracy(logits[:num_labelled], batch.label)
        loss = sum(terms[1:], start=terms[0])
        return loss, Aux(net.stats, obj_state, {"loss": loss, **metrics})

    def _targets(self, net: Net, images: Array, batch: Batch) -> tuple[Array | None, Array | None]:
        """The fixed classes `[b]` and the online distributions `[b, k]`, None where a term is left out."""
        label = online = None
        if self.fixed_weight:
            label = jnp.concatenate([batch.label, _rows.pseudo_labels(batch, "UAT with a fixed term")])
        if self.online_weight:
            online = distribution(net.frozen(images).logits)
        return label, online

    def _aim(self, label: Array | None, online: Array | None) -> Array:
        """What the attack leads away from, so that it climbs the sum of the terms."""
        if label is None or online is None:
            found = online if label is None else label
            assert found is not None
            return found
        total = self.fixed_weight + self.online_weight
        one_hot = jax.nn.one_hot(label, online.shape[-1])
        return (self.fixed_weight / total) * one_hot + (self.online_weight / total) * online
