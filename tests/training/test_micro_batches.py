"""Gradient accumulation: micro-batches make the step of the whole batch."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.data import compose_batch
from jaxrobust.models import TinyCNN, build
from jaxrobust.neighbourhoods import LInf
from jaxrobust.objectives import AT, SRT, Standard
from jaxrobust.training import Runtime, Wrapper, init_state, make_train_step
from jaxrobust.types import Aux, Batch
from tests.common.tiny import tiny_feed, tiny_fit, tiny_model

ATTACK = PGD(neighbourhood=LInf(eps=0.1), steps=2, step_size=0.5)
# Dropout draws by row: micro-batches that gave their rows other keys would take another step.
PLAIN = build(TinyCNN(widths=(2, 4), hidden=8, dropout=0.3), (8, 8, 1))


def step_of(objective, micro_batches, model=PLAIN, optimizer=None, rows=(4, 8)):
    """The state after a step from the same start on the same batch, and the step's metrics."""
    optimizer = optimizer or optax.sgd(0.1, momentum=0.9)
    rng = np.random.default_rng(0)
    labelled, unlabelled = (rng.random((count, *model.image_shape), np.float32) for count in rows)
    batch = Batch(labelled, rng.integers(0, model.num_classes, rows[0]).astype(np.int32), unlabelled)
    state = init_state(jax.random.key(0), model, objective, optimizer)
    step = make_train_step(model, objective, optimizer, num_steps=4, micro_batches=micro_batches)
    return jax.device_get(jax.jit(step)(state, batch, jax.random.key(1)))


@pytest.mark.parametrize(
    ("objective", "rows"),
    [
        pytest.param(SRT(attack=ATTACK, lam=0.7), (4, 8), id="srt"),
        pytest.param(AT(attack=ATTACK), (4, 0), id="at", marks=pytest.mark.slow),
    ],
)
def test_the_step_of_micro_batches_is_that_of_the_batch(objective, rows):
    state, metrics = step_of(objective, 1, rows=rows)
    parted, parted_metrics = step_of(objective, 2, rows=rows)
    chex.assert_trees_all_close(parted, state, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(parted_metrics, metrics, rtol=1e-5, atol=1e-6)
    assert metrics["grad_norm"] > 1e-3


def test_batch_normalisation_sees_one_micro_batch_after_the_other():
    model = tiny_model(rate=0.0)
    params, stats = model.init(jax.random.key(0))
    images = np.random.default_rng(0).random((4, *model.image_shape), np.float32)
    for part in (images[0::2], images[1::2]):
        stats = model.apply(params, stats, part, train=True, keys=jax.random.split(jax.random.key(0), 2))[1]
    state, _ = step_of(Standard(), 2, model=model, optimizer=optax.sgd(0.0))
    chex.assert_trees_all_close(state.stats, stats, rtol=1e-5)


@pytest.mark.parametrize("wrapper", [pytest.param(Wrapper.JIT, marks=pytest.mark.slow), Wrapper.SHARD_MAP])
def test_devices_and_micro_batches_together(wrapper):
    """With batch normalisation too: which rows are a micro-batch does not depend on the devices."""
    one, four = (
        tiny_fit(2, feed=tiny_feed(8, 16), runtime=Runtime(micro_batches=2, **options))
        for options in ({"num_devices": 1}, {"num_devices": 4, "wrapper": wrapper})
    )
    chex.assert_trees_all_close(jax.device_get(four), jax.device_get(one), atol=2e-6)


class Counter:
    """An objective whose state counts the steps."""

    def init(self, params):
        return jnp.zeros((), jnp.int32)

    def __call__(self, keys, net, batch, obj_state):
        loss = net.train(batch.image, keys.labelled)[0].logits.sum()
        return loss, Aux(net.stats, obj_state + 1, {"loss": loss})


def test_the_objectives_state_advances_once_a_step():
    assert step_of(Counter(), 2)[0].obj_state == 1


def test_rows_that_cannot_be_parted_are_refused_with_the_nearest_that_can():
    four_devices = Runtime(num_devices=4, micro_batches=2)
    message = r"12 labelled images .* over 4 devices with 2 micro-batches each\. Nearest that can: 8 or 16\."
    with pytest.raises(ValueError, match=message):
        tiny_fit(feed=tiny_feed(12, 8), runtime=four_devices)
    with pytest.raises(ValueError, match=r"4 rows of a device cannot be taken in 3 micro-batches.*3 or 6"):
        step_of(Standard(), 3)
    with pytest.raises(ValueError, match="Expected micro_batches >= 1, got micro_batches=0"):
        Runtime(micro_batches=0)
    with pytest.raises(ValueError, match="1 device with 8 micro-batches each do not divide") as refusal:
        compose_batch(100, 1_000, 9_000, micro_batches=8)
    for size in re.findall(r" batch_size=(\d+)", str(refusal.value)):
        assert compose_batch(int(size), 1_000, 9_000, micro_batches=8)
