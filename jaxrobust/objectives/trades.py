"""TRADES: the label's loss on the clean image, plus how far the worst image near it moves the prediction."""

from dataclasses import dataclass

from jaxrobust import _validate
from jaxrobust.numerics import losses
from jaxrobust.objectives import _rows
from jaxrobust.objectives._trades import check_start, clean_and_perturbed
from jaxrobust.types import Array, Attack, Aux, Batch, LossFn, Net, PyTree, RowKeys


@dataclass(frozen=True, kw_only=True)
class TRADES:
    r"""Trades accuracy for robustness at the rate beta (Zhang et al., arXiv 1901.08573, multi-class form).

    .. math:: \frac{1}{|D_L|} \sum_{(x, y) \in D_L} \Big[ L(f_w(x), y)
              + \beta \max_{x' \in N(x)} \mathrm{KL}\big(f_w(x) \,\|\, f_w(x')\big) \Big],
              \qquad \beta = 1 / \lambda \text{ of the paper}

    The second term needs no label, like SRT's. Unlike SRT's, its target is the whole distribution f(x), and
    the gradient goes through f(x) as well as through f(x'); x' itself is held fixed, as in the authors' code.
    Unlabelled images are ignored.

    Which mode a pass has, as in the authors' code: the attack sees the net in eval mode, and leads away from
    the eval-mode f(x), computed once, so that no row's attack depends on the others and none advances
    BatchNorm's statistics. The loss is of two passes in train mode, clean and adversarial. The clean one
    serves both terms; the authors make it twice, with equal results but for another draw of dropout in f(x)
    of the second term and one more advance of the statistics.

    The authors' attack is `PGD(neighbourhood=LInf(eps=0.031), steps=10, step_size=0.007 / 0.031,
    loss_fn=losses.kl, start_fn=near_start(sigma=0.001), keep_worst=False)`. It must not start at x, where the
    KL is 0 and so is its gradient. On a distribution `losses.cross_entropy`, the default of most attacks,
    climbs the same hill: it is the KL plus the entropy of f(x), which x' does not change.

    Args:
        attack: finds x'; its target is the distribution f(x) `[b, k]`.
        beta: the weight of the robust term, >= 0; 6 and 1 in the paper. 0 leaves the term out altogether and
            is `Standard`.
        loss_fn: L of the first term, `(logits [b, k], label [b]) -> [b]`.
        warmup: the fraction of the run, in [0, 1], over which the attack's radius grows linearly from 0.

    Raises:
        ValueError: if `beta` < 0, `warmup` is outside [0, 1], `attack` is not an attack, or it starts at the
            clean image.

    >>> from jaxrobust.attacks import PGD, near_start
    >>> from jaxrobust.neighbourhoods import LInf
    >>> attack = PGD(neighbourhood=LInf(eps=0.031), steps=10, loss_fn=losses.kl, start_fn=near_start(0.001))
    >>> TRADES(attack=attack, beta=6.0).loss_fn.__name__
    'cross_entropy'
    """

    attack: Attack
    beta: float = 6.0
    loss_fn: LossFn = losses.cross_entropy
    warmup: float = 0.0

    def __post_init__(self):
        _rows.check(self.attack, self.warmup)
        _validate.non_negative("beta", self.beta)
        check_start(self.attack)

    def init(self, params: PyTree) -> PyTree:
        """No state."""
        return ()

    def __call__(self, keys: RowKeys, net: Net, batch: Batch, obj_state: PyTree) -> tuple[Array, Aux]:
        """The loss; metrics `loss`, `standard_loss`, `robust_loss`, `accuracy`, `agreement` under attack."""
        attack = self.attack if self.beta else None
        passes = clean_and_perturbed(keys.labelled, net, batch.image, attack, warmup=self.warmup)
        loss = standard_loss = losses.mean(self.loss_fn(passes.logits, batch.label))
        metrics = {"standard_loss": standard_loss, "accuracy": _rows.accuracy(passes.logits, batch.label)}
        if self.beta:
            robust_loss = losses.mean(passes.divergence)
            loss = standard_loss + self.beta * robust_loss
            metrics |= {"robust_loss": robust_loss, "agreement": passes.agreement}
        return loss, Aux(passes.net.stats, obj_state, {"loss": loss, **metrics})
