"""Standard training: the surrogate of the standard risk alone."""

from dataclasses import dataclass

from jaxrobust.numerics import losses
from jaxrobust.objectives import _rows
from jaxrobust.types import Array, Aux, Batch, LossFn, Net, PyTree, RowKeys


@dataclass(frozen=True, kw_only=True)
class Standard:
    r"""Minimises the surrogate of the standard risk, eqs. (1) and (11) of CN111401445A.

    .. math:: \frac{1}{|D_L|} \sum_{(x, y) \in D_L} L_1(f_w(x), y)

    Unlabelled images are ignored.

    Args:
        loss_fn: L1, `(logits [b, k], label [b]) -> [b]`.

    >>> Standard().loss_fn.__name__
    'cross_entropy'
    """

    loss_fn: LossFn = losses.cross_entropy

    def init(self, params: PyTree) -> PyTree:
        """No state."""
        return ()

    def __call__(self, keys: RowKeys, net: Net, batch: Batch, obj_state: PyTree) -> tuple[Array, Aux]:
        """The loss on the labelled rows; metrics `loss`, `standard_loss`, `accuracy`."""
        outputs, net = net.train(batch.image, _rows.keys_for(keys.labelled, _rows.CLEAN))
        loss = losses.mean(self.loss_fn(outputs.logits, batch.label))
        metrics = {
            "loss": loss,
            "standard_loss": loss,
            "accuracy": _rows.accuracy(outputs.logits, batch.label),
        }
        return loss, Aux(net.stats, obj_state, metrics)
