"""The contract that every neighbourhood keeps."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxrobust.neighbourhoods import NEIGHBOURHOODS
from jaxrobust.types import Ball, Example, Neighbourhood
from tests.common.neighbourhoods_table import NEIGHBOURHOOD_ROWS

HEIGHT, WIDTH = 5, 4
ROWS = pytest.mark.parametrize("row", NEIGHBOURHOOD_ROWS, ids=lambda row: f"{row.name}-{row.label}")
FEW = hypothesis.settings(max_examples=15, deadline=None, derandomize=True)

floats = st.floats(0, 1, width=32, allow_subnormal=False)
# Three channels; a row takes as many as it is tried on.
pixels = hnp.arrays(np.float32, (HEIGHT, WIDTH, 3), elements=floats)
# What masked neighbourhoods may change, and the others do not read.
MASK = jnp.zeros((HEIGHT, WIDTH, 1)).at[1:4, :3].set(1.0)
seeds = st.integers(0, 2**31 - 1)
factors = st.sampled_from([0.0, 1e-3, 0.5, 1.0, 5.0, 300.0])


def example_of(row, image):
    return Example(image[..., : row.channels], jnp.array(0), mask=MASK)


def grey(row):
    return example_of(row, jnp.full((HEIGHT, WIDTH, 3), 0.5))


@functools.cache
def compiled(row):
    """Everything that the tests ask, in one compiled function per neighbourhood."""

    neighbourhood = row.neighbourhood

    def ask(image, seed, factor):
        ex = example_of(row, image)
        sample = neighbourhood.sample(jax.random.key(seed), ex)
        projected = neighbourhood.project(ex, jax.tree.map(lambda leaf: factor * leaf, sample))
        return {
            "identity": neighbourhood.apply(ex, neighbourhood.init(ex)),
            "distance of identity": neighbourhood.distance(ex, neighbourhood.init(ex)),
            "sample": sample,
            "sample projected": neighbourhood.project(ex, sample),
            "distance of sample": neighbourhood.distance(ex, sample),
            "projected": projected,
            "projected twice": neighbourhood.project(ex, projected),
            "distance of projected": neighbourhood.distance(ex, projected),
            "image": neighbourhood.apply(ex, projected),
            "zero ascent": neighbourhood.ascent(jax.tree.map(jnp.zeros_like, sample)),
        }

    return jax.jit(ask)


def assert_close(a, b, atol):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        np.testing.assert_allclose(left, right, atol=atol, rtol=1e-5)


def test_every_registered_name_has_a_row():
    assert {row.name for row in NEIGHBOURHOOD_ROWS} == set(NEIGHBOURHOODS)
    for row in NEIGHBOURHOOD_ROWS:
        assert type(row.neighbourhood) is NEIGHBOURHOODS[row.name]


@ROWS
@FEW
@hypothesis.given(image=pixels, seed=seeds, factor=factors)
def test_the_contract(row, image, seed, factor):
    found = compiled(row)(image, seed, factor)
    np.testing.assert_array_equal(found["identity"], image[..., : row.channels])
    assert found["distance of identity"] == 0
    assert found["distance of sample"] <= 1 + 1e-5
    assert found["distance of projected"] <= 1 + 1e-5
    assert_close(found["sample projected"], found["sample"], 1e-6)
    assert_close(found["projected twice"], found["projected"], 1e-6)
    assert found["image"].min() >= 0
    assert found["image"].max() <= 1
    for leaf in jax.tree.leaves(found["zero ascent"]):
        np.testing.assert_array_equal(leaf, 0.0)


@ROWS
def test_it_is_a_hashable_neighbourhood_equal_to_its_like(row):
    assert isinstance(row.neighbourhood, Neighbourhood)
    assert row.neighbourhood == row.neighbourhood.scaled(1.0)
    assert hash(row.neighbourhood) == hash(row.neighbourhood.scaled(1.0))
    assert row.neighbourhood != row.neighbourhood.scaled(0.5)


@ROWS
def test_ascent_has_length_one_radius(row):
    ex = grey(row)
    small = row.neighbourhood.scaled(row.small)
    grad = jax.tree.map(lambda leaf: jnp.full_like(leaf, 0.7), small.init(ex))
    theta = jax.jit(lambda: small.ascent(grad))()
    assert float(jax.jit(small.distance)(ex, theta)) == pytest.approx(1.0, rel=1e-3)


@ROWS
def test_radius_0_is_the_identity_also_when_traced(row):
    ex = example_of(row, jax.random.uniform(jax.random.key(0), (HEIGHT, WIDTH, 3)))

    @jax.jit
    def at(factor):
        none = row.neighbourhood.scaled(factor)
        theta = none.project(ex, none.sample(jax.random.key(1), ex))
        moved = jax.tree.map(lambda leaf: leaf + 0.1, theta)
        gradient = jax.grad(lambda t: none.apply(ex, t).sum())(theta)
        return none.apply(ex, theta), none.distance(ex, theta), none.distance(ex, moved), gradient

    image, distance, outside, gradient = at(0.0)
    np.testing.assert_array_equal(image, ex.image)
    assert distance == 0
    assert outside == jnp.inf
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


@ROWS
def test_the_derivative_of_the_distance_is_finite_at_the_identity(row):
    ex = grey(row)
    gradient = jax.jit(jax.grad(lambda t: row.neighbourhood.distance(ex, t)))(row.neighbourhood.init(ex))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradient))


@ROWS
def test_a_ball_measures_what_it_bounds(row):
    if not isinstance(row.neighbourhood, Ball):
        pytest.skip("Not an lp ball.")
    ex = example_of(row, jax.random.uniform(jax.random.key(0), (HEIGHT, WIDTH, 3)))
    theta = row.neighbourhood.sample(jax.random.key(1), ex)
    length = row.neighbourhood.length(row.neighbourhood.apply(ex, theta) - ex.image)
    assert float(length) == pytest.approx(
        float(row.neighbourhood.distance(ex, theta) * row.neighbourhood.eps), rel=1e-4, abs=1e-6
    )
    region = row.neighbourhood.region(ex)
    assert region.shape == (HEIGHT, WIDTH, 1)
    np.testing.assert_array_equal(theta * (1 - region), 0.0)
