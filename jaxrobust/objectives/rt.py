"""Robust training (RT): standard risk plus robust risk, both on the labelled images."""

from collections.abc import Callable
from dataclasses import dataclass, field

from jaxrobust import _validate
from jaxrobust.numerics import losses
from jaxrobust.objectives import _rows
from jaxrobust.objectives._robust import robust_training
from jaxrobust.objectives._targets import hard_label
from jaxrobust.types import LATER, Array, Attack, Aux, Batch, LossFn, Net, PyTree, RowKeys


@dataclass(frozen=True, kw_only=True)
class RT:
    r"""Minimises the surrogate of eq. (8) of CN111401445A, R_stand(D_L) + lam * R_rob(D_L).

    .. math:: \frac{1}{|D_L|} \sum_{(x, y) \in D_L} L_1(f_w(x), y)
              + \frac{\lambda}{|D_L|} \sum_{x \in D'_L} \max_{x' \in N(x)} L_2(f_w(x'), C(x))

    `batch.unlabelled` is ignored. C(x) is the eval-mode prediction, not the label: the second term alone
    needs no label. `SRT` is the same with the unlabelled images in the second term.

    The attack climbs its own `loss_fn`; eq. (19) is about the L2 that is trained, so who changes one changes
    both: `RT(attack=PGD(neighbourhood=..., loss_fn=losses.kl), robust_loss_fn=losses.kl)`, in overrides
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

    Raises:
        ValueError: if `lam` < 0, `warmup` or `lam_warmup` is outside [0, 1], or `attack` is not an attack.

    >>> from jaxrobust.attacks import PGD
    >>> from jaxrobust.neighbourhoods import LInf
    >>> RT(attack=PGD(neighbourhood=LInf(eps=0.3)), lam=-1.0)
    Traceback (most recent call last):
    ...
    ValueError: Expected lam >= 0, got lam=-1.0.
    """

    attack: Attack
    lam: float = 1.0
    loss_fn: LossFn = losses.cross_entropy
    robust_loss_fn: LossFn = losses.cross_entropy
    target_fn: Callable[[Array], Array] = hard_label
    warmup: float = 0.0
    joint_pass: bool = False
    lam_warmup: float = field(default=0.0, metadata=LATER)

    def __post_init__(self):
        _rows.check(self.attack, self.warmup)
        _validate.non_negative("lam", self.lam)
        hint = "It is the fraction of the run over which lam grows from 0."
        _validate.within("lam_warmup", self.lam_warmup, 0.0, 1.0, hint)

    def init(self, params: PyTree) -> PyTree:
        """No state."""
        return ()

    def __call__(self, keys: RowKeys, net: Net, batch: Batch, obj_state: PyTree) -> tuple[Array, Aux]:
        """The loss; metrics `loss`, `standard_loss`, `robust_loss`, `accuracy`, `agreement` under attack."""
        batch, keys = _rows.labelled_only(batch, keys)
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
        )
