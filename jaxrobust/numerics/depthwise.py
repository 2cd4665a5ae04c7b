"""Depthwise convolution, one filter per channel, in a form that is fast on CPU; lax's own elsewhere."""

import functools
import operator

import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.types import Array

Strides = tuple[int, int]


def depthwise_conv2d(x: Array, kernel: Array, *, strides: Strides = (1, 1), padding: int = 1) -> Array:
    """y[b, i, j, c] = sum_{p, q} x[b, s_h i + p - padding, s_w j + q - padding, c] kernel[p, q, 0, c].

    On CPU it is arithmetic on shifted copies, forward and backward, where XLA's grouped convolution takes one
    channel at a time. Reverse mode only, like `conv2d`.

    Args:
        x: images `[b, h, w, c]`.
        kernel: `[kh, kw, 1, c]`, of the dtype of x.
        strides: in pixels, both at least 1.
        padding: pixels of zeros on every side.

    Returns:
        `[b, h', w', c]` in the dtype of x; the CPU sums in float32 at least and rounds once.

    Raises:
        ValueError: shapes or dtypes do not fit each other.

    >>> depthwise_conv2d(jnp.ones((1, 3, 3, 2)), jnp.ones((3, 3, 1, 2)))[0, :, :, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[2:] != (1, x.shape[3]):
        raise ValueError(
            f"Expected images [b, h, w, c] and a kernel [kh, kw, 1, c], got shapes {x.shape} and "
            f"{kernel.shape}. Images have their channels last."
        )
    if x.dtype != kernel.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"Expected images and kernel of one floating dtype, got {x.dtype} and {kernel.dtype}. Cast one."
        )
    if min(x.shape[1] - kernel.shape[0], x.shape[2] - kernel.shape[1]) + 2 * padding < 0:
        raise ValueError(
            f"Expected a kernel no larger than the padded image, got kernel {kernel.shape[:2]}, image "
            f"{x.shape[1:3]} and padding={padding}. Use a larger image or padding."
        )
    return _depthwise((int(strides[0]), int(strides[1])), padding, x, kernel)


def _lax(strides: Strides, padding: int, x: Array, kernel: Array) -> Array:
    pads = [(padding, padding)] * 2
    return lax.conv_general_dilated(
        x, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[3]
    )


def _shifted(strides: Strides, padding: int, x: Array, kernel: Array) -> Array:
    wide = jnp.promote_types(x.dtype, jnp.float32)
    (sh, sw), (kh, kw) = strides, kernel.shape[:2]
    padded = jnp.pad(x.astype(wide), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    h, w = ((size - k) // s + 1 for size, k, s in zip(padded.shape[1:3], (kh, kw), strides))
    weights = kernel.astype(wide)
    products = (
        padded[:, i : i + (h - 1) * sh + 1 : sh, j : j + (w - 1) * sw + 1 : sw] * weights[i, j, 0]
        for i in range(kh)
        for j in range(kw)
    )
    return functools.reduce(operator.add, products).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _depthwise(strides: Strides, padding: int, x: Array, kernel: Array) -> Array:
    return lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(_shifted, strides, padding),
        default=functools.partial(_lax, strides, padding),
    )


def _forward(strides, padding, x, kernel):
    return _depthwise(strides, padding, x, kernel), (x, kernel)


def _backward(strides, padding, residuals, g):
    # The derivatives are autodiff's; the custom rule keeps the choice of platform out of them, which would
    # otherwise have the residuals of both.
    def pull(form, place):
        return lambda x, kernel, g: jax.vjp(functools.partial(form, strides, padding), x, kernel)[1](g)[place]

    return tuple(
        lax.platform_dependent(*residuals, g, cpu=pull(_shifted, place), default=pull(_lax, place))
        for place in (0, 1)
    )


_depthwise.defvjp(_forward, _backward)
