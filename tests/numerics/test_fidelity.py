"""SSIM and PSNR against scikit-image and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.numerics.fidelity import psnr, ssim

metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is in the extra 'dev'")


def pictures(shape, seed=0):
    """Smooth pictures, and others near to them."""
    rng = np.random.default_rng(seed)
    h, w = shape[1:3]
    waves = np.sin(np.arange(h) / 5)[:, None] * np.cos(np.arange(w) / 7)
    first = np.clip(0.5 + 0.3 * waves[None, :, :, None] + 0.1 * rng.normal(size=shape), 0, 1)
    second = np.clip(0.8 * first + 0.1 + 0.05 * rng.normal(size=shape), 0, 1)
    return first.astype(np.float32), second.astype(np.float32)


@pytest.mark.parametrize("shape", [(3, 56, 46, 1), (2, 20, 33, 3)])
def test_ssim_is_that_of_scikit_image(shape):
    first, second = pictures(shape)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    expected = [
        metrics.structural_similarity(one, other, channel_axis=-1, **options)
        for one, other in zip(first.astype(float), second.astype(float))
    ]
    assert min(expected) > 0.1 and max(expected) < 0.9
    np.testing.assert_allclose(ssim(first, second), expected, atol=1e-5)


def test_other_windows_are_the_formula():
    first, second = pictures((2, 9, 10, 1))
    expected = [by_hand(one, other, 7, 1.0) for one, other in zip(first.astype(float), second.astype(float))]
    np.testing.assert_allclose(ssim(first, second, window=7, sigma=1.0), expected, atol=1e-5)


def by_hand(x, y, window, sigma):
    """Window by window, in float64."""
    offsets = np.arange(window) - window // 2
    line = np.exp(-(offsets**2) / (2 * sigma**2))
    weights = np.outer(line, line) / line.sum() ** 2
    values = []
    for i in range(x.shape[0] - window + 1):
        for j in range(x.shape[1] - window + 1):
            a, b = (z[i : i + window, j : j + window, 0] for z in (x, y))
            ma, mb = (weights * a).sum(), (weights * b).sum()
            va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
            cab = (weights * (a - ma) * (b - mb)).sum()
            top = (2 * ma * mb + 1e-4) * (2 * cab + 9e-4)
            values.append(top / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))
    return np.mean(values)


def test_psnr_is_that_of_scikit_image_and_infinite_for_equal_images():
    first, second = pictures((3, 12, 13, 1))
    expected = [metrics.peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in zip(first, second)]
    np.testing.assert_allclose(psnr(first, second), expected, rtol=1e-5)
    assert np.isinf(psnr(first, first)).all()


def test_ssim_is_symmetric_1_for_equal_images_and_the_luminance_term_for_even_ones():
    first, second = pictures((2, 14, 15, 1))
    np.testing.assert_allclose(ssim(first, second), ssim(second, first), atol=1e-6)
    np.testing.assert_allclose(ssim(first, first), 1, atol=1e-6)
    grey = [jnp.full((1, 11, 11, 1), level) for level in (0.2, 0.6)]
    np.testing.assert_allclose(ssim(*grey)[0], (2 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4), rtol=1e-4)


def test_the_gradient_is_finite_on_even_images_and_points_to_the_original():
    first, second = pictures((1, 16, 16, 1))
    slope = jax.grad(lambda x: ssim(x, first).sum())
    assert np.isfinite(slope(jnp.zeros_like(first))).all()
    assert float(ssim(second + 1e-2 * slope(jnp.asarray(second)), first)[0]) > float(ssim(second, first)[0])


@pytest.mark.parametrize(
    ("shapes", "options", "said"),
    [
        (((1, 8, 8, 1), (1, 8, 8, 1)), {}, "at least window=11 pixels, got 8x8"),
        (((1, 8, 8, 1), (1, 8, 8, 1)), {"window": 4}, "odd window, got window=4. Use 5"),
        (((1, 8, 8, 1), (1, 8, 8, 1)), {"window": 3, "sigma": 0.0}, "sigma > 0"),
        (((1, 8, 8, 1), (1, 8, 9, 1)), {"window": 3}, "of one shape"),
    ],
)
def test_bad_input(shapes, options, said):
    with pytest.raises(ValueError, match=said):
        ssim(*(jnp.zeros(shape) for shape in shapes), **options)
