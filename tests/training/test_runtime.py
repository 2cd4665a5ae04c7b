"""Every wrapper and number of devices makes the same run; data are placed once."""

from types import SimpleNamespace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.training import Runtime, Wrapper, initialise_distributed
from jaxrobust.training.runtime import agree
from tests.common.tiny import tiny_feed, tiny_fit, tiny_model


def states_of(runtime: Runtime) -> dict[int, Any]:
    """The whole state after each of three steps: one run, looked at by its validation."""
    seen = {}

    def look(state):
        seen[int(state.step)] = jax.tree.map(lambda leaf: np.array(leaf), jax.device_get(state))
        return {}

    tiny_fit(3, runtime=runtime, validate_fn=look, validate_every=1)
    return seen


@pytest.fixture(scope="module")
def one_device():
    return states_of(Runtime(wrapper=Wrapper.JIT, num_devices=1))


@pytest.mark.parametrize("wrapper", [Wrapper.JIT, Wrapper.PMAP, Wrapper.SHARD_MAP])
def test_four_devices_make_the_run_of_one(wrapper, one_device):
    states = states_of(Runtime(wrapper=wrapper, num_devices=4))
    assert sorted(states) == [1, 2, 3]
    for step, expected in one_device.items():
        # Everything: parameters, BatchNorm statistics, momentum and average.
        chex.assert_trees_all_close(states[step], expected, atol=2e-6)


def test_the_run_has_batchnorm_and_dropout_and_trains(one_device):
    first, last = one_device[1], one_device[3]
    assert np.abs(first.params["Conv_0"]["kernel"] - last.params["Conv_0"]["kernel"]).max() > 1e-4
    assert np.abs(first.stats["BatchNorm_0"]["mean"] - last.stats["BatchNorm_0"]["mean"]).max() > 1e-5
    model, x = tiny_model(), np.ones((1, 6, 6, 1), np.float32)
    one, other = (
        model.apply(last.params, last.stats, x, train=True, keys=jax.random.split(jax.random.key(seed), 1))
        for seed in (0, 1)
    )
    assert not np.allclose(one[0].logits, other[0].logits)


def test_default_is_jit_on_one_device_and_on_several_what_their_platform_runs_best(monkeypatch):
    assert Runtime(num_devices=1).resolved is Wrapper.JIT and Runtime(num_devices=1).axis_name is None
    four = Runtime(num_devices=4)
    assert four.resolved is Wrapper.SHARD_MAP and four.axis_name == "batch"
    assert Runtime().device_count == jax.device_count()
    accelerators = (SimpleNamespace(platform="gpu"),) * 4
    monkeypatch.setattr(Runtime, "devices", accelerators)
    assert Runtime().resolved is Wrapper.PMAP and Runtime().axis_name == "batch"


@pytest.mark.parametrize("wrapper", [Wrapper.JIT, Wrapper.PMAP, Wrapper.SHARD_MAP])
def test_replicated_trees_come_back_as_they_were(wrapper):
    runtime = Runtime(wrapper=wrapper, num_devices=4)
    tree = {"a": np.arange(6.0, dtype=np.float32).reshape(2, 3), "b": (jnp.int32(3),), "c": ()}
    placed = runtime.replicate(tree)
    assert placed["a"].sharding.device_set == set(runtime.devices)
    chex.assert_trees_all_equal(runtime.fetch(placed), jax.tree.map(np.asarray, tree))
    chex.assert_trees_all_equal(jax.device_get(runtime.local(placed)), jax.tree.map(np.asarray, tree))
    fetched = runtime.fetch(placed)["a"]
    assert fetched.flags.owndata and fetched.flags.writeable


@pytest.mark.parametrize("wrapper", [Wrapper.JIT, Wrapper.PMAP, Wrapper.SHARD_MAP])
def test_rows_are_divided_in_order(wrapper):
    runtime = Runtime(wrapper=wrapper, num_devices=4)
    placed = runtime.shard(np.arange(8))
    shards = sorted(placed.addressable_shards, key=lambda shard: shard.device.id)
    assert [np.ravel(shard.data).tolist() for shard in shards] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert runtime.shard(np.zeros((0, 3))).size == 0


@pytest.mark.parametrize("wrapper", [Wrapper.JIT, Wrapper.PMAP, Wrapper.SHARD_MAP])
@pytest.mark.parametrize("devices", [1, 4])
def test_a_local_copy_outlives_the_state(wrapper, devices):
    runtime = Runtime(wrapper=wrapper, num_devices=devices)
    update = runtime.compile(lambda state, arrays, cursor, words: (state + 1, {}))
    state, arrays, words = runtime.replicate((jnp.zeros(4), (), jnp.zeros(2)))
    kept = runtime.local(state)
    update(state, arrays, runtime.shard(np.arange(4)), words)
    np.testing.assert_array_equal(kept, 0)


@pytest.mark.parametrize("donate", [True, False])
def test_donation_frees_the_old_state(donate):
    runtime = Runtime(wrapper=Wrapper.JIT, num_devices=1, donate=donate)
    update = runtime.compile(lambda state, arrays, cursor, words: (state + 1, {}))
    state, arrays, words = runtime.replicate((jnp.zeros(4), (), jnp.zeros(2)))
    update(state, arrays, runtime.shard(np.arange(4)), words)
    assert state.is_deleted() == donate


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Runtime(wrapper="pmap"), "Expected wrapper to be one of"),
        (lambda: Runtime(prefetch=0), "prefetch"),
        (lambda: Runtime(num_devices=0), "num_devices"),
        (lambda: Runtime(num_devices=64).devices, "Expected num_devices <= 4"),
        (lambda: Runtime(num_devices=4).shard(np.zeros(6)), "6 rows cannot be divided over 4 devices"),
        (lambda: tiny_fit(feed=tiny_feed(6, 8), runtime=Runtime(num_devices=4)), "6 labelled images"),
    ],
)
def test_bad_values_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_half_given_addresses_are_refused(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    with pytest.raises(ValueError, match="JAX_COORDINATOR_ADDRESS set, but not JAX_NUM_PROCESSES"):
        initialise_distributed()


def test_one_process_agrees_with_itself():
    tree = {"a": np.array(2.0)}
    assert agree(tree) is tree
