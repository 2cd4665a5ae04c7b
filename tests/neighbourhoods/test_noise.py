"""Functional noise: its distribution, and the balls that hold it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrobust.neighbourhoods import L2, GaussianNoise, LInf, UniformNoise
from jaxrobust.types import Ball, Example

GREY = Example(jnp.full((20, 20, 2), 0.5), jnp.array(0))


def draw(noise, ex, num=1):
    return np.asarray(jax.vmap(noise.sample, (0, None))(jax.random.split(jax.random.key(0), num), ex))


def test_uniform_noise_is_uniform():
    values = draw(UniformNoise(eps=0.2), GREY).ravel()
    assert stats.kstest(values, stats.uniform(-0.2, 0.4).cdf).pvalue > 0.01


def test_gaussian_noise_is_normal():
    values = draw(GaussianNoise(sigma=0.1), GREY).ravel()
    assert stats.kstest(values, stats.norm(0, 0.1).cdf).pvalue > 0.01


def test_gaussian_noise_stops_at_the_stated_quantile():
    ex = Example(jnp.full((1, 1, 2), 0.5), jnp.array(0))
    lengths = np.linalg.norm(draw(GaussianNoise(sigma=0.01), ex, 20_000).reshape(-1, 2), axis=1)
    # Of two values the length is Rayleigh distributed: P(length > r) = exp(-r^2 / 2 sigma^2).
    radius = 0.01 * np.sqrt(2 * np.log(1000))
    assert lengths.max() == pytest.approx(radius, rel=1e-5)
    on_the_border = np.mean(lengths > radius * (1 - 1e-6))
    assert 0.0003 < on_the_border < 0.002
    assert np.median(lengths) == pytest.approx(0.01 * np.sqrt(2 * np.log(2)), rel=0.03)


def test_noise_is_clipped_to_pixels():
    white = GREY._replace(image=jnp.ones((20, 20, 2)))
    for noise in (UniformNoise(eps=0.3), GaussianNoise(sigma=0.3)):
        image = noise.apply(white, noise.sample(jax.random.key(0), white))
        assert float(image.max()) == 1
        assert float((image == 1).mean()) == pytest.approx(0.5, abs=0.08)


def test_as_sets_they_are_balls():
    theta = jax.random.normal(jax.random.key(1), (20, 20, 2))
    uniform = UniformNoise(eps=0.2)
    assert isinstance(uniform, Ball)
    np.testing.assert_array_equal(uniform.project(GREY, theta), LInf(eps=0.2).project(GREY, theta))
    np.testing.assert_array_equal(uniform.ascent(theta), LInf(eps=0.2).ascent(theta))
    gaussian, ball = GaussianNoise(sigma=0.1), L2(eps=0.1 * float(stats.chi(800).isf(1e-3)))
    assert not isinstance(gaussian, Ball)  # its radius depends on the size of the image
    np.testing.assert_allclose(gaussian.project(GREY, theta), ball.project(GREY, theta), atol=1e-6)
    np.testing.assert_allclose(gaussian.ascent(theta), ball.ascent(theta), rtol=1e-5)
    assert float(gaussian.distance(GREY, theta)) == pytest.approx(float(ball.distance(GREY, theta)), rel=1e-5)


@pytest.mark.parametrize("make", [lambda: UniformNoise(eps=-1.0), lambda: GaussianNoise(sigma=float("nan"))])
def test_bad_radii_are_named(make):
    with pytest.raises(ValueError, match=r"eps|sigma"):
        make()
