"""The l1 and l0 balls: samples, steepest directions, derivatives at the border of the box, counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import MIFGSM, PGD
from jaxrobust.neighbourhoods import L0, L1
from jaxrobust.types import Example

HALF = Example(jnp.full((1, 2, 1), 0.5), jnp.array(0))


def row(*values):
    return jnp.array(values, jnp.float32).reshape(1, -1, 1)


def test_l1_samples_are_uniform_in_the_volume():
    thetas = jax.vmap(L1(eps=0.5).sample, (0, None))(jax.random.split(jax.random.key(0), 4000), HALF)
    lengths = np.abs(np.asarray(thetas).reshape(4000, 2)).sum(axis=1)
    # In the plane a quarter of the area lies within half the radius.
    assert np.mean(lengths < 0.25) == pytest.approx(0.25, abs=0.03)
    # Within one quadrant as many points lie on either side of its diagonal.
    first = np.abs(np.asarray(thetas)[:, 0, 0, 0]) > np.abs(np.asarray(thetas)[:, 0, 1, 0])
    assert first.mean() == pytest.approx(0.5, abs=0.03)
    assert lengths.max() <= 0.5 + 1e-6


def test_l0_samples_change_as_many_pixels_as_they_may_to_uniform_values():
    ex = Example(jax.random.uniform(jax.random.key(1), (5, 5, 2)), jnp.array(0))
    thetas = jax.vmap(L0(eps=5).sample, (0, None))(jax.random.split(jax.random.key(0), 2000), ex)
    changed = np.asarray((thetas != 0).any(axis=-1))
    np.testing.assert_array_equal(changed.sum(axis=(1, 2)), 5)
    np.testing.assert_allclose(changed.mean(axis=0), 0.2, atol=0.05)
    values = np.asarray(ex.image + thetas)[changed]
    np.testing.assert_allclose(np.quantile(values, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.02)


def test_l1_ascent_spreads_over_the_share_of_largest_gradients():
    grad = row(*np.delete(np.arange(-50, 51), 50))
    step = np.ravel(L1(eps=2.0, sparsity=0.9).ascent(grad))
    # A tenth of 100: the five largest of either sign.
    np.testing.assert_allclose(step, np.where(np.abs(grad.ravel()) > 45, np.sign(grad.ravel()) / 5, 0))
    np.testing.assert_allclose(L1(eps=2.0, sparsity=0.9999).ascent(row(1, -3, 2)).ravel(), [0, -2, 0])
    np.testing.assert_allclose(
        L1(eps=2.0, sparsity=0.9).ascent(row(0, 3, -3, 3, 1)).ravel() * 3, [0, 2, -2, 2, 0]
    )
    np.testing.assert_allclose(L1(eps=1.0, sparsity=0.0).ascent(row(1e-30, -1e30, 0)).ravel(), [0.5, -0.5, 0])
    # The share is of all values, also of those whose gradient is zero; they do not move for it.
    np.testing.assert_allclose(
        L1(eps=2.0, sparsity=0.75).ascent(row(*[0] * 4, 1, -3, 2, 1)).ravel(), [0] * 5 + [-1, 1, 0]
    )
    np.testing.assert_allclose(L1(eps=2.0, sparsity=0.25).ascent(row(0, 0, 0, 4)).ravel(), [0, 0, 0, 2])


def test_l0_ascent_moves_the_pixels_of_largest_gradient_fully():
    grad = jnp.array([[[1.0, -1.0], [1.5, 0.0], [0.0, 0.0], [-3.0, 1e-30]]])
    np.testing.assert_array_equal(L0(eps=2).ascent(grad), [[[1, -1], [0, 0], [0, 0], [-1, 1]]])
    np.testing.assert_array_equal(L0(eps=2, features=True).ascent(grad), [[[0, 0], [1, 0], [0, 0], [-1, 0]]])
    np.testing.assert_array_equal(L0(eps=9).ascent(grad), np.sign(grad))


@pytest.mark.parametrize("ball", [L1(eps=5.0), L0(eps=3)])
def test_what_cannot_move_has_no_gradient(ball):
    ex = Example(row(0.0, 0.0, 1.0, 1.0, 0.5), jnp.array(0))
    cotangent = row(-1.0, 1.0, 1.0, -1.0, -1.0)
    _, pullback = jax.vjp(
        lambda theta, image: ball.apply(ex._replace(image=image), theta), ball.init(ex), ex.image
    )
    in_theta, in_image = pullback(cotangent)
    np.testing.assert_array_equal(in_theta.ravel(), [0, 1, 0, -1, -1])
    np.testing.assert_array_equal(in_image, cotangent)


@pytest.mark.parametrize("factor", [0.1, 0.29, 0.5, 0.7, 1.0, 2.0])
def test_l0_radii_are_whole_numbers_also_when_traced(factor):
    ball = L0(eps=100).scaled(factor)
    assert ball.eps == round(100 * factor)
    assert isinstance(ball.eps, int)
    ex = Example(jnp.full((12, 12, 1), 0.5), jnp.array(0))
    sample = jax.jit(lambda f: L0(eps=100).scaled(f).sample(jax.random.key(0), ex))(factor)
    assert int((sample != 0).sum()) == min(round(100 * factor), 144)
    assert L0(eps=3).scaled(0.5).eps == 1


def test_distances_count_pixels_or_features_after_clipping():
    ex = Example(jnp.array([[[1.0, 0.5], [0.5, 0.5]]]), jnp.array(0))
    theta = jnp.array([[[0.3, 0.0], [0.2, 0.1]]])
    assert float(L0(eps=4).distance(ex, theta)) == 0.25
    assert float(L0(eps=4, features=True).distance(ex, theta)) == 0.5
    assert float(L1(eps=1.0).distance(ex, theta)) == pytest.approx(0.3)


def linear(images, example):
    """Class 0 until the weighted sum exceeds 3.4."""
    weights = jnp.arange(10.0).reshape(1, 10, 1) / 10
    score = (weights * images).sum(axis=(1, 2, 3))
    return jnp.stack([jnp.full_like(score, 3.4), score], axis=-1)


@pytest.mark.parametrize("attack", [PGD, MIFGSM])
@pytest.mark.parametrize(
    ("ball", "gain"),
    # From 0.5 everywhere (a score of 2.25) the best raise the last pixels to 1.
    [(L1(eps=1.25, sparsity=0.8), 0.5 * 0.9 + 0.5 * 0.8 + 0.25 * 0.7), (L0(eps=3), 0.5 * (0.9 + 0.8 + 0.7))],
)
def test_ascents_reach_the_best_point_for_a_linear_model(attack, ball, gain):
    example = Example(jnp.full((1, 1, 10, 1), 0.5), jnp.array([0]))
    run = attack(neighbourhood=ball, steps=40, step_size=0.2 if ball.norm else 1.0)
    result = jax.jit(lambda: run(jax.random.split(jax.random.key(0), 1), linear, example))()
    reached = float(linear(result.image, example)[0, 1]) - 2.25
    assert reached == pytest.approx(gain, rel=0.02)
    # Raising three pixels is enough, and so much length is not.
    assert bool(result.found[0]) is (ball.norm == 0)
    assert float(result.distance[0]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: L1(eps=-1.0), "eps >= 0"),
        (lambda: L1(eps=1.0, sparsity=1.0), "sparsity < 1"),
        (lambda: L0(eps=1.5), "integer eps"),
        (lambda: L0(eps=-1), "eps >= 0"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
