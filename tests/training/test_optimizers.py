"""Optimizers against their update rules in NumPy, schedules against their definitions."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust.training import OPTIMIZERS, SCHEDULES, Constant, Cosine, OneCycle, OptimizerConfig, Steps

GRADIENTS = [np.array([[1.0, -2.0]]), np.array([[0.5, 0.5]]), np.array([[-1.0, 3.0]])]


def trajectory(config, start=((3.0, -1.0),)):
    optimizer = config.build(len(GRADIENTS))
    params = {"kernel": jnp.array(start)}
    state, seen = optimizer.init(params), []
    for gradient in GRADIENTS:
        updates, state = optimizer.update({"kernel": jnp.array(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(np.asarray(params["kernel"]))
    return np.stack(seen)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_pytorchs(nesterov):
    config = OptimizerConfig(learning_rate=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    w, buffer, expected = np.array([[3.0, -1.0]]), np.zeros((1, 2)), []
    for gradient in GRADIENTS:
        gradient = gradient + 0.01 * w
        buffer = 0.9 * buffer + gradient
        w = w - 0.1 * (gradient + 0.9 * buffer if nesterov else buffer)
        expected.append(w)
    np.testing.assert_allclose(trajectory(config), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_couples_the_decay_and_adamw_does_not(name):
    config = OptimizerConfig(name=name, learning_rate=0.1, weight_decay=0.05)
    w, m, v, expected = np.array([[3.0, -1.0]]), 0.0, 0.0, []
    for t, gradient in enumerate(GRADIENTS, 1):
        decayed = gradient + 0.05 * w if name == "adam" else gradient
        m, v = 0.9 * m + 0.1 * decayed, 0.999 * v + 0.001 * decayed**2
        direction = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - 0.1 * direction - (0.1 * 0.05 * w if name == "adamw" else 0)
        expected.append(w)
    np.testing.assert_allclose(trajectory(config), expected, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("decay_all", [True, False])
def test_biases_and_batchnorm_are_exempt_if_asked(name, decay_all):
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "scale": jnp.ones(2)}
    zeros = {key: jnp.zeros_like(value) for key, value in params.items()}
    optimizer = OptimizerConfig(name=name, weight_decay=0.1, decay_all=decay_all, learning_rate=0.1).build(5)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert np.asarray(updates["kernel"]).all()
    assert bool(np.asarray(updates["bias"]).any()) == bool(np.asarray(updates["scale"]).any()) == decay_all


def test_clip_bounds_the_gradient_before_decay():
    config = OptimizerConfig(learning_rate=1.0, momentum=0.0, clip=1.0)
    np.testing.assert_allclose(
        trajectory(config)[0], np.array([[3.0, -1.0]]) - GRADIENTS[0] / 5**0.5, rtol=1e-5
    )


def values(schedule, num_steps, rate=1.0):
    built = schedule.build(rate, num_steps)
    return np.array([float(built(step)) for step in range(num_steps)])


def test_steps_divide_at_the_papers_fractions():
    rates = values(Steps(boundaries=(0.55, 0.75, 0.9)), 100)
    np.testing.assert_allclose(
        rates[[0, 54, 55, 74, 75, 89, 90, 99]], [1, 1, 0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3], rtol=1e-5
    )


def test_steps_take_step_numbers_too():
    np.testing.assert_allclose(
        values(Steps(boundaries=(40, 60)), 80)[[39, 40, 59, 60]], [1, 0.1, 0.1, 0.01], rtol=1e-5
    )


def test_two_boundaries_on_one_step_both_count():
    np.testing.assert_allclose(values(Steps(boundaries=(0.5, 0.51)), 10)[[4, 5]], [1, 0.01], rtol=1e-5)


def test_cosine():
    t = np.arange(100)
    np.testing.assert_allclose(values(Cosine(), 100), 0.5 * (1 + np.cos(np.pi * t / 100)), atol=1e-6)
    assert values(Cosine(final=0.1), 100)[-1] == pytest.approx(0.1, abs=1e-3)


def test_one_cycle_rises_and_falls_to_zero():
    rates = values(OneCycle(rise=0.25, start=0.2), 100)
    np.testing.assert_allclose(rates[:26], 0.2 + 0.8 * np.arange(26) / 25, rtol=1e-5)
    np.testing.assert_allclose(rates[25:], 1 - np.arange(75) / 75, atol=1e-6)
    np.testing.assert_allclose(values(OneCycle(rise=0), 4), [1, 0.75, 0.5, 0.25])


@pytest.mark.parametrize("schedule", [Constant(warmup=0.1), Steps(warmup=0.1), Cosine(warmup=0.1)])
def test_warmup_is_linear_and_reaches_the_peak(schedule):
    rates = values(schedule, 100)
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=1e-5)
    assert rates[10] == pytest.approx(1.0, abs=1e-3)


def test_steps_keep_their_place_after_a_warmup():
    np.testing.assert_allclose(
        values(Steps(boundaries=(0.5,), warmup=0.1), 100)[[49, 50]], [1, 0.1], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerConfig(name="lion"), "Unknown optimizer 'lion'. Known: adam, adamw, sgd"),
        (lambda: OptimizerConfig(learning_rate=0), "learning_rate"),
        (lambda: OptimizerConfig(momentum=1.0), "momentum"),
        (lambda: OptimizerConfig(weight_decay=-1), "weight_decay"),
        (lambda: OptimizerConfig(clip=0), "clip"),
        (lambda: OptimizerConfig(schedule="cosine"), "constant, cosine, one_cycle, steps"),
        (lambda: OptimizerConfig(nesterov=True, momentum=0.0), "nesterov"),
        (lambda: Steps(boundaries=(0.9, 0.5)), "increasing"),
        (lambda: Steps(factor=2.0), "factor"),
        (lambda: Cosine(final=2.0), "final"),
        (lambda: OneCycle(rise=1.0), "rise"),
        (lambda: Constant(warmup=2.0), "warmup"),
        (lambda: OptimizerConfig().build(0), "num_steps"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_registries_name_every_schedule():
    assert {"constant": Constant, "steps": Steps, "cosine": Cosine, "one_cycle": OneCycle} == SCHEDULES
