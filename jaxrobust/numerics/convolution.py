"""Convolution of images that is fast on CPU in both directions and inside loops; lax's own elsewhere."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from jaxrobust.numerics import _cpu_convolution as cpu
from jaxrobust.types import Array

Padding = str | tuple[tuple[int, int], tuple[int, int]]

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv2d(
    x: Array, kernel: Array, *, strides: tuple[int, int] = (1, 1), padding: Padding = "VALID"
) -> Array:
    """Convolution as neural networks have it (cross-correlation), in the layouts NHWC and HWIO.

    y[b, i, j, o] = sum_{p, q, c} x[b, s_h i + p - top, s_w j + q - left, c] kernel[p, q, c, o]

    On CPU its value and both gradients take the forms of `_cpu_convolution`, several times faster than
    lax's inside loops, best under `numerics.compile.jit`; on GPU and TPU they are lax's. Which is decided
    when the program is lowered, so one trace serves `jax.export` for every platform.

    Gradients are a custom reverse rule: `jax.grad`, `jax.vjp` and `jax.vmap` work; forward mode (`jax.jvp`)
    is refused by JAX, and second derivatives are not supported.

    Args:
        x: images `[b, h, w, c]`.
        kernel: `[kh, kw, c, o]`, of the dtype of x. The CPU computes in float32 at least and rounds once.
        strides: in pixels, both at least 1.
        padding: "VALID", "SAME", or ((top, bottom), (left, right)) in pixels.

    Returns:
        `[b, h', w', o]` in the dtype of x.

    Raises:
        ValueError: shapes, dtypes or padding do not fit each other.

    >>> conv2d(jnp.ones((2, 5, 5, 1)), jnp.ones((3, 3, 1, 4))).shape
    (2, 3, 3, 4)
    """
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(
            f"Expected images [b, h, w, c] and a kernel [kh, kw, c, o] with the same c, got shapes {x.shape} "
            f"and {kernel.shape}. Images have their channels last."
        )
    if x.dtype != kernel.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"Expected images and kernel of one floating dtype, got {x.dtype} and {kernel.dtype}. Cast one."
        )
    pads = _pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return _conv2d((int(strides[0]), int(strides[1])), pads, x, kernel)


def _pads(
    image: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, int], padding: Padding
) -> cpu.Pads:
    """The padding in pixels, checked against the sizes."""
    if len(strides) != 2 or min(strides) < 1:
        raise ValueError(f"Expected two strides >= 1, got strides={strides}.")
    if isinstance(padding, str) and padding not in ("VALID", "SAME"):
        raise ValueError(
            f'Unknown padding {padding!r}. Known: "SAME", "VALID", ((top, bottom), (left, right)).'
        )
    given = lax.padtype_to_pads(image, kernel, strides, padding) if isinstance(padding, str) else padding
    pads = tuple((int(low), int(high)) for low, high in given)
    if len(pads) != 2 or min(map(min, pads)) < 0:
        raise ValueError(f"Expected padding ((top, bottom), (left, right)) >= 0, got padding={pads}.")
    for size, extent, pad in zip(image, kernel, pads, strict=True):
        if size + sum(pad) < extent:
            raise ValueError(
                f"Expected a kernel no larger than the padded image, got kernel {kernel}, image {image} and "
                f"padding {pads}. Use a larger image or padding."
            )
    return pads


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _conv2d(strides: cpu.Strides, pads: cpu.Pads, x: Array, kernel: Array) -> Array:
    def on_cpu(x, kernel):
        wide_x, wide_kernel = _widened(x, kernel)
        return cpu.forward(wide_x, wide_kernel, strides, pads).astype(x.dtype)

    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=functools.partial(_lax_conv, strides, pads))


def _lax_conv(strides: cpu.Strides, pads: cpu.Pads, x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_LAYOUT)


def _widened(*arrays: Array) -> list[Array]:
    """At least float32: the CPU has no fast convolution below it."""
    return [a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in arrays]


def _forward(strides, pads, x, kernel):
    return _conv2d(strides, pads, x, kernel), (x, kernel)


def _backward(strides, pads, residuals, g):
    x, kernel = residuals
    lax_conv = functools.partial(_lax_conv, strides, pads)

    def input_on_cpu(x, kernel, g):
        g, wide = _widened(g, kernel)
        return cpu.input_gradient(g, wide, x.shape[1:3], strides, pads).astype(x.dtype)

    def kernel_on_cpu(x, kernel, g):
        wide, g = _widened(x, g)
        return cpu.kernel_gradient(wide, g, kernel.shape, strides, pads).astype(kernel.dtype)

    # Two choices, not one of pairs: whoever wants one gradient only does not pay for the other.
    grad_x = lax.platform_dependent(
        x, kernel, g, cpu=input_on_cpu, default=lambda x, kernel, g: jax.vjp(lax_conv, x, kernel)[1](g)[0]
    )
    grad_kernel = lax.platform_dependent(
        x, kernel, g, cpu=kernel_on_cpu, default=lambda x, kernel, g: jax.vjp(lax_conv, x, kernel)[1](g)[1]
    )
    return grad_x, grad_kernel


_conv2d.defvjp(_forward, _backward)
