"""The contract that every attack keeps."""

import copy
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxrobust
from jaxrobust.attacks import ATTACKS
from jaxrobust.types import Attack, Example
from tests.common.attacks_table import ATTACK_ROWS

ROWS = pytest.mark.parametrize("row", ATTACK_ROWS, ids=lambda row: f"{row.name}-{row.label}")
NUM, SHAPE, CLASSES = 4, (6, 6, 1), 3


def net(params, images):
    """A small smooth network."""
    hidden = jnp.tanh(images.reshape(images.shape[0], -1) @ params[0])
    return hidden @ params[1]


def make_params(seed=0):
    first, second = jax.random.split(jax.random.key(seed))
    return (jax.random.normal(first, (36, 8)) / 3, jax.random.normal(second, (8, CLASSES)))


PARAMS = make_params()
IMAGES = jax.random.uniform(jax.random.key(1), (NUM, *SHAPE))
EXAMPLE = Example(image=IMAGES, target=jnp.argmax(net(PARAMS, IMAGES), axis=-1))
KEYS = jax.random.split(jax.random.key(2), NUM)


def run(attack, params, keys, example):
    return attack(keys, lambda images, ex: net(params, images), example)


@functools.cache
def compiled(attack):
    return jax.jit(partial(run, attack))


def assert_same(a, b, atol=1e-5):
    np.testing.assert_array_equal(a.found, b.found)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_allclose(left, right, atol=atol, rtol=1e-4)


def test_every_registered_name_has_a_row():
    assert {row.name for row in ATTACK_ROWS} == set(ATTACKS)
    for row in ATTACK_ROWS:
        assert type(row.attack) is ATTACKS[row.name]


@ROWS
def test_it_is_a_hashable_attack_equal_to_its_like(row):
    assert isinstance(row.attack, Attack)
    twin = copy.deepcopy(row.attack)
    assert twin == row.attack
    assert hash(twin) == hash(row.attack)
    assert row.attack.scaled(1.0) == row.attack != row.attack.scaled(0.5)


@ROWS
def test_results_are_inside_and_judged_rightly(row):
    result = compiled(row.attack)(PARAMS, KEYS, EXAMPLE)
    assert result.image.shape == IMAGES.shape
    assert result.image.min() >= 0
    assert result.image.max() <= 1
    assert result.distance.shape == (NUM,)
    assert result.distance.max() <= 1 + 1e-5
    verdict = jnp.argmax(net(PARAMS, result.image), axis=-1) != EXAMPLE.target
    np.testing.assert_array_equal(result.found, verdict)
    assert result.found.any()  # each is strong enough for this net, so the tests below see something move


@ROWS
def test_equal_keys_give_equal_bits(row):
    first, second = (compiled(row.attack)(PARAMS, KEYS, EXAMPLE) for _ in range(2))
    for left, right in zip(jax.tree.leaves(first), jax.tree.leaves(second)):
        np.testing.assert_array_equal(left, right)


@ROWS
def test_a_batch_of_1_gives_what_the_row_gives_in_a_batch(row):
    together = compiled(row.attack)(PARAMS, KEYS, EXAMPLE)
    for i in range(2):
        alone = compiled(row.attack)(
            PARAMS, KEYS[i : i + 1], jax.tree.map(lambda a, i=i: a[i : i + 1], EXAMPLE)
        )
        assert_same(alone, jax.tree.map(lambda a, i=i: a[i : i + 1], together))


@ROWS
def test_rows_do_not_see_each_other(row):
    """Other neighbours in the batch, or another order, change nothing."""
    order = jnp.array([2, 0, 3, 1])
    moved = compiled(row.attack)(PARAMS, KEYS[order], jax.tree.map(lambda a: a[order], EXAMPLE))
    assert_same(moved, jax.tree.map(lambda a: a[order], compiled(row.attack)(PARAMS, KEYS, EXAMPLE)))
    other = EXAMPLE._replace(image=EXAMPLE.image.at[1:].set(0.25))
    lonely = compiled(row.attack)(PARAMS, KEYS, other)
    first = jax.tree.map(lambda a: a[:1], lonely)
    assert_same(first, jax.tree.map(lambda a: a[:1], compiled(row.attack)(PARAMS, KEYS, EXAMPLE)))


