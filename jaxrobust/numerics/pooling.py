"""Pooling over windows that do not overlap, with a gradient that is fast on CPU."""

import functools

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.types import Array


def max_pool(x: Array, *, window: tuple[int, int] = (2, 2)) -> Array:
    """The maximum over windows, with stride = window and no padding; rows and columns left over are cut off.

    Ties: the gradient goes to the first maximum of a window, row by row, as in PyTorch. It is never counted
    twice, which matters on flat backgrounds, where whole windows tie. A NaN in a window gives NaN.

    `relu(max_pool(x))` equals `max_pool(relu(x))`, gradients included, with a quarter of the arithmetic.

    Args:
        x: `[b, h, w, c]`.
        window: its height and width in pixels.

    Returns:
        `[b, h // window[0], w // window[1], c]`. Reverse mode only, like `conv2d`.

    Raises:
        ValueError: the window is smaller than one pixel or larger than the image.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    for name, size, limit in zip(("window[0]", "window[1]"), window, x.shape[1:3], strict=True):
        _validate.at_least(name, size, 1)
        _validate.within(name, size, 1, limit, "The window must fit into the image.")
    return _max_pool(tuple(window), x.shape[1:3], x)


def _windows(window: tuple[int, int], x: Array) -> Array:
    """`[b, i, p, j, q, c]`: the pixels (p, q) of each window (i, j)."""
    (b, h, w, c), (p, q) = x.shape, window
    return x[:, : h // p * p, : w // q * q].reshape(b, h // p, p, w // q, q, c)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _max_pool(window: tuple[int, int], size: tuple[int, int], x: Array) -> Array:
    parts, (p, q) = _windows(window, x), window
    return functools.reduce(jnp.maximum, (parts[:, :, i, :, j] for i in range(p) for j in range(q)))


def _larger(a: Array, b: Array) -> Array:
    """The maximum, or NaN where one of them is, which XLA's own reduction by the maximum loses on CPU."""
    return jnp.where((a >= b) | (a != a), a, b)


def _forward(window, size, x):
    # The place of the maximum is all that the gradient needs: a sixteenth of x in float32 and 2x2 windows.
    # Both are reductions, since XLA keeps what those give; what is elementwise it makes anew, on CPU,
    # wherever the gradient reads it, together with all that led to it.
    parts, last = _windows(window, x), window[0] * window[1] - 1
    maximum = jax.lax.reduce(parts, jnp.asarray(-jnp.inf, x.dtype), _larger, (2, 4))
    dtype = jnp.int8 if last < 127 else jnp.int32
    places = jnp.arange(last + 1, dtype=dtype).reshape(window[0], 1, window[1], 1)
    where_largest = jnp.where(parts == maximum[:, :, None, :, None], places, jnp.asarray(last, dtype))
    return maximum, jax.lax.reduce(where_largest, jnp.asarray(last, dtype), jax.lax.min, (2, 4))


def _backward(window, size, place, g):
    (h, w), (p, q) = size, window
    b, i, j, c = g.shape
    places = jnp.arange(p * q, dtype=place.dtype).reshape(p, 1, q, 1)
    grad = jnp.where(place[:, :, None, :, None] == places, g[:, :, None, :, None], 0)
    return (jnp.pad(grad.reshape(b, i * p, j * q, c), ((0, 0), (0, h - i * p), (0, w - j * q), (0, 0))),)


_max_pool.defvjp(_forward, _backward)


def global_avg_pool(x: Array) -> Array:
    """The mean over height and width: `[b, h, w, c]` to `[b, c]`, summed in float32 at least.

    >>> global_avg_pool(jnp.ones((2, 4, 4, 3))).shape
    (2, 3)
    """
    return jnp.mean(x, axis=(1, 2))
