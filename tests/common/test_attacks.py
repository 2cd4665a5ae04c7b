"""The contract that every attack keeps."""

import copy
import functools
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxrobust
from jaxrobust.attacks import ATTACKS
from jaxrobust.attacks._checks import reads_mask
from jaxrobust.types import Attack, Ball, Example
from tests.common.attacks_table import ATTACK_ROWS

# Further rows of an attack in a neighbourhood that the default tests see elsewhere.
SLOW = {
    ("pgd", "l2-stops"),
    ("pgd", "joint"),
    ("pgd", "colours-per-pixel"),
    ("mi_fgsm", "masked-l1"),
    ("apgd", "l2-dlr-restarts"),
    ("square", "l2-restarts"),
    ("random_search", "colours"),
    ("random_search", "poses"),
    ("grid", "poses"),
    ("joint", "colours-then-l2"),
    ("pointwise", "pixels"),
    ("sequence", "pgd-then-grid"),
    ("cw", "kappa-to-the-end"),
    ("ddn", "unrounded"),
    ("fab", "l2-restarts"),
    ("fab", "linf-targets"),
}


def rows(in_full):
    """Every row; `in_full`: those after the first of a name are slow tests, too."""
    seen: set[str] = set()
    for row in ATTACK_ROWS:
        slow = (row.name, row.label) in SLOW or (in_full and row.name in seen)
        seen.add(row.name)
        yield pytest.param(row, id=f"{row.name}-{row.label}", marks=[pytest.mark.slow] if slow else [])


ROWS = pytest.mark.parametrize("row", list(rows(in_full=False)))
# For tests that compile programs beside the one that all tests share.
EACH_NAME = pytest.mark.parametrize("row", list(rows(in_full=True)))
NUM, SIDE, CLASSES = 4, 6, 3


def net(params, images):
    """A small smooth network."""
    hidden = jnp.tanh(images.reshape(images.shape[0], -1) @ params[0])
    return hidden @ params[1]


class Case(NamedTuple):
    """A net, keys, and images that it has right."""

    params: Any
    keys: jax.Array
    example: Example


def make_params(channels, seed=0):
    first, second = jax.random.split(jax.random.key(seed))
    inputs = SIDE * SIDE * channels
    kernel = 2 * jax.random.normal(first, (inputs, 8)) / np.sqrt(inputs)
    return (kernel, jax.random.normal(second, (8, CLASSES)))


@functools.cache
def case_of(channels):
    """Images of 8 bits, so that rounding to 8 bits leaves what an attack does not touch."""
    params = make_params(channels)
    images = jnp.round(255 * jax.random.uniform(jax.random.key(1), (NUM, SIDE, SIDE, channels))) / 255
    # What masked neighbourhoods may change, and the others do not read.
    mask = jnp.broadcast_to(jnp.ones((SIDE, SIDE, 1)).at[:1].set(0.0), (NUM, SIDE, SIDE, 1))
    example = Example(image=images, target=jnp.argmax(net(params, images), axis=-1), mask=mask)
    return Case(params, jax.random.split(jax.random.key(2), NUM), example)


def run(attack, params, keys, example):
    return attack(keys, lambda images, ex: net(params, images), example)


@functools.cache
def compiled(attack):
    return jax.jit(partial(run, attack))


@functools.cache
def result_of(row):
    """The row's result on its case, computed once for all tests."""
    return compiled(row.attack)(*case_of(row.channels))


def assert_same(a, b, atol=1e-5):
    np.testing.assert_array_equal(a.found, b.found)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_allclose(left, right, atol=atol, rtol=1e-4)


def take(tree, rows):
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def seeks_minimum(row):
    return getattr(row.attack, "minimum_norm", False)


def ball_of(row):
    """The lp ball in which an attack looks, masked or not; None for the others."""
    neighbourhood = getattr(row.attack, "neighbourhood", None)
    return neighbourhood if isinstance(neighbourhood, Ball) else None


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
    params, _, example = case_of(row.channels)
    result = result_of(row)
    assert result.image.shape == example.image.shape
    assert result.image.min() >= 0
    assert result.image.max() <= 1
    assert result.distance.shape == (NUM,)
    assert seeks_minimum(row) or result.distance.max() <= 1 + 1e-5
    verdict = jnp.argmax(net(params, result.image), axis=-1) != example.target
    if getattr(row.attack, "targeted", False):
        verdict = ~verdict
    np.testing.assert_array_equal(result.found, verdict)
    assert result.found.any()  # each is strong enough for this net, so the tests below see something move


