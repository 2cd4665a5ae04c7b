"""Semi-supervised robust training (SRT): standard risk on labelled images, robust risk on all images."""

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxrobust import _validate
from jaxrobust.numerics import losses
from jaxrobust.objectives import _rows
from jaxrobust.objectives._robust import robust_training
from jaxrobust.objectives._targets import hard_label
from jaxrobust.types import LATER, Array, Attack, Aux, Batch, LossFn, Net, PyTree, RowKeys


@dataclass(frozen=True, kw_only=True)
class SRT:
    r"""Minimises eq. (15) of CN111401445A, the surrogate of R_stand(D_L) + lam * R_rob(D_L u D_U), eq. (9).

    .. math:: \frac{1}{|D_L|} \sum_{(x, y) \in D_L} L_1(f_w(x), y)
              + \frac{\lambda}{|D'_L \cup D_U|} \sum_{x \in D'_L \cup D_U}
              \max_{x' \in N(x)} L_2(f_w(x'), C(x))

    C(x) = argmax f_w(x) is the eval-mode prediction of every image, the labelled ones included. x' comes from
    `attack` on the frozen net (19) and is held fixed in the gradient step (16). The patent's per-image means
    become means over the rows of the batch, whose two streams are in the sets' proportion. With an empty
    unlabelled stream this is `RT` exactly. (The reference code for geometry divides the *sum* of both terms
    by the number of rows; here lam always weighs means against means.)

    The attack climbs its own `loss_fn`; eq. (19) is about the L2 that is trained, so who changes one changes
    both: `SRT(attack=PGD(neighbourhood=..., loss_fn=losses.kl), robust_loss_fn=losses.kl)`, in overrides
    `objective.attack.loss_fn=kl objective.robust_loss_fn=kl`.

    Args:
        attack: finds x'.
        lam: the weight of the robust term, >= 0; 0 leaves the term out altogether and is `Standard`.
        loss_fn: L1, `(logits [b, k], label [b]) -> [b]`.
        robust_loss_fn: L2, `(logits [b, k], target) -> [b]`: `losses.cross_entropy`, `kl` or `margin`; set
            the attack's alike.
        target_fn: from eval-mode logits to the target: `hard_label` (C(x)) or `distribution` (f(x)).
        warmup: the fraction of the run, in [0, 1], over which the attack's radius grows linearly from 0.
        joint_pass: clean and adversarial images go through the net as one batch, which BatchNorm sees (the
            reference code does so for geometry); otherwise as two passes (pixels), each of which advances
            the statistics.
        lam_warmup: the fraction of the run, in [0, 1], over which lam grows linearly from 0; the target is
            what the net then predicts, and of a net that knows nothing yet it is noise.
        confidence_power: gamma >= 0; the robust term of an image counts p^gamma, where p is the eval-mode
            probability of its predicted class; 0 counts all alike, as published. A wrong pseudo-label is
            mostly an unsure one. There is no threshold to choose, below which an image would be lost. The
            weights are not divided by their mean: while the net is unsure of everything the whole term counts
            less, and no row's weight depends on the others.

    Raises:
        ValueError: if `lam` or `confidence_power` < 0, `warmup` or `lam_warmup` is outside [0, 1], or
            `attack` is not an attack.

    >>> from jaxrobust.attacks import PGD
    >>> from jaxrobust.neighbourhoods import LInf
    >>> SRT(attack=PGD(neighbourhood=LInf(eps=0.3)), lam=1.0, warmup=0.4).target_fn.__name__
    'hard_label'
    """

    attack: Attack
    lam: float = 1.0
    loss_fn: LossFn = losses.cross_entropy
    robust_loss_fn: LossFn = losses.cross_entropy
    target_fn: Callable[[Array], Array] = hard_label
    warmup: float = 0.0
    joint_pass: bool = False
    lam_warmup: float = field(default=0.0, metadata=LATER)
    confidence_power: float = field(default=0.0, metadata=LATER)

    def __post_init__(self):
        _rows.check(self.attack, self.warmup)
        _validate.non_negative("lam", self.lam)
        hint = "It is the fraction of the run over which lam grows from 0."
        _validate.within("lam_warmup", self.lam_warmup, 0.0, 1.0, hint)
        _validate.non_negative("confidence_power", self.confidence_power)

    def init(self, params: PyTree) -> PyTree:
        """No state."""
        return ()

    def __call__(self, keys: RowKeys, net: Net, batch: Batch, obj_state: PyTree) -> tuple[Array, Aux]:
        """The loss; metrics `loss`, `standard_loss`, `robust_loss`, `accuracy`, `agreement` under attack."""
        return robust_training(
            keys,
            net,
            batch,
            obj_state,
            attack=self.attack,
            lam=self.lam,
            loss_fn=self.loss_fn,
            robust_loss_fn=self.robust_loss_fn,
            target_fn=self.target_fn,
            warmup=self.warmup,
            joint_pass=self.joint_pass,
            lam_warmup=self.lam_warmup,
            confidence_power=self.confidence_power,
        )
