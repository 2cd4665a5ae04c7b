"""How near a reconstruction is to its original: SSIM and PSNR, one value per image, differentiable."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _validate
from jaxrobust.types import Array

# K1 and K2 of Wang et al., for pixels in [0, 1].
_C1, _C2 = 0.01**2, 0.03**2


def ssim(first: Array, second: Array, *, window: int = 11, sigma: float = 1.5) -> Array:
    r"""Structural similarity (Wang et al., IEEE TIP 13(4), 2004, eq. (13)), the mean over all windows.

    .. math:: \frac{(2 \mu_x \mu_y + C_1)(2 \sigma_{xy} + C_2)}
                   {(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)}

    with the moments under a Gaussian window, C1 = 0.01^2 and C2 = 0.03^2 for a data range of 1. Windows lie
    within the image, as in the authors' code; channels are compared one by one and averaged. Equal to
    scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=1.0)`. Its default, a uniform window of 7 pixels and sample covariances, gives other numbers.

    Args:
        first, second: images `[b, h, w, c]` in [0, 1].
        window: the window's side in pixels, odd, at most the image's.
        sigma: the Gaussian's deviation in pixels, > 0.

    Returns:
        float32 `[b]` in [-1, 1]; 1 for equal images and for no others.

    Raises:
        ValueError: shapes that differ, a window that is even or larger than the image, or sigma <= 0.

    >>> x = jnp.linspace(0, 1, 144).reshape(1, 12, 12, 1)
    >>> float(ssim(x, x)[0]), round(float(ssim(x, 1 - x)[0]), 2)
    (1.0, -0.93)
    """
    _same_shape(first, second)
    check_window(first.shape[1:], window, sigma)
    x, y = first.astype(jnp.float32), second.astype(jnp.float32)
    both = jnp.stack([x, y, x * x, y * y, x * y])
    rows, columns = (jnp.asarray(_band(size, window, sigma)) for size in x.shape[1:3])
    exactly = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    mean_x, mean_y, xx, yy, xy = exactly("ih,nbhwc,jw->nbijc", rows, both, columns)
    variances = (xx - mean_x**2) + (yy - mean_y**2)
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * (xy - mean_x * mean_y) + _C2) / (variances + _C2)
    return (luminance * structure).mean((1, 2, 3))


def psnr(first: Array, second: Array) -> Array:
    """Peak signal-to-noise ratio, -10 log10 of the mean squared difference, for a data range of 1.

    Args:
        first, second: images `[b, h, w, c]` in [0, 1].

    Returns:
        float32 `[b]` in dB, inf for equal images.

    Raises:
        ValueError: shapes that differ.

    >>> round(float(psnr(jnp.zeros((1, 2, 2, 1)), jnp.full((1, 2, 2, 1), 0.1))[0]), 4)
    20.0
    """
    _same_shape(first, second)
    error = jnp.square(first.astype(jnp.float32) - second.astype(jnp.float32)).mean((1, 2, 3))
    return -10 * jnp.log10(error)


def check_window(image_shape: tuple[int, ...], window: int, sigma: float) -> None:
    """Raises ValueError for a window that does not fit images `(h, w, c)`."""
    _validate.at_least("window", window, 1)
    _validate.positive("sigma", sigma)
    if window % 2 == 0:
        raise ValueError(f"Expected an odd window, got window={window}. Use {window + 1}.")
    if min(image_shape[:2]) < window:
        raise ValueError(
            f"Expected images of at least window={window} pixels, got {image_shape[0]}x{image_shape[1]}. "
            "Take a smaller window, and say so beside the numbers."
        )


@functools.cache
def _band(size: int, window: int, sigma: float) -> np.ndarray:
    """`[size - window + 1, size]`: row i averages the pixels i, ..., i + window - 1 under the Gaussian.

    As a matrix, because a product with it is faster than a convolution of few channels, and so is its
    gradient.
    """
    offsets = np.arange(window) - window // 2
    weights = np.exp(-(offsets**2) / (2 * math.pow(sigma, 2)))
    weights /= weights.sum()
    band = np.zeros((size - window + 1, size), np.float32)
    for i in range(len(band)):
        band[i, i : i + window] = weights
    return band


def _same_shape(first: Array, second: Array) -> None:
    if first.ndim != 4 or first.shape != second.shape:
        raise ValueError(
            f"Expected two batches of images [b, h, w, c] of one shape, got {list(first.shape)} and "
            f"{list(second.shape)}."
        )