@ROWS
def test_distance_is_that_of_the_image_also_after_8_bit_rounding(row):
    ball = ball_of(row)
    if ball is None:
        pytest.skip("Not in an lp ball.")
    _, _, example = case_of(row.channels)
    result = result_of(row)
    delta = result.image - example.image
    np.testing.assert_allclose(jax.vmap(ball.length)(delta), result.distance * ball.eps, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(delta * (1 - jax.vmap(ball.region)(example)), 0.0)
    rounded = jnp.round(255 * result.image) / 255 - example.image
    # Rounding moves every changed value by half a level at most.
    half = jnp.where(delta != 0, 0.5 / 255, 0.0)
    slack = jax.vmap(ball.length)(half) if ball.norm else 0
    assert (jax.vmap(ball.length)(rounded) <= result.distance * ball.eps + slack + 1e-5).all()


@ROWS
def test_equal_keys_give_equal_bits(row):
    again = compiled(row.attack)(*case_of(row.channels))
    for left, right in zip(jax.tree.leaves(result_of(row)), jax.tree.leaves(again)):
        np.testing.assert_array_equal(left, right)


@EACH_NAME
def test_a_batch_of_1_gives_what_the_row_gives_in_a_batch(row):
    params, keys, example = case_of(row.channels)
    for i in range(2):
        one = slice(i, i + 1)
        alone = compiled(row.attack)(params, keys[one], take(example, one))
        assert_same(alone, take(result_of(row), one))


def many(row, times=16):
    """The row's case several times over: more rows than an attack takes in one block."""
    _, keys, example = case_of(row.channels)
    return jnp.tile(keys, times), jax.tree.map(
        lambda leaf: jnp.tile(leaf, (times,) + (1,) * (leaf.ndim - 1)), example
    )


@ROWS
def test_a_large_batch_is_traced_as_a_small_one_is(row):
    keys, example = many(row)
    found = jax.eval_shape(partial(run, row.attack), case_of(row.channels).params, keys, example)
    assert found.image.shape == example.image.shape


LARGE = [
    pytest.param(
        row, id=f"{row.name}-{row.label}", marks=[] if row.label == "targets" else [pytest.mark.slow]
    )
    for row in ATTACK_ROWS
]


@pytest.mark.parametrize("row", LARGE)
def test_a_large_batch_gives_what_its_rows_give(row):
    keys, example = many(row)
    found = compiled(row.attack)(case_of(row.channels).params, keys, example)
    small = result_of(row)
    assert_same(
        found, jax.tree.map(lambda leaf: jnp.tile(leaf, (16,) + (1,) * (leaf.ndim - 1)), small), atol=1e-4
    )


@ROWS
def test_rows_do_not_see_each_other(row):
    """Other neighbours in the batch, or another order, change nothing."""
    params, keys, example = case_of(row.channels)
    order = jnp.array([2, 0, 3, 1])
    moved = compiled(row.attack)(params, keys[order], take(example, order))
    assert_same(moved, take(result_of(row), order))
    other = example._replace(image=example.image.at[1:].set(0.25))
    lonely = compiled(row.attack)(params, keys, other)
    assert_same(take(lonely, slice(1)), take(result_of(row), slice(1)))


@ROWS
@pytest.mark.slow
def test_without_jit_it_gives_the_same(row):
    case = case_of(row.channels)
    with jax.disable_jit():
        python = run(row.attack, *case)
    eager = run(row.attack, *case)
    assert_same(python, eager, atol=1e-4)
    assert_same(eager, result_of(row), atol=1e-4)


@EACH_NAME
def test_a_second_call_compiles_nothing(row):
    params, _, example = case_of(row.channels)
    traces = []

    def counted(params, images):
        traces.append(1)
        return net(params, images)

    def through_frontend(attack, params):
        return jaxrobust.attack(
            attack, partial(counted, params), example.image, example.target, key=jax.random.key(0),
            mask=example.mask if reads_mask(attack) else None,
        )  # fmt: skip

    first = through_frontend(row.attack, params)
    seen = len(traces)
    second = through_frontend(copy.deepcopy(row.attack), make_params(row.channels, seed=7))
    assert len(traces) == seen > 0
    assert float(jnp.abs(first.image - second.image).max()) > 0


@ROWS
def test_labels_out_of_range_are_refused(row):
    params, _, example = case_of(row.channels)
    labels = example.target.at[-1].set(CLASSES)
    with pytest.raises(ValueError, match=r"labels in \[0, 2\]"):
        jaxrobust.attack(row.attack, partial(net, params), example.image, labels, key=jax.random.key(0))


def four_devices():
    devices = jax.devices()[:4]
    if len(devices) < 4:
        pytest.skip("Needs 4 devices: tests/conftest.py makes 4 of the CPU.")
    return Mesh(np.array(devices), ("data",)), PartitionSpec("data"), PartitionSpec()


@EACH_NAME
def test_four_devices_give_what_one_gives(row):
    mesh, rows, everywhere = four_devices()
    mapped = jax.shard_map(
        partial(run, row.attack), mesh=mesh, in_specs=(everywhere, rows, rows), out_specs=rows
    )
    assert_same(jax.device_get(jax.jit(mapped)(*case_of(row.channels))), result_of(row))


@EACH_NAME
@pytest.mark.slow
def test_a_batch_that_lies_on_four_devices_gives_what_one_gives(row):
    params, keys, example = case_of(row.channels)
    mesh, rows, everywhere = four_devices()
    on_rows = jax.device_put((keys, example), NamedSharding(mesh, rows))
    sharded = compiled(row.attack)(jax.device_put(params, NamedSharding(mesh, everywhere)), *on_rows)
    assert_same(jax.device_get(sharded), result_of(row))


@ROWS
def test_a_model_without_gradient_gives_finite_results(row):
    params, keys, example = case_of(row.channels)
    flat = jax.tree.map(jnp.zeros_like, params)
    # Logits that are all equal predict class 0.
    # Of the labels' dtype, so that the program of the other tests serves.
    target = jnp.full_like(example.target, 1 if getattr(row.attack, "targeted", False) else 0)
    result = compiled(row.attack)(flat, keys, example._replace(target=target))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(result._replace(found=None)))
    assert result.distance.max() <= 1 + 1e-5
    assert not result.found.any()