@ROWS
@pytest.mark.slow
def test_without_jit_it_gives_the_same(row):
    with jax.disable_jit():
        python = run(row.attack, PARAMS, KEYS, EXAMPLE)
    eager = run(row.attack, PARAMS, KEYS, EXAMPLE)
    assert_same(python, eager, atol=1e-4)
    assert_same(eager, compiled(row.attack)(PARAMS, KEYS, EXAMPLE), atol=1e-4)


@ROWS
def test_a_second_call_compiles_nothing(row):
    traces = []

    def counted(params, images):
        traces.append(1)
        return net(params, images)

    key = jax.random.key(0)
    first = jaxrobust.attack(row.attack, partial(counted, PARAMS), IMAGES, EXAMPLE.target, key=key)
    seen = len(traces)
    twin = copy.deepcopy(row.attack)
    second = jaxrobust.attack(twin, partial(counted, make_params(seed=7)), IMAGES, EXAMPLE.target, key=key)
    assert len(traces) == seen > 0
    assert float(jnp.abs(first.image - second.image).max()) > 0


@ROWS
def test_four_devices_give_what_one_gives(row):
    devices = jax.devices()[:4]
    if len(devices) < 4:
        pytest.skip("Needs 4 devices: tests/conftest.py makes 4 of the CPU.")
    expected = compiled(row.attack)(PARAMS, KEYS, EXAMPLE)
    mesh = Mesh(np.array(devices), ("data",))
    rows, everywhere = PartitionSpec("data"), PartitionSpec()
    keys, example = jax.device_put((KEYS, EXAMPLE), NamedSharding(mesh, rows))
    sharded = compiled(row.attack)(jax.device_put(PARAMS, NamedSharding(mesh, everywhere)), keys, example)
    assert_same(jax.device_get(sharded), expected)
    mapped = jax.shard_map(
        partial(run, row.attack), mesh=mesh, in_specs=(everywhere, rows, rows), out_specs=rows
    )
    assert_same(jax.device_get(jax.jit(mapped)(PARAMS, KEYS, EXAMPLE)), expected)


@ROWS
def test_a_model_without_gradient_gives_finite_results(row):
    flat = jax.tree.map(jnp.zeros_like, PARAMS)
    result = compiled(row.attack)(flat, KEYS, EXAMPLE._replace(target=jnp.zeros(NUM, jnp.int32)))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(result._replace(found=None)))
    assert result.distance.max() <= 1 + 1e-5
    assert not result.found.any()


@ROWS
def test_a_model_that_gives_nan_is_not_fooled_and_leaves_the_image_finite(row):
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), PARAMS)
    result = compiled(row.attack)(broken, KEYS, EXAMPLE)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(result._replace(found=None)))
    assert not result.found.any()


@ROWS
def test_nan_in_one_row_leaves_the_others_alone(row):
    image = EXAMPLE.image.at[0].set(jnp.nan)
    result = compiled(row.attack)(PARAMS, KEYS, EXAMPLE._replace(image=image))
    assert not result.found[0]
    expected = compiled(row.attack)(PARAMS, KEYS, EXAMPLE)
    assert_same(jax.tree.map(lambda a: a[1:], result), jax.tree.map(lambda a: a[1:], expected))


@ROWS
def test_radius_0_gives_the_clean_image_also_when_traced(row):
    at = jax.jit(lambda factor: run(row.attack.scaled(factor), PARAMS, KEYS, EXAMPLE))
    result = at(0.0)
    np.testing.assert_array_equal(result.image, IMAGES)
    np.testing.assert_array_equal(result.distance, 0.0)
    assert_same(at(1.0), compiled(row.attack)(PARAMS, KEYS, EXAMPLE), atol=1e-4)
    assert float(at(0.5).distance.max()) <= 1 + 1e-5
