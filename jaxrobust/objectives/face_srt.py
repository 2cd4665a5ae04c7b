"""SRT for faces: labelled faces are told apart, and no face's embedding moves far, labelled or not."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.numerics import losses
from jaxrobust.numerics.similarity import cosine
from jaxrobust.objectives import _face_adversary as faces
from jaxrobust.objectives import _rows
from jaxrobust.types import Array, Attack, Aux, Batch, LossFn, Net, PyTree, RowKeys


@dataclass(frozen=True, kw_only=True)
class FaceSRT:
    r"""Minimises eq. (15) of CN111401445A with the stability of the embedding as its robust term.

    .. math:: \frac{1}{|D_L|} \sum_{(x, y) \in D_L} L(f_w(x), y)
              + \frac{\lambda}{|D'_L \cup D_U|} \sum_{x \in D'_L \cup D_U}
              \max_{x' \in N(x)} \big(1 - \cos(e_w(x'), \bar e_w(x))\big)

    e is the embedding; the bar is the frozen net in eval mode, which the gradient leaves alone. Eqs. (9) and
    (15) hold an image to its predicted class C(x). Faces are told apart by embeddings, and unlabelled ones
    mostly show people whom no class stands for, so here an image is held to its own embedding and L2 is the
    distance of embeddings; no label is read but in L. The attack climbs -cos, by pair logits.

    Deviation from `SRT`: batch normalisation's running statistics are those of the clean labelled pass alone,
    since a mixture with perturbed images fits neither; prefer a net with group normalisation, whose two modes
    agree on what e(x) is.

    Args:
        attack: untargeted, of fixed radius; finds x', from a start beside x.
        lam: the weight of the robust term, >= 0; 0 leaves it out altogether and is `Standard`.
        loss_fn: L, `(logits [b, k], label [b]) -> [b]`: cross-entropy, `CosFace` or `ArcFace`.
        warmup: the fraction of the run, in [0, 1], over which the attack's radius grows linearly from 0.

    Raises:
        ValueError: if `lam` < 0, `warmup` is outside [0, 1], or `attack` is targeted or starts at x. At the
            first call: for a model without an embedding.

    >>> from jaxrobust.attacks import PGD
    >>> from jaxrobust.neighbourhoods import LInf
    >>> FaceSRT(attack=PGD(neighbourhood=LInf(eps=8 / 255), steps=5, step_size=1 / 3)).lam
    1.0
    """

    attack: Attack
    lam: float = 1.0
    loss_fn: LossFn = losses.cross_entropy
    warmup: float = 0.0

    def __post_init__(self) -> None:
        _rows.check(self.attack, self.warmup)
        faces.check_pair_attack(self.attack)
        _validate.non_negative("lam", self.lam)

    def init(self, params: PyTree) -> PyTree:
        """No state."""
        return ()

    def __call__(self, keys: RowKeys, net: Net, batch: Batch, obj_state: PyTree) -> tuple[Array, Aux]:
        """The loss; metrics `loss`, `standard_loss`, `accuracy` and, with lam > 0, `robust_loss`."""
        outputs, after = net.train(batch.image, _rows.keys_for(keys.labelled, _rows.CLEAN))
        standard = losses.mean(self.loss_fn(outputs.logits, batch.label))
        loss, metrics = standard, {}
        if self.lam:
            robust = self._instability(keys, net, batch)
            loss = standard + self.lam * robust
            metrics["robust_loss"] = robust
        metrics |= {
            "loss": loss,
            "standard_loss": standard,
            "accuracy": _rows.accuracy(outputs.logits, batch.label),
        }
        return loss, Aux(after.stats, obj_state, metrics)

    def _instability(self, keys: RowKeys, net: Net, batch: Batch) -> Array:
        """mean (1 - cos(e(x'), e(x))) over the rows of both streams."""
        images = jnp.concatenate([batch.image, batch.unlabelled])
        all_keys = jnp.concatenate([keys.labelled, keys.unlabelled])
        clean = jax.lax.stop_gradient(faces.embedding_of(net.frozen(images)))
        attack = self.attack
        if self.warmup:
            attack = attack.scaled(jnp.clip(net.progress / self.warmup, 0.0, 1.0))
        same = jnp.zeros(images.shape[0], jnp.int32)
        moved = faces.perturbed(attack, all_keys, net, images, clean, same)
        outputs, _ = net.train(moved, _rows.keys_for(all_keys, _rows.ADVERSARIAL))
        return losses.mean(1 - cosine(faces.embedding_of(outputs), clean))
