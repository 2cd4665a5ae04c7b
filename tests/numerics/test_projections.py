"""Projections and directions against closed forms and scipy's optimiser; gradients at 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxrobust.numerics import projections

DELTA = jnp.array([[3.0, -4.0], [0.0, 12.0]])  # of l2 norm 13
PROJECTIONS = {
    "linf": (projections.project_linf, projections.linf_norm, projections.linf_direction),
    "l2": (projections.project_l2, projections.l2_norm, projections.l2_direction),
}
every_geometry = pytest.mark.parametrize(
    ("project", "norm", "direction"), PROJECTIONS.values(), ids=PROJECTIONS.keys()
)


def test_closed_forms():
    np.testing.assert_array_equal(projections.project_linf(DELTA, 3.5), [[3, -3.5], [0, 3.5]])
    np.testing.assert_allclose(projections.project_l2(DELTA, 6.5), DELTA / 2, rtol=1e-6)
    np.testing.assert_array_equal(projections.linf_direction(DELTA), [[1, -1], [0, 1]])
    np.testing.assert_allclose(projections.l2_direction(DELTA), DELTA / 13, rtol=1e-6)
    assert float(projections.l2_norm(DELTA)) == 13
    assert float(projections.linf_norm(DELTA)) == 12


def test_l2_projection_is_the_nearest_point():
    target = np.array([1.0, -2.0, 0.5])
    ball = {"type": "ineq", "fun": lambda d: 1 - d @ d}
    nearest = optimize.minimize(lambda d: ((d - target) ** 2).sum(), np.zeros(3), constraints=ball).x
    np.testing.assert_allclose(projections.project_l2(jnp.asarray(target), 1.0), nearest, atol=1e-4)


@every_geometry
@pytest.mark.parametrize("eps", [0.0, 0.3, 5.0, 100.0])
def test_inside_idempotent_and_identity_inside(project, norm, direction, eps):
    once = project(DELTA, eps)
    assert float(norm(once)) <= eps * (1 + 1e-6)
    np.testing.assert_allclose(project(once, eps), once, rtol=1e-6)
    if eps == 100:
        np.testing.assert_array_equal(once, DELTA)


@every_geometry
def test_direction_has_unit_length_and_is_steepest(project, norm, direction):
    best = direction(DELTA)
    assert float(norm(best)) == pytest.approx(1)
    for other in jax.random.normal(jax.random.key(0), (20, 2, 2)):
        assert float((DELTA * other).sum() / norm(other)) <= float((DELTA * best).sum()) + 1e-5


@every_geometry
def test_zero_gives_zero_and_finite_gradients(project, norm, direction):
    zero = jnp.zeros((2, 2))
    for fn in (norm, direction, lambda d: project(d, 0.3), lambda d: project(d, 0.0)):
        np.testing.assert_array_equal(fn(zero), 0)
        assert np.isfinite(jax.jacrev(fn)(zero)).all()
    assert np.isfinite(jax.grad(lambda eps: project(DELTA, eps).sum())(0.0))


@every_geometry
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_tiny_and_huge_gradients_still_give_a_direction(project, norm, direction, size):
    np.testing.assert_allclose(direction(DELTA * size), direction(DELTA), rtol=1e-5)


def test_l2_norms_gradient_is_the_direction():
    np.testing.assert_allclose(
        jax.grad(projections.l2_norm)(DELTA), projections.l2_direction(DELTA), rtol=1e-6
    )


@every_geometry
def test_eps_may_be_traced_and_vmapped(project, norm, direction):
    radii = jnp.array([0.0, 1.0, 2.0])
    points = jax.jit(jax.vmap(project, (None, 0)))(DELTA, radii)
    np.testing.assert_allclose(jax.vmap(norm)(points), radii, rtol=1e-6)