@ROWS
def test_a_model_that_gives_nan_is_not_fooled_and_leaves_the_image_finite(row):
    params, keys, example = case_of(row.channels)
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    result = compiled(row.attack)(broken, keys, example)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(result._replace(found=None)))
    assert not result.found.any()
    assert result.nonfinite.all()


@ROWS
def test_nan_in_one_row_leaves_the_others_alone(row):
    params, keys, example = case_of(row.channels)
    image = example.image.at[0].set(jnp.nan)
    result = compiled(row.attack)(params, keys, example._replace(image=image))
    assert not result.found[0]
    assert_same(take(result, slice(1, None)), take(result_of(row), slice(1, None)))


@EACH_NAME
def test_radius_0_gives_the_clean_image_also_when_traced(row):
    params, keys, example = case_of(row.channels)
    at = jax.jit(lambda factor: run(row.attack.scaled(factor), params, keys, example))
    if seeks_minimum(row):
        # Its radius is its unit of length and bounds nothing.
        ball = ball_of(row)
        half = at(0.5)
        np.testing.assert_array_equal(half.found, result_of(row).found)
        expected = jax.vmap(ball.scaled(0.5).distance)(example, half.theta)
        np.testing.assert_allclose(half.distance, expected, rtol=1e-4)
        return
    result = at(0.0)
    np.testing.assert_array_equal(result.image, example.image)
    np.testing.assert_array_equal(result.distance, 0.0)
    assert_same(at(1.0), result_of(row), atol=1e-4)
    assert float(at(0.5).distance.max()) <= 1 + 1e-5


@EACH_NAME
def test_more_restarts_never_help_the_model(row):
    if not hasattr(row.attack, "restarts"):
        pytest.skip("It has no restarts.")
    fewer = result_of(row)
    more = compiled(replace(row.attack, restarts=row.attack.restarts + 2))(*case_of(row.channels))
    assert (more.found >= fewer.found).all()
    if seeks_minimum(row):
        assert (jnp.where(fewer.found, more.distance - fewer.distance, 0.0) <= 1e-5).all()


@EACH_NAME
def test_a_targeted_attack_leads_to_the_designated_class(row):
    if not hasattr(row.attack, "targeted"):
        pytest.skip("It has no targeted form.")
    params, keys, example = case_of(row.channels)
    target = (jnp.argmax(net(params, example.image), axis=-1) + 1) % CLASSES
    result = compiled(replace(row.attack, targeted=True))(params, keys, example._replace(target=target))
    hit = jnp.argmax(net(params, result.image), axis=-1) == target
    np.testing.assert_array_equal(result.found, hit)
    # The designated class is no misclassification at the start, so a found row has moved.
    moved = jnp.abs(result.image - example.image).max(axis=(1, 2, 3)) > 0
    assert bool((moved | ~result.found).all())
