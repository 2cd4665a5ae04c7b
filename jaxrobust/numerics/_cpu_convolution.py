"""The convolution and its two gradients in the forms that XLA's CPU compiler runs fast.

Four rules, each measured (benchmarks/attacks.py, benchmarks/training.py):

- every convolution is written in the canonical layout (NHWC, HWIO): XLA rewrites other layouts to it at the
  top level of a program only, so that a gradient from autodiff runs ten times slower inside a loop;
- the kernel's gradient contracts over a block of images at a time, whose transposes stay in the cache;
- with up to three input channels (the image itself) a convolution is arithmetic on shifted copies, not a
  matrix product;
- a 3x3 convolution of many channels takes Winograd's form (`_winograd`), also as the gradient of another.

`pads` is ((top, bottom), (left, right)); arrays are of one floating dtype, at least float32.
"""

import functools
import operator
from collections.abc import Iterable

import jax.numpy as jnp
from jax import lax

from jaxrobust.numerics import _winograd
from jaxrobust.types import Array

Pads = tuple[tuple[int, int], tuple[int, int]]
Strides = tuple[int, int]

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_MAX_IMAGE_CHANNELS = 3
_BLOCK = 16


def _pad(x: Array, heights: tuple[int, int, int], widths: tuple[int, int, int]) -> Array:
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), heights, widths, (0, 0, 0)))


def _is_pointwise(kernel_shape: tuple[int, ...], pads: Pads) -> bool:
    return kernel_shape[:2] == (1, 1) and pads == ((0, 0), (0, 0))


def _is_on_image(channels: int, strides: Strides) -> bool:
    return channels <= _MAX_IMAGE_CHANNELS and strides == (1, 1)


def _taps(x: Array, kernel_shape: tuple[int, ...], pads: Pads) -> list[Array]:
    """The shifted copies `[b, h', w', c]` of the padded images, one per place in the kernel, row by row."""
    kh, kw = kernel_shape[:2]
    x = _pad(x, (*pads[0], 0), (*pads[1], 0))
    h, w = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    return [x[:, i : i + h, j : j + w] for i in range(kh) for j in range(kw)]


def _sum(arrays: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, arrays)


def forward(x: Array, kernel: Array, strides: Strides, pads: Pads) -> Array:
    """Cross-correlation `[b, h', w', o]`."""
    channels, outputs = kernel.shape[2:]
    if _is_pointwise(kernel.shape, pads):
        return x[:, :: strides[0], :: strides[1]] @ kernel[0, 0]
    if _is_on_image(channels, strides):
        weights = kernel.reshape(-1, channels, outputs)
        taps = _taps(x, kernel.shape, pads)
        return _sum(t[..., c : c + 1] * weights[n, c] for n, t in enumerate(taps) for c in range(channels))
    padded = (x.shape[0], x.shape[1] + sum(pads[0]), x.shape[2] + sum(pads[1]), channels)
    if strides == (1, 1) and _winograd.pays(padded, kernel.shape):
        return _winograd.convolve(_pad(x, (*pads[0], 0), (*pads[1], 0)), kernel)
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=_LAYOUT)


def input_gradient(
    g: Array, kernel: Array, image_shape: tuple[int, int], strides: Strides, pads: Pads
) -> Array:
    """The gradient `[b, h, w, c]` for the cotangent `g` `[b, h', w', o]`."""
    # Every output handed its window of the image a share g * kernel; an image's pixel sums its shares.
    # On the image: the shares of all kh kw taps by one product, each then put where its tap read:
    #     g [b, h', w', o] @ [o, kh kw c]        -> products [b, h', w', kh, kw, c]
    #     products[..., i, j, :] [b, h', w', c]  -> padded by (i, kh - 1 - i), (j, kw - 1 - j), less the pads
    #     sum of the kh kw of them               -> [b, h, w, c]
    # Otherwise, as a convolution of g, spread out by the strides, with the flipped kernel:
    #     g [b, h', w', o]                       -> [b, h + kh - 1, w + kw - 1, o], zeros between and around
    #     kernel [kh, kw, c, o]                  -> flipped [kh, kw, o, c]
    #     "VALID" convolution of the two         -> [b, h, w, c]
    kh, kw, channels, outputs = kernel.shape
    if _is_on_image(channels, strides) and not _is_pointwise(kernel.shape, pads):
        products = g @ kernel.reshape(-1, outputs).T
        products = products.reshape(*g.shape[:3], kh, kw, channels)
        return _sum(
            _pad(products[:, :, :, i, j], _room(i, kh, pads[0]), _room(j, kw, pads[1]))
            for i in range(kh)
            for j in range(kw)
        )
    (h, w), (sh, sw) = image_shape, strides
    # Padding first, with zeros between the rows of a strided g, keeps the convolution itself canonical.
    top, left = kh - 1 - pads[0][0], kw - 1 - pads[1][0]
    bottom = h + kh - 1 - top - ((g.shape[1] - 1) * sh + 1)
    right = w + kw - 1 - left - ((g.shape[2] - 1) * sw + 1)
    if _is_pointwise(kernel.shape, pads):
        return _pad(g @ kernel[0, 0].T, (top, bottom, sh - 1), (left, right, sw - 1))
    g = _pad(g, (top, bottom, sh - 1), (left, right, sw - 1))
    if _winograd.pays(g.shape, kernel.shape):
        return _winograd.convolve(g, kernel, adjoint=True)
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return lax.conv_general_dilated(g, flipped, (1, 1), "VALID", dimension_numbers=_LAYOUT)


