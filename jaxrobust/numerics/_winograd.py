"""A 3x3 convolution with a quarter of the multiplications: F(4x4, 3x3) of Winograd.

Lavin and Gray (arXiv:1509.09308, section 4.3): windows of 6x6 pixels d and the kernel g are transformed,
multiplied entry by entry, summed over the channels, and transformed back to 4x4 outputs,

    Y = A^T [(G g G^T) * (B^T d B)] A,

so that 36 multiplications stand for 16 x 9. The transforms cost a digit: in float32 the result is off by some
1e-5 of its largest entry, that of a plain convolution by 1e-6.
"""

import functools
import operator

import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from jaxrobust.types import Array

_TILE, _WINDOW = 4, 6
_FROM_PIXELS = np.array(  # B^T
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_FROM_KERNEL = np.array(  # G
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_TO_OUTPUTS = np.array(  # A^T
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)

# Measured on layers of PreActResNet-18 and SmallCNN: with fewer channels the transforms of the pixels cost
# what the products save, with fewer tiles that of the kernel does. Tiles are those of one image: a row's
# result is not to depend on how many rows there are.
_LEAST_CHANNELS = 64
_LEAST_TILES = 16
_MOST_WASTE = 1.5


def pays(padded_shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> bool:
    """Whether `convolve` is the faster form on CPU for images `[b, h + 2, w + 2, c]`, whatever b is.

    >>> pays((32, 34, 34, 64), (3, 3, 64, 64)), pays((32, 6, 6, 512), (3, 3, 512, 512))
    (True, False)
    """
    if kernel_shape[:2] != (3, 3) or min(kernel_shape[2:]) < _LEAST_CHANNELS:
        return False
    height, width = padded_shape[1] - 2, padded_shape[2] - 2
    if min(height, width) < 1:
        return False
    tiles = _tiles(height) * _tiles(width)
    return tiles >= _LEAST_TILES and tiles * _TILE**2 <= _MOST_WASTE * height * width


def convolve(x: Array, kernel: Array, *, adjoint: bool = False) -> Array:
    """The "VALID" cross-correlation `[b, h, w, o]` of images `[b, h + 2, w + 2, c]` with `[3, 3, c, o]`.

    `adjoint`: with the flipped kernel of `[3, 3, o, c]` instead, as the gradient of a convolution is one.
    """
    #     x [b, h + 2, w + 2, c]        -> windows of 6 rows, 4 apart, transformed: [6, b, h/4, w + 2, c]
    #                                   -> windows of 6 columns, transformed: [6, 6, b, h/4, w/4, c]
    #     kernel [3, 3, c, o]           -> [6, 6, c, o]
    #     36 products [b h/4 w/4, c] @ [c, o] -> [6, 6, b, h/4, w/4, o]
    #     transformed back              -> [b, h/4, 4, w/4, 4, o] -> [b, h, w, o]
    b, height, width = x.shape[0], x.shape[1] - 2, x.shape[2] - 2
    c, o = kernel.shape[:1:-1] if adjoint else kernel.shape[2:]
    down, across = _tiles(height), _tiles(width)
    x = jnp.pad(x, ((0, 0), (0, down * _TILE - height), (0, across * _TILE - width), (0, 0)))

    rows = [x[:, i : i + _TILE * (down - 1) + 1 : _TILE] for i in range(_WINDOW)]
    by_row = jnp.stack(_combined(_FROM_PIXELS, rows))
    columns = [by_row[:, :, :, j : j + _TILE * (across - 1) + 1 : _TILE] for j in range(_WINDOW)]
    pixels = jnp.stack(_combined(_FROM_PIXELS, columns), axis=1).reshape(_WINDOW**2, -1, c)

    # The flipped kernel is transformed by the flipped matrix; the product contracts its last axis instead.
    matrix = _FROM_KERNEL[:, ::-1] if adjoint else _FROM_KERNEL
    of_rows = [jnp.stack(_combined(matrix, list(row))) for row in kernel]
    weights = jnp.stack(_combined(matrix, of_rows)).reshape(_WINDOW**2, *kernel.shape[2:])
    contracted = ((2,), (2 if adjoint else 1,))
    products = lax.dot_general(pixels, weights, (contracted, ((0,), (0,))))
    products = products.reshape(_WINDOW, _WINDOW, b, down, across, o)
    by_row_out = _combined(_TO_OUTPUTS, list(products))
    outputs = [jnp.stack(_combined(_TO_OUTPUTS, list(row)), axis=3) for row in by_row_out]
    found = jnp.stack(outputs, axis=2).reshape(b, down * _TILE, across * _TILE, o)
    return found[:, :height, :width]


def _tiles(size: int) -> int:
    return -(-size // _TILE)


def _combined(matrix: NDArray, parts: list[Array]) -> list[Array]:
    """The products of the matrix's rows with the parts: sums of few terms, not matrix products."""
    return [
        functools.reduce(operator.add, [_scaled(c, part) for c, part in zip(row, parts, strict=True) if c])
        for row in matrix
    ]


def _scaled(factor: float, part: Array) -> Array:
    return part if factor == 1 else part * jnp.asarray(factor, part.dtype)
