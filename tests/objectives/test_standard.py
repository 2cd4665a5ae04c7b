"""Standard training: the mean loss of the labelled rows."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.numerics import losses
from jaxrobust.objectives import Standard
from jaxrobust.types import Net, RowKeys
from tests.common.objectives_table import PLAIN, batch


def test_loss_and_accuracy_by_hand():
    b = batch()
    keys = jax.random.split(jax.random.key(0), 12)
    params, stats = PLAIN.init(jax.random.key(1))
    net = Net(PLAIN, params, stats, jnp.float32(0))
    loss, aux = Standard()(RowKeys(keys[:4], keys[4:]), net, b, ())
    logits = b.image.reshape(4, -1) @ params["kernel"]
    np.testing.assert_allclose(loss, losses.cross_entropy(logits, b.label).mean(), rtol=1e-6)
    np.testing.assert_allclose(aux.metrics["accuracy"], (logits.argmax(-1) == b.label).mean())
