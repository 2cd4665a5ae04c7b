"""The lp balls against closed forms and an independent solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxrobust.neighbourhoods import L2, LInf
from jaxrobust.types import Example


def example(image):
    return Example(jnp.asarray(image, jnp.float32), jnp.array(0))


def test_linf_projection_is_the_nearest_point_of_ball_and_box():
    ex = example([[[0.05], [0.5], [0.9]]])
    theta = LInf(eps=0.3).project(ex, jnp.array([[[-1.0], [-1.0], [1.0]]]))
    np.testing.assert_allclose(theta.ravel(), [-0.05, -0.3, 0.1], atol=1e-7)


@pytest.mark.parametrize("eps", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_l2_projection_is_the_nearest_point_of_ball_and_box(eps, scale):
    rng = np.random.default_rng(int(100 * eps + scale))
    # Half the pixels at the border of the box, as in MNIST.
    x = np.where(rng.random(24) < 0.5, rng.integers(0, 2, 24), rng.random(24))
    theta = scale * rng.standard_normal(24)
    low, high = -x, 1 - x

    def norm(s):
        return np.linalg.norm(np.clip(s * theta, low, high))

    s = 1.0 if norm(1.0) <= eps else optimize.brentq(lambda s: norm(s) - eps, 0.0, 1.0, xtol=1e-14)
    expected = np.clip(s * theta, low, high)
    ours = L2(eps=eps).project(example(x.reshape(4, 6, 1)), jnp.asarray(theta, jnp.float32).reshape(4, 6, 1))
    np.testing.assert_allclose(np.ravel(ours), expected, atol=2e-6)


def test_l2_projection_beats_every_feasible_point_of_a_cloud():
    rng = np.random.default_rng(7)
    x, theta = rng.random(5), 2 * rng.standard_normal(5)
    ours = np.ravel(
        L2(eps=0.6).project(example(x.reshape(1, 5, 1)), jnp.asarray(theta.reshape(1, 5, 1), jnp.float32))
    )
    cloud = rng.standard_normal((200_000, 5))
    cloud *= 0.6 * rng.random((200_000, 1)) ** 0.2 / np.linalg.norm(cloud, axis=1, keepdims=True)
    cloud = cloud[((x + cloud >= 0) & (x + cloud <= 1)).all(axis=1)]
    assert len(cloud) > 1000
    assert np.linalg.norm(ours - theta) <= np.linalg.norm(cloud - theta, axis=1).min() + 1e-6


def test_l2_ascent_survives_tiny_gradients():
    # A logit gap of 50 leaves gradients whose squares vanish in float32.
    grad = jnp.array([[[3e-30], [4e-30]]])
    np.testing.assert_allclose(L2(eps=2.0).ascent(grad).ravel(), [1.2, 1.6], rtol=1e-5)


def test_l2_samples_are_uniform_in_the_volume():
    # In 2 dimensions, away from the box, a quarter of the area lies within half the radius.
    ex = example(np.full((1, 2, 1), 0.5))
    thetas = jax.vmap(L2(eps=0.5).sample, (0, None))(jax.random.split(jax.random.key(0), 4000), ex)
    lengths = np.linalg.norm(np.asarray(thetas).reshape(4000, 2), axis=1)
    assert np.mean(lengths < 0.25) == pytest.approx(0.25, abs=0.03)
    assert lengths.max() <= 0.5 + 1e-6


def test_linf_samples_fill_the_ball():
    ex = example(np.full((1, 2, 1), 0.5))
    thetas = jax.vmap(LInf(eps=0.2).sample, (0, None))(jax.random.split(jax.random.key(0), 4000), ex)
    assert float(jnp.abs(thetas).max()) <= 0.2
    np.testing.assert_allclose(np.quantile(thetas, [0.25, 0.75]), [-0.1, 0.1], atol=0.01)


def test_distances_are_measured_after_clipping():
    ex = example([[[0.9], [0.5]]])
    theta = jnp.array([[[0.4], [0.0]]])
    assert float(LInf(eps=0.2).distance(ex, theta)) == pytest.approx(0.5, abs=1e-6)
    assert float(L2(eps=0.2).distance(ex, theta)) == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("ball", [LInf(eps=0.5), L2(eps=0.5)])
def test_pixels_at_the_border_of_the_box_keep_their_whole_gradient(ball):
    ex = example([[[0.0], [1.0], [0.5]]])
    gradient = jax.grad(lambda theta: ball.apply(ex, theta).sum())(ball.init(ex))
    np.testing.assert_array_equal(gradient.ravel(), [1.0, 1.0, 1.0])
    in_image = jax.grad(lambda image: ball.apply(ex._replace(image=image), ball.init(ex)).sum())(ex.image)
    np.testing.assert_array_equal(in_image.ravel(), [1.0, 1.0, 1.0])


@pytest.mark.parametrize("ball", [LInf, L2])
@pytest.mark.parametrize("eps", [-0.1, float("inf"), "large"])
def test_radii_are_checked(ball, eps):
    with pytest.raises(ValueError, match=f"eps.*{eps}"):
        ball(eps=eps)
