"""Depthwise convolution and its gradients against XLA's grouped convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.numerics import depthwise
from jaxrobust.numerics.depthwise import depthwise_conv2d

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("strides", "padding"), [((1, 1), 1), ((2, 2), 1), ((2, 1), 0)])
def test_value_and_gradients_are_xlas(strides, padding):
    x, kernel = (jnp.asarray(RNG.normal(size=s), jnp.float32) for s in ((2, 7, 6, 5), (3, 3, 1, 5)))

    def both(fn):
        y, pull = jax.vjp(fn, x, kernel)
        return y, pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    ours = both(lambda x, kernel: depthwise_conv2d(x, kernel, strides=strides, padding=padding))
    xlas = both(lambda x, kernel: depthwise._lax(strides, padding, x, kernel))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, xlas)


def test_bfloat16_is_rounded_once_and_vmap_works():
    x, kernel = (jnp.asarray(RNG.normal(size=s), jnp.bfloat16) for s in ((3, 2, 5, 5, 4), (3, 3, 1, 4)))
    y = jax.vmap(depthwise_conv2d, (0, None))(x, kernel)
    exact = depthwise_conv2d(x[1].astype(jnp.float32), kernel.astype(jnp.float32))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y[1], exact.astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("x", "kernel", "message"),
    [
        ((2, 5, 5, 4), (3, 3, 4, 4), r"kernel \[kh, kw, 1, c\]"),
        ((2, 5, 5, 4), (3, 3, 1, 5), r"got shapes \(2, 5, 5, 4\)"),
        ((2, 1, 5, 4), (5, 5, 1, 4), "larger image"),
    ],
)
def test_bad_shapes_are_refused(x, kernel, message):
    with pytest.raises(ValueError, match=message):
        depthwise_conv2d(jnp.ones(x), jnp.ones(kernel))
    with pytest.raises(ValueError, match="Cast one"):
        depthwise_conv2d(jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 1, 2), jnp.bfloat16))
