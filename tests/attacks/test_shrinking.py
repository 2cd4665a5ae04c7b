"""Loops whose rows each take their own number of steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import JSMA, PointWise, _shrinking
from jaxrobust.attacks._shrinking import until_all_done
from jaxrobust.neighbourhoods import L0
from jaxrobust.types import Example


def collatz(context, state, i):
    """One step, and a note of which step it was and whose."""
    value, count, last = state
    following = jnp.where(value % 2 == 0, value // 2, 3 * value + 1)
    return following, count + 1, last + context["weight"] * i


def active(state):
    return state[0] != 1


def run(values):
    values = jnp.asarray(values, jnp.int32)
    context = {"weight": jnp.arange(len(values))}
    zero = jnp.zeros_like(values)
    return jax.jit(lambda c, s: until_all_done(collatz, active, c, s))(context, (values, zero, zero))


def steps_of(value):
    count = 0
    while value != 1:
        value, count = (value // 2 if value % 2 == 0 else 3 * value + 1), count + 1
    return count


@pytest.mark.parametrize("num", [1, 2, 7, 8, 33, 64])
def test_each_row_takes_its_own_steps_whoever_shares_its_batch(num):
    values = np.random.default_rng(num).integers(1, 100, num)
    value, count, last = run(values)
    expected = np.array([steps_of(int(one)) for one in values])
    np.testing.assert_array_equal(value, 1)
    np.testing.assert_array_equal(count, expected)
    # Steps are counted on when the batch shrinks, and a row keeps its own context.
    np.testing.assert_array_equal(last, np.arange(num) * expected * (expected - 1) // 2)


def test_rows_that_are_done_from_the_start_take_no_step():
    _, count, _ = run(np.ones(16))
    np.testing.assert_array_equal(count, 0)


def test_few_long_rows_run_in_a_small_batch(monkeypatch):
    """Of 64 rows one takes 111 steps: most of them are taken by few rows."""
    values = np.full(64, 2)
    values[40] = 27
    sizes = []

    def noting(context, state, i):
        jax.debug.callback(lambda rows: sizes.append(int(rows)), len(state[0]))
        return collatz(context, state, i)

    def work():
        sizes.clear()
        zero = jnp.zeros(64, jnp.int32)
        state = jnp.asarray(values, jnp.int32), zero, zero
        found = until_all_done(noting, active, {"weight": zero}, state)
        jax.effects_barrier()
        return int(found[1].sum()), sum(sizes)

    total, rows = work()
    assert total == 63 + 111
    assert rows == 64 + 110 * 16
    monkeypatch.setattr(_shrinking, "FEWEST", 65)
    assert work() == (total, 64 * 111)


@pytest.mark.parametrize("attack", [JSMA, PointWise])
def test_an_attack_finds_the_same_whether_its_batch_shrinks_or_not(monkeypatch, attack):
    weights = jax.random.normal(jax.random.key(0), (16, 3))
    images = jax.random.uniform(jax.random.key(1), (33, 4, 4, 1))

    def score_fn(x, example):
        return x.reshape(len(x), -1) @ weights

    labels = score_fn(images, None).argmax(axis=-1)
    keys = jax.random.split(jax.random.key(2), 33)

    def found():
        run = jax.jit(lambda k, ex: attack(neighbourhood=L0(eps=3))(k, score_fn, ex))
        return run(keys, Example(image=images, target=labels))

    shrunk = found()
    monkeypatch.setattr(_shrinking, "FEWEST", 34)
    whole = found()
    assert shrunk.found.any()
    np.testing.assert_array_equal(shrunk.found, whole.found)
    np.testing.assert_allclose(shrunk.image, whole.image, atol=1e-6)
