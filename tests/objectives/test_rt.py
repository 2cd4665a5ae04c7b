"""RT: the robust term on labelled images only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.objectives import RT
from jaxrobust.types import Net, RowKeys
from tests.common.objectives_table import LINEAR, Shift, batch


def test_passes_see_labelled_rows_only():
    b = batch()
    keys = jax.random.split(jax.random.key(0), 12)
    params, stats = LINEAR.init(jax.random.key(1))
    net = Net(LINEAR, params, stats, jnp.float32(0))
    _, aux = RT(attack=Shift())(RowKeys(keys[:4], keys[4:]), net, b, ())
    assert float(aux.stats["rows"]) == 8
    np.testing.assert_allclose(
        aux.metrics["loss"], aux.metrics["standard_loss"] + aux.metrics["robust_loss"], rtol=1e-6
    )


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="lam"):
        RT(attack=Shift(), lam=-1)
    with pytest.raises(ValueError, match="attack"):
        RT(attack=None)
