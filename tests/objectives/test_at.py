"""AT: the label's loss on attacked labelled images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.numerics import losses
from jaxrobust.objectives import AT
from jaxrobust.types import Net, RowKeys
from tests.common.objectives_table import PLAIN, Shift, batch


def test_loss_is_that_of_the_label_on_the_attacked_image():
    b = batch()
    keys = jax.random.split(jax.random.key(0), 12)
    params, stats = PLAIN.init(jax.random.key(1))
    net = Net(PLAIN, params, stats, jnp.float32(0))
    loss, aux = AT(attack=Shift(amount=0.2))(RowKeys(keys[:4], keys[4:]), net, b, ())
    logits = (b.image + 0.2).reshape(4, -1) @ params["kernel"]
    np.testing.assert_allclose(loss, losses.cross_entropy(logits, b.label).mean(), rtol=1e-6)
    np.testing.assert_allclose(aux.metrics["adversarial_accuracy"], (logits.argmax(-1) == b.label).mean())


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="warmup"):
        AT(attack=Shift(), warmup=-0.1)
    with pytest.raises(ValueError, match="attack"):
        AT(attack=3)
