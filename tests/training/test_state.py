"""The initial state, and starting from given weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust.objectives import Standard
from jaxrobust.training import eval_weights, init_state
from tests.common.objectives_table import PLAIN


def make(**options):
    return init_state(jax.random.key(0), PLAIN, Standard(), optax.sgd(0.1, momentum=0.9), **options)


def test_average_is_kept_only_if_asked():
    state = make()
    assert state.ema == () and eval_weights(state)[0] is state.params
    averaged = make(ema_decay=0.9)
    assert eval_weights(averaged) is averaged.ema
    # Two names for one buffer could not both be donated.
    own, mean = averaged.params["kernel"], averaged.ema[0]["kernel"]
    assert own.unsafe_buffer_pointer() != mean.unsafe_buffer_pointer()


def test_starts_from_a_copy_of_given_weights():
    params, stats = PLAIN.init(jax.random.key(9))
    state = make(init_from=(params, stats))
    np.testing.assert_array_equal(state.params["kernel"], params["kernel"])
    pointers = state.params["kernel"].unsafe_buffer_pointer(), params["kernel"].unsafe_buffer_pointer()
    assert pointers[0] != pointers[1]


def test_weights_of_another_model_are_refused_by_name():
    _, stats = PLAIN.init(jax.random.key(9))
    with pytest.raises(ValueError, match=r"\['kernel'\] has shape \(5, 3\), the model wants \(4, 3\)"):
        make(init_from=({"kernel": jnp.zeros((5, 3))}, stats))
    with pytest.raises(ValueError, match=r"\['kernel'\] is missing.*\['weight'\] is not in the model"):
        make(init_from=({"weight": jnp.zeros((4, 3))}, stats))


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="ema_decay"):
        make(ema_decay=-0.5)
