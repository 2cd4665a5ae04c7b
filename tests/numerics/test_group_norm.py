import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.numerics.group_norm import group_norm


def by_autodiff(x, scale, bias, groups, eps):
    grouped = x.reshape(*x.shape[:3], groups, -1)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    var = grouped.var((1, 2, 4), keepdims=True)
    return ((grouped - mean) / jnp.sqrt(var + eps)).reshape(x.shape) * scale + bias


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_value_and_gradients_are_those_of_the_equation(groups):
    keys = jax.random.split(jax.random.key(groups), 4)
    x = 3.0 + jax.random.normal(keys[0], (2, 5, 4, 6)) * jnp.arange(1.0, 7.0)
    scale, bias = jax.random.normal(keys[1], (2, 6))
    weights = jax.random.normal(keys[2], x.shape)

    def loss(fn, x, scale, bias):
        return (fn(x, scale, bias, groups, 1e-5) * weights).sum()

    for own, other in zip(
        jax.value_and_grad(lambda *a: loss(group_norm, *a), (0, 1, 2))(x, scale, bias),
        jax.value_and_grad(lambda *a: loss(by_autodiff, *a), (0, 1, 2))(x, scale, bias),
        strict=True,
    ):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), own, other)


def test_a_large_mean_costs_no_digits():
    x = 1e4 + jax.random.normal(jax.random.key(0), (1, 16, 16, 2))
    y = group_norm(x, jnp.ones(2), jnp.zeros(2), 1, 1e-5)
    np.testing.assert_allclose([y.mean(), y.std()], [0.0, 1.0], atol=5e-3)


def test_a_constant_image_has_a_finite_gradient():
    grad = jax.grad(lambda x: group_norm(x, jnp.ones(4), jnp.zeros(4), 2, 1e-5).sum())(jnp.ones((1, 3, 3, 4)))
    assert jnp.isfinite(grad).all()
