"""The step as a pure function: a step by hand, keys by global row, progress, averages."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust.numerics import losses
from jaxrobust.objectives import Standard
from jaxrobust.training import OptimizerConfig, init_state, make_train_step
from jaxrobust.training._keys import row_keys
from jaxrobust.types import Aux
from tests.common.objectives_table import PLAIN, batch


class Probe:
    """An objective that reports what it is given."""

    def init(self, params):
        return jnp.zeros((), jnp.int32)

    def __call__(self, keys, net, b, obj_state):
        loss = losses.mean(losses.cross_entropy(net.train(b.image, keys.labelled)[0].logits, b.label))
        metrics = {"progress": net.progress, "keys": jax.random.uniform(keys.labelled[0])}
        return loss, Aux(net.stats, obj_state + 1, metrics)


def start(objective, optimizer, **options):
    return init_state(jax.random.key(0), PLAIN, objective, optimizer, **options)


def test_one_step_of_sgd_by_hand():
    optimizer = OptimizerConfig(learning_rate=0.1, momentum=0.0, weight_decay=0.01).build(5)
    state, b = start(Standard(), optimizer), batch()
    new, metrics = jax.jit(make_train_step(PLAIN, Standard(), optimizer, num_steps=5))(
        state, b, jax.random.key(1)
    )
    x, w = np.asarray(b.image).reshape(4, -1), np.asarray(state.params["kernel"])
    gradient = x.T @ (jax.nn.softmax(x @ w) - np.eye(3)[np.asarray(b.label)]) / 4
    np.testing.assert_allclose(new.params["kernel"], w - 0.1 * (gradient + 0.01 * w), rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(gradient), rtol=1e-5)
    assert int(new.step) == 1 and new.ema == ()


def test_progress_objective_state_and_keys_of_each_step():
    optimizer = optax.sgd(0.0)
    step = jax.jit(make_train_step(PLAIN, Probe(), optimizer, num_steps=4))
    state, draws = start(Probe(), optimizer), []
    for number in range(3):
        state, metrics = step(state, batch(), jax.random.key(1))
        assert float(metrics["progress"]) == number / 4
        draws.append(float(metrics["keys"]))
    assert int(state.obj_state) == 3 and len(set(draws)) == 3
    assert step._cache_size() == 1


def test_average_of_weights_by_hand():
    optimizer = optax.sgd(0.5)
    step = jax.jit(make_train_step(PLAIN, Standard(), optimizer, num_steps=4, ema_decay=0.15))
    state = start(Standard(), optimizer, ema_decay=0.15)
    expected = np.asarray(state.params["kernel"])
    for number in range(3):
        state, _ = step(state, batch(seed=number), jax.random.key(1))
        decay = min(0.15, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * np.asarray(state.params["kernel"])
    np.testing.assert_allclose(state.ema[0]["kernel"], expected, rtol=1e-5)


def test_a_rows_key_is_that_of_its_place_in_the_global_batch():
    key = jax.random.key(3)
    whole = row_keys(key, 4, 8, None)
    split = jax.vmap(lambda _: row_keys(key, 2, 4, "d"), axis_name="d")(jnp.arange(2))
    for one, two in zip(whole, split):
        assert (jax.random.key_data(one) == jax.random.key_data(two.reshape(-1))).all()
    data = np.concatenate([jax.random.key_data(k) for k in whole])
    assert len(np.unique(data, axis=0)) == 12
    assert row_keys(key, 4, 0, None).unlabelled.shape == (0,)


def test_step_is_pure():
    optimizer = optax.adam(0.1)
    step = make_train_step(PLAIN, Standard(), optimizer, num_steps=4)
    state = start(Standard(), optimizer)
    first = jax.jit(step)(state, batch(), jax.random.key(1))
    second = jax.jit(step)(state, batch(), jax.random.key(1))
    chex.assert_trees_all_equal(first, second)


@pytest.mark.parametrize("options", [{"num_steps": 0}, {"num_steps": 5, "ema_decay": 1.0}])
def test_bad_values_are_refused(options):
    with pytest.raises(ValueError, match=r"num_steps|ema_decay"):
        make_train_step(PLAIN, Standard(), optax.sgd(0.1), **options)
