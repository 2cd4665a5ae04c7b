"""Trials until the first success: what each row ends with, and how many trials it took all rows together."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import GridSearch, RandomSearch
from jaxrobust.attacks._lanes import until_found
from jaxrobust.attacks._worst import Worst
from jaxrobust.neighbourhoods import RotationTranslation
from jaxrobust.types import Example

NUM = 7


def outcomes(seed, rows):
    """Level 0 to 2 and loss of every trial `[rows, NUM]`, successes rare, some of equal loss."""
    rng = np.random.default_rng(seed)
    level = rng.choice([0, 1, 2], size=(rows, NUM), p=[0.1, 0.75, 0.15]).astype(np.int8)
    loss = np.where(level == 0, -np.inf, rng.integers(0, 4, (rows, NUM))).astype(np.float32)
    return level, loss


def expected(level, loss):
    """One row after the other, one trial after the other: (trial, level, loss, whether it met NaN)."""
    for trial, found in enumerate(level):
        if found == 2:
            return trial, 2, loss[trial], bool((level[:trial] == 0).any())
    if not level.any():
        return -1, 0, -np.inf, True
    best = int(np.argmax(np.where(level == 1, loss, -np.inf)))
    return best, 1, loss[best], bool((level == 0).any())


@pytest.mark.parametrize(("rows", "lanes"), [(5, 5), (5, 3), (4, 11), (1, 1), (3, 64)])
def test_each_row_ends_as_if_its_trials_had_run_one_by_one(rows, lanes):
    @jax.jit
    def run(level, loss):
        def trial(row, at):
            return Worst(theta=at, level=level[row, at], loss=loss[row, at], broken=level[row, at] == 0)

        blank = Worst(
            theta=jnp.full(rows, -1),
            level=jnp.zeros(rows, jnp.int8),
            loss=jnp.full(rows, -jnp.inf),
            broken=jnp.zeros(rows, bool),
        )
        example = Example(jnp.zeros((rows, 1, 1, 1)), jnp.zeros(rows, jnp.int32))
        return until_found(trial, blank, example, num=NUM, lanes=lanes)

    for seed in range(20):
        level, loss = outcomes(seed, rows)
        found = run(level, loss)
        wanted = [expected(*row) for row in zip(level, loss)]
        for leaf, column in zip((found.theta, found.level, found.loss, found.broken), zip(*wanted)):
            np.testing.assert_array_equal(leaf, column)


def counting_score():
    """A score that a turn by 20 degrees or more fools on rows of label 0, and nothing on label 1."""
    passes = []

    def score(images, example):
        jax.debug.callback(lambda: passes.append(1))
        turned = jnp.abs(images[:, 0, 2, 0] - 1.0) > 0.5
        return jnp.where((turned & (example.target == 0))[:, None], jnp.array([0.0, 1.0]), 0.0) + jnp.where(
            example.target[:, None] == jnp.arange(2), 0.5, 0.0
        )

    return score, passes


@pytest.mark.parametrize("kind", ["grid", "random"])
def test_rows_that_are_fooled_make_room_for_the_others(kind):
    moves = RotationTranslation(max_angle=90.0, max_shift=0.0)
    image = jnp.zeros((8, 5, 5, 1)).at[:, 0, 2].set(1.0)
    example = Example(image, jnp.array([1, 0, 0, 0, 0, 0, 0, 0]))
    keys = jax.random.split(jax.random.key(0), 8)
    attacks = {
        "grid": lambda stop: GridSearch(
            neighbourhood=moves, granularity=(1, 1, 40), chunk=1, stop_at_success=stop
        ),
        "random": lambda stop: RandomSearch(neighbourhood=moves, num=40, stop_at_success=stop),
    }
    counts, found = {}, {}
    for stop in (False, True):
        score, passes = counting_score()
        found[stop] = jax.block_until_ready(attacks[kind](stop)(keys, score, example))
        jax.effects_barrier()
        counts[stop] = len(passes)
    np.testing.assert_array_equal(found[True].found, found[False].found)
    np.testing.assert_array_equal(found[True].found, example.target == 0)
    # Once seven of eight rows are done, the last one's candidates fill the whole batch.
    assert counts[False] >= 40 and counts[True] <= 12


def test_the_first_success_in_the_grids_order_is_kept():
    moves = RotationTranslation(max_angle=90.0, max_shift=0.0)
    image = jnp.zeros((3, 5, 5, 1)).at[:, 0, 2].set(1.0)
    example = Example(image, jnp.array([0, 0, 1]))
    attack = GridSearch(neighbourhood=moves, granularity=(1, 1, 7), chunk=3, stop_at_success=True)
    score, _ = counting_score()
    result = attack(jax.random.split(jax.random.key(0), 3), score, example)
    # -90, -60, ... 90: the first is a success already; on the last row nothing is, and all losses are equal.
    np.testing.assert_allclose(result.theta.angle, [-90.0, -90.0, -90.0])
    assert list(itertools.compress("abc", result.found)) == ["a", "b"]
