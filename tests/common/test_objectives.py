"""What every objective must satisfy."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxrobust.data import BatchSizes, ImageSet, ResidentFeed, split
from jaxrobust.objectives import OBJECTIVES
from jaxrobust.training import init_state, make_train_step
from jaxrobust.types import Batch, Model, Net, Objective, RowKeys
from tests.common.objectives_table import OBJECTIVES_TABLE, Shift, batch
from tests.common.tiny import CLASSES, tiny_fit, tiny_split

ATTACK = Shift(noise=0.1)
ROWS = pytest.mark.parametrize("name", sorted(OBJECTIVES_TABLE))


def keys_of(b: Batch, seed: int = 7) -> RowKeys:
    keys = jax.random.split(jax.random.key(seed), b.image.shape[0] + b.unlabelled.shape[0])
    return RowKeys(keys[: b.image.shape[0]], keys[b.image.shape[0] :])


@partial(jax.jit, static_argnums=(0, 1))
def _evaluate(objective, model, keys, b):
    params, stats = model.init(jax.random.key(1))

    def loss_fn(params):
        return objective(keys, Net(model, params, stats, jnp.array(0.5)), b, objective.init(params))

    (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    return loss, aux, grads


def evaluate(objective, b, seed=7):
    return _evaluate(objective, model_of(objective), keys_of(b, seed), b)


def model_of(objective) -> Model:
    return next(row.model for name, row in OBJECTIVES_TABLE.items() if type(objective) is OBJECTIVES[name])


def test_every_objective_has_a_row():
    assert set(OBJECTIVES_TABLE) == set(OBJECTIVES)


def test_no_label_of_an_unlabelled_image_is_read():
    """Wrong labels of all unlabelled images, at the source, change not one bit of what is trained."""
    whole = tiny_split()
    images = np.concatenate([whole.labelled.images, whole.unlabelled])
    labels = np.resize(whole.labelled.labels, len(images)).astype(np.int32)
    poisoned = labels.copy()
    poisoned[len(whole.labelled.labels) :] = (labels[len(whole.labelled.labels) :] + 1) % CLASSES

    def trained(labels):
        parts = split(
            ImageSet(images, labels), num_labelled=len(whole.labelled.labels), selection="first", seed=0
        )
        feed = ResidentFeed(parts, BatchSizes(4, 8), seed=3)
        return jax.device_get(tiny_fit(2, feed=feed).params)

    clean = trained(labels)
    chex.assert_trees_all_equal(clean, trained(poisoned))
    # The labelled images' own labels do matter, or this would show nothing.
    poisoned[:20] = (labels[:20] + 1) % CLASSES
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(clean, trained(poisoned))


@ROWS
def test_is_a_hashable_value_and_an_objective(name):
    first, second = OBJECTIVES_TABLE[name].make(ATTACK), OBJECTIVES_TABLE[name].make(ATTACK)
    assert isinstance(first, Objective) and type(first) is OBJECTIVES[name]
    assert first == second and hash(first) == hash(second)


@ROWS
def test_loss_metrics_and_gradient(name):
    loss, aux, grads = evaluate(OBJECTIVES_TABLE[name].make(ATTACK), batch())
    assert loss.shape == () and np.isfinite(loss)
    assert set(aux.metrics) == OBJECTIVES_TABLE[name].metrics
    assert all(value.shape == () and np.isfinite(value) for value in aux.metrics.values())
    if "robust_loss" in aux.metrics:
        parts = aux.metrics["standard_loss"] + 0.7 * aux.metrics["robust_loss"]
        np.testing.assert_allclose(loss, parts, rtol=1e-6)
    assert np.abs(grads["kernel"]).max() > 0


@ROWS
def test_follows_its_keys_and_nothing_else(name):
    objective = OBJECTIVES_TABLE[name].make(ATTACK)
    loss = evaluate(objective, batch())[0]
    assert float(loss) == float(evaluate(objective, batch())[0])
    assert float(loss) != float(evaluate(objective, batch(), seed=8)[0])


@ROWS
def test_reads_the_unlabelled_images_only_if_it_says_so(name):
    row = OBJECTIVES_TABLE[name]
    loss = evaluate(row.make(ATTACK), batch())[0]
    other = batch()._replace(unlabelled=batch(seed=9).unlabelled)
    assert (float(evaluate(row.make(ATTACK), other)[0]) != float(loss)) == row.unlabelled


@ROWS
def test_reads_the_pseudo_labels_only_if_it_says_so(name):
    row, b = OBJECTIVES_TABLE[name], batch()
    objective = row.make(ATTACK)
    assert getattr(objective, "needs_pseudo_labels", False) == row.pseudo
    other = b._replace(pseudo_label=(b.pseudo_label + 1) % 3)
    assert (float(evaluate(objective, other)[0]) != float(evaluate(objective, b)[0])) == row.pseudo
    if row.pseudo:
        with pytest.raises(ValueError, match="needs a pseudo-label for each unlabelled image"):
            evaluate(objective, b._replace(pseudo_label=None))
        evaluate(objective, batch(num_unlabelled=0)._replace(pseudo_label=None))


@ROWS
def test_an_empty_unlabelled_stream_is_no_nan(name):
    loss, aux, grads = evaluate(OBJECTIVES_TABLE[name].make(ATTACK), batch(num_unlabelled=0))
    chex.assert_tree_all_finite((loss, aux, grads))


@ROWS
def test_no_recompile_on_the_second_step(name):
    optimizer = optax.sgd(0.1)
    objective, model = OBJECTIVES_TABLE[name].make(ATTACK), OBJECTIVES_TABLE[name].model
    step = jax.jit(make_train_step(model, objective, optimizer, num_steps=4))
    state = init_state(jax.random.key(0), model, objective, optimizer)
    for seed in range(3):
        state, _ = step(state, batch(seed=seed), jax.random.key(5))
    assert int(state.step) == 3 and step._cache_size() == 1


@ROWS
def test_four_devices_make_the_step_of_one(name):
    optimizer = optax.sgd(0.1, momentum=0.9)
    objective, model = OBJECTIVES_TABLE[name].make(ATTACK), OBJECTIVES_TABLE[name].model
    state = init_state(jax.random.key(0), model, objective, optimizer)
    # The statistics of LINEAR count local rows, which devices are right to disagree on.
    one, metrics = jax.jit(make_train_step(model, objective, optimizer, num_steps=4))(
        state, batch(), jax.random.key(5)
    )
    mesh = Mesh(np.array(jax.devices()[:4]), ("d",))
    rows = Batch(image=P("d"), label=P("d"), unlabelled=P("d"), pseudo_label=P("d"))
    step = make_train_step(model, objective, optimizer, num_steps=4, axis_name="d")
    four, metrics_4 = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(P(), rows, P()), out_specs=P()))(
        state, batch(), jax.random.key(5)
    )
    chex.assert_trees_all_close(one.params, four.params, atol=1e-6)
    chex.assert_trees_all_close(metrics, metrics_4, atol=1e-6)
