"""Adversarial training (AT): the label's loss on the worst image near each labelled one."""

from dataclasses import dataclass

from jaxrobust.numerics import losses
from jaxrobust.objectives import _rows
from jaxrobust.types import Array, Attack, Aux, Batch, LossFn, Net, PyTree, RowKeys


@dataclass(frozen=True, kw_only=True)
class AT:
    r"""Minimises the surrogate of the adversarial risk on D_L (Madry et al., arXiv 1706.06083, eq. (2.1)).

    .. math:: \frac{1}{|D_L|} \sum_{(x, y) \in D_L} \max_{x' \in N(x)} L(f_w(x'), y)

    It is the surrogate of eq. (5) of CN111401445A. With random search over rotations and translations as the
    attack this is Worst-of-k, with a `Sequence` of that and PGD on pixels AT+. The attack sees the net in
    eval mode (Madry's code: train mode), so that one row's attack does not depend on the others. Unlabelled
    images are ignored.

    Args:
        attack: finds x'; its own loss is usually the same as `loss_fn`.
        loss_fn: L, `(logits [b, k], label [b]) -> [b]`.
        warmup: the fraction of the run, in [0, 1], over which the attack's radius grows linearly from 0.

    Raises:
        ValueError: if `attack` is not an attack or `warmup` is outside [0, 1].

    >>> from jaxrobust.attacks import RandomSearch
    >>> from jaxrobust.neighbourhoods import RotationTranslation
    >>> geometry = RotationTranslation(max_angle=30.0, max_shift=3.0)
    >>> worst_of_10 = AT(attack=RandomSearch(neighbourhood=geometry, num=10))
    """

    attack: Attack
    loss_fn: LossFn = losses.cross_entropy
    warmup: float = 0.0

    def __post_init__(self):
        _rows.check(self.attack, self.warmup)

    def init(self, params: PyTree) -> PyTree:
        """No state."""
        return ()

    def __call__(self, keys: RowKeys, net: Net, batch: Batch, obj_state: PyTree) -> tuple[Array, Aux]:
        """The loss on the attacked labelled rows; metrics `loss` and `adversarial_accuracy`."""
        perturbed = _rows.adversarial(self.attack, keys.labelled, net, batch.image, batch.label, self.warmup)
        outputs, net = net.train(perturbed, _rows.keys_for(keys.labelled, _rows.ADVERSARIAL))
        loss = losses.mean(self.loss_fn(outputs.logits, batch.label))
        metrics = {"loss": loss, "adversarial_accuracy": _rows.accuracy(outputs.logits, batch.label)}
        return loss, Aux(net.stats, obj_state, metrics)
