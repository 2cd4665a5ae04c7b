"""What every component refuses at construction."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust import _validate
from jaxrobust.attacks import PGD
from jaxrobust.experiments import registry
from jaxrobust.neighbourhoods import L2, LInf, RotationTranslation
from jaxrobust.training import OptimizerConfig, init_state, make_train_step
from tests.common.objectives_table import LINEAR, OBJECTIVES_TABLE


@pytest.mark.parametrize(
    "value", [True, np.True_, np.array(0.1), np.array([0.1]), jnp.array([0.1]), "0.1x", None, float("nan")]
)
@pytest.mark.parametrize(
    "make",
    [
        lambda value: LInf(eps=value),
        lambda value: L2(eps=value),
        lambda value: RotationTranslation(max_angle=1.0, max_shift=value),
        lambda value: RotationTranslation(max_angle=value, max_shift=1.0),
    ],
)
def test_a_radius_is_a_finite_number(make, value):
    with pytest.raises(ValueError, match=r"eps|max_shift|max_angle"):
        make(value)


@pytest.mark.parametrize("value", [True, 2.0, np.array(2), jnp.array(2), "2", None])
def test_a_count_is_an_integer(value):
    with pytest.raises(ValueError, match=r"Expected an integer steps, got steps="):
        PGD(neighbourhood=LInf(eps=0.1), steps=value)
    assert PGD(neighbourhood=LInf(eps=0.1), steps=np.int64(2)).steps == 2


def test_a_scaled_radius_may_be_a_scalar_of_jax():
    assert float(LInf(eps=0.2).scaled(jnp.array(0.5)).eps) == pytest.approx(0.1)
    assert float(jax.jit(lambda factor: LInf(eps=0.2).scaled(factor).eps)(0.5)) == pytest.approx(0.1)


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5])
def test_a_decay_of_one_is_refused_everywhere(value):
    objective, optimizer = OBJECTIVES_TABLE["standard"].make(None), OptimizerConfig().build(2)
    for make in (
        lambda: _validate.decay("ema_decay", value),
        lambda: init_state(jax.random.key(0), LINEAR, objective, optimizer, ema_decay=value),
        lambda: make_train_step(LINEAR, objective, optimizer, num_steps=2, ema_decay=value),
        lambda: dataclasses.replace(registry.get("digits_srt"), ema_decay=value),
    ):
        with pytest.raises(ValueError, match="Expected 0 <= ema_decay < 1"):
            make()


def test_an_unknown_name_lists_the_known_ones_and_guesses():
    with pytest.raises(
        ValueError, match=r"Unknown colour 'gren'. Known: green, red\. Did you mean 'green'\?"
    ):
        _validate.member("colour", "gren", {"red": 1, "green": 2})
    with pytest.raises(ValueError, match=r"Unknown colour 'xyz'. Known: green, red\."):
        _validate.member("colour", "xyz", {"red": 1, "green": 2})
