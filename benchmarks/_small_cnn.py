"""SmallCNN (without dropout) in plain JAX functions: with JAX's own layers, and with this library's."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.numerics.convolution import conv2d
from jaxrobust.numerics.pooling import max_pool


def _naive_block(x, first, second):
    def conv(x, layer):
        y = lax.conv_general_dilated(x, layer[0], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(y + layer[1])

    x = conv(conv(x, first), second)
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _our_block(x, first, second):
    x = jax.nn.relu(conv2d(x, first[0]) + first[1])
    # Bias and relu after the pooling: the same values and gradients on a quarter of the numbers.
    return jax.nn.relu(max_pool(conv2d(x, second[0])) + second[1])


def logits(block: Callable, params, x):
    """`x` `[b, h, w, c]` to logits; `params`: (kernel, bias) of conv1 to conv4 and fc1 to fc3."""
    x = block(block(x, *params[:2]), *params[2:4])
    x = x.reshape(x.shape[0], -1)
    for kernel, bias in params[4:6]:
        x = jax.nn.relu(x @ kernel + bias)
    return x @ params[6][0] + params[6][1]


NAIVE, OURS = _naive_block, _our_block
