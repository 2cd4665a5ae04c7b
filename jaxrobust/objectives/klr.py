"""KL regularisation (KLR): cross-entropy, plus how far the worst transform moves the prediction."""

from dataclasses import dataclass

from jaxrobust import _validate
from jaxrobust.numerics import losses
from jaxrobust.objectives import _rows
from jaxrobust.objectives._trades import check_start, clean_and_perturbed
from jaxrobust.types import Array, Attack, Aux, Batch, LossFn, Net, PyTree, RowKeys


@dataclass(frozen=True, kw_only=True)
class KLR:
    r"""The invariance-inducing regulariser with the KL divergence (Yang et al., arXiv 1906.11235).

    .. math:: \frac{1}{|D_L|} \sum_{(x, y) \in D_L} (1 - a)\, L(f_w(x), y) + a\, L(f_w(x'), y)
              + \lambda\, \mathrm{KL}\big(f_w(x) \,\|\, f_w(x')\big), \qquad
              x' = \arg\max_{x' \in N(x)} \mathrm{KL}\big(f_w(x) \,\|\, f_w(x')\big)

    N(x) are rotations and translations, and x' is the worst of k = 10 random ones. The gradient goes through
    both predictions; x' is held fixed. The authors' batches for the cross-entropy are `nat` (a = 0), `rob`
    (a = 1) and `mix` (a = 1/2). With a = 0, the form in which SRT's source compares with it, this is `TRADES`
    in another neighbourhood, with its body (`_trades`) but for one thing: clean and transformed images go
    through the net as one batch, as in the authors' code, and BatchNorm sees both.

    Deviations. Where a > 0 the authors may choose a second x' for the cross-entropy, by the cross-entropy;
    here one x' serves both terms, which is the other choice of their code. The attack sees the net in eval
    mode, so that no row's x' depends on the others. Unlabelled images are ignored, as in the paper.

    Args:
        attack: finds x'; its target is the distribution f(x) `[b, k]`. On it `losses.cross_entropy`, the
            default of `RandomSearch`, ranks as the KL does: they differ by the entropy of f(x).
        lam: the weight of the divergence, >= 0; 0 leaves the term out, and with `adversarial_share` 0 this
            then is `Standard`.
        adversarial_share: a, the share of x' in the cross-entropy, in [0, 1].
        loss_fn: L, `(logits [b, k], label [b]) -> [b]`.
        warmup: the fraction of the run, in [0, 1], over which the attack's radius grows linearly from 0.
        joint_pass: clean and transformed images go through the net as one batch; otherwise clean first.

    Raises:
        ValueError: if `lam` < 0, `adversarial_share` or `warmup` is outside [0, 1], `attack` is not an
            attack, or it starts at the clean image.

    >>> from jaxrobust.attacks import RandomSearch
    >>> from jaxrobust.neighbourhoods import RotationTranslation
    >>> moves = RotationTranslation(max_angle=30.0, max_shift=3.0)
    >>> KLR(attack=RandomSearch(neighbourhood=moves, num=10), lam=1.0).adversarial_share
    0.0
    """

    attack: Attack
    lam: float = 1.0
    adversarial_share: float = 0.0
    loss_fn: LossFn = losses.cross_entropy
    warmup: float = 0.0
    joint_pass: bool = True

    def __post_init__(self):
        _rows.check(self.attack, self.warmup)
        _validate.non_negative("lam", self.lam)
        hint = "0 is cross-entropy on clean images, 1 on transformed ones."
        _validate.within("adversarial_share", self.adversarial_share, 0.0, 1.0, hint)
        check_start(self.attack)

    def init(self, params: PyTree) -> PyTree:
        """No state."""
        return ()

    def __call__(self, keys: RowKeys, net: Net, batch: Batch, obj_state: PyTree) -> tuple[Array, Aux]:
        """The loss; metrics `loss`, `standard_loss`, `robust_loss`, `accuracy`, `agreement` under attack."""
        share = self.adversarial_share
        attack = self.attack if self.lam or share else None
        passes = clean_and_perturbed(
            keys.labelled, net, batch.image, attack, warmup=self.warmup, joint_pass=self.joint_pass
        )
        loss = standard_loss = losses.mean(self.loss_fn(passes.logits, batch.label))
        if share and passes.perturbed is not None:
            adversarial_loss = losses.mean(self.loss_fn(passes.perturbed, batch.label))
            loss = standard_loss = (1 - share) * standard_loss + share * adversarial_loss
        metrics = {"standard_loss": standard_loss, "accuracy": _rows.accuracy(passes.logits, batch.label)}
        if attack is not None:
            metrics |= {"agreement": passes.agreement}
        if self.lam:
            robust_loss = losses.mean(passes.divergence)
            loss = standard_loss + self.lam * robust_loss
            metrics |= {"robust_loss": robust_loss}
        return loss, Aux(passes.net.stats, obj_state, {"loss": loss, **metrics})