def _room(offset: int, size: int, pad: tuple[int, int]) -> tuple[int, int, int]:
    """Where a tap's share of the gradient lies: its offset from the border, less the padding cut off."""
    return offset - pad[0], size - 1 - offset - pad[1], 0


def kernel_gradient(x: Array, g: Array, kernel_shape: tuple[int, ...], strides: Strides, pads: Pads) -> Array:
    """The gradient `[kh, kw, c, o]` for the cotangent `g` `[b, h', w', o]`."""
    # Tap (i, j) of channel c sums, over images and outputs, the pixel it read times g.
    # On the image: one matrix product over all b h' w' outputs:
    #     taps [b, h', w', c], kh kw of them     -> rows [kh kw c, b h' w']
    #     rows @ g [b h' w', o]                  -> [kh, kw, c, o]
    # Otherwise, as a convolution in which images play the channels, g the kernel, and the places of the tap
    # are the output's pixels; n images (a block) at a time:
    #     x [n, h, w, c], padded by `block_pads` -> [c, kh + (h' - 1) sh, kw + (w' - 1) sw, n]
    #     g [n, h', w', o]                       -> [h', w', n, o], its rows sh, its columns sw apart
    #     "VALID" convolution of the two         -> [c, kh, kw, o] -> [kh, kw, c, o], summed over blocks
    kh, kw, channels, outputs = kernel_shape
    if _is_pointwise(kernel_shape, pads):
        rows = x[:, :: strides[0], :: strides[1]].reshape(-1, channels)
        return (rows.T @ g.reshape(-1, outputs)).reshape(kernel_shape)
    if _is_on_image(channels, strides):
        taps = _taps(x, kernel_shape, pads)
        rows = jnp.stack([t[..., c] for t in taps for c in range(channels)]).reshape(len(taps) * channels, -1)
        return (rows @ g.reshape(-1, outputs)).reshape(kernel_shape)

    # A stride can leave rows at the border that no window reaches; the cut keeps the result at kernel_shape.
    cut_h = (g.shape[1] - 1) * strides[0] + kh - x.shape[1] - pads[0][0]
    cut_w = (g.shape[2] - 1) * strides[1] + kw - x.shape[2] - pads[1][0]
    block_pads = ((pads[0][0], cut_h), (pads[1][0], cut_w))

    def of_block(xs: Array, gs: Array) -> Array:
        """[c, h, w, n] with kernel [h', w', n, o]: the images of the block are the contracted channels."""
        return lax.conv_general_dilated(
            _pad(xs, (*block_pads[0], 0), (*block_pads[1], 0)).transpose(3, 1, 2, 0),
            gs.transpose(1, 2, 0, 3),
            (1, 1),
            "VALID",
            rhs_dilation=strides,
            dimension_numbers=_LAYOUT,
        ).transpose(1, 2, 0, 3)

    if not isinstance(x.shape[0], int):
        # Exported for any number of images: no blocks can be counted, so all go at once.
        return of_block(x, g)
    blocks, rest = divmod(x.shape[0], _BLOCK)
    if not blocks:
        return of_block(x, g) if rest else jnp.zeros(kernel_shape, x.dtype)
    split = blocks * _BLOCK
    xs = x[:split].reshape(blocks, _BLOCK, *x.shape[1:])
    gs = g[:split].reshape(blocks, _BLOCK, *g.shape[1:])
    # The first block, not zeros, starts the sum: under pmap and shard_map it differs between devices, and a
    # scan wants to know that from the start.
    total = of_block(xs[0], gs[0])
    if blocks > 1:
        total = lax.scan(lambda sum_, block: (sum_ + of_block(*block), None), total, (xs[1:], gs[1:]))[0]
    return total + of_block(x[-rest:], g[-rest:]) if rest else total
