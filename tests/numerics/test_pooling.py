"""max_pool against reduce_window and finite differences; its ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxrobust.numerics.pooling import global_avg_pool, max_pool


@pytest.mark.parametrize("window", [(2, 2), (3, 2), (1, 1), (1, 4)])
@pytest.mark.parametrize("size", [(12, 12), (7, 9)])
def test_value_and_gradient_are_those_of_reduce_window(window, size):
    x = jax.random.normal(jax.random.key(0), (2, *size, 3))

    def theirs(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *window, 1), "VALID")

    @jax.jit
    def both(x):
        y, pull = jax.vjp(lambda x: max_pool(x, window=window), x)
        expected, pull_expected = jax.vjp(theirs, x)
        g = jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        return (y, *pull(g)), (expected, *pull_expected(g))

    for ours, expected in zip(*both(x), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_a_tie_passes_the_gradient_once_and_to_the_first():
    grad = jax.grad(lambda x: max_pool(x).sum())(jnp.array([0.0, 1, 1, 1]).reshape(1, 2, 2, 1))
    assert grad.ravel().tolist() == [0, 1, 0, 0]


def test_a_flat_background_has_the_true_derivative():
    """d/db of pool(x + b) is 1 per window, though every window ties."""
    assert float(jax.grad(lambda b: max_pool(jnp.zeros((1, 4, 4, 1)) + b).sum())(0.0)) == 4


def test_relu_and_max_pool_commute_with_their_gradients():
    x = jnp.round(jax.random.normal(jax.random.key(0), (4, 8, 8, 3)))  # many ties, many zeros
    g = jax.random.normal(jax.random.key(1), (4, 4, 4, 3))
    first, pull_first = jax.vjp(lambda x: jax.nn.relu(max_pool(x)), x)
    second, pull_second = jax.vjp(lambda x: max_pool(jax.nn.relu(x)), x)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(pull_first(g)[0], pull_second(g)[0])


def test_nan_stays_visible():
    assert bool(jnp.isnan(max_pool(jnp.array([0.0, jnp.nan, 1, 2]).reshape(1, 2, 2, 1))).all())


@pytest.mark.parametrize("window", [(2, 2), (3, 2)])
def test_the_value_is_the_same_where_a_gradient_is_taken_nan_included(window):
    """At a size at which XLA reduces in vectors."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (4, 64, 64, 32))
    x = jnp.where(jax.random.uniform(keys[1], x.shape) < 0.05, jnp.nan, x)
    expected = max_pool(x, window=window)
    found, _ = jax.vjp(lambda x: max_pool(x, window=window), x)
    assert bool(jnp.isnan(expected).any())
    np.testing.assert_array_equal(found, expected)


def test_under_jit_vmap_bfloat16_and_an_empty_batch():
    x = jax.random.normal(jax.random.key(0), (3, 2, 4, 5, 2), jnp.bfloat16)
    grad_fn = jax.grad(lambda x: (max_pool(x).astype(jnp.float32) ** 2).sum())
    grads = jax.jit(jax.vmap(grad_fn))(x)
    assert grads.dtype == jnp.bfloat16
    np.testing.assert_array_equal(grads[1], grad_fn(x[1]))
    assert max_pool(jnp.zeros((0, 4, 4, 1))).shape == (0, 2, 2, 1)


def test_a_window_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="must fit"):
        max_pool(jnp.zeros((1, 4, 4, 1)), window=(5, 1))
    with pytest.raises(ValueError, match=">= 1"):
        max_pool(jnp.zeros((1, 4, 4, 1)), window=(0, 2))


def test_global_average():
    x = jnp.arange(24.0).reshape(1, 3, 4, 2)
    np.testing.assert_allclose(global_avg_pool(x), [[11, 12]])
