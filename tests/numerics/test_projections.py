"""Projections and directions against closed forms and scipy's optimiser; gradients at 0."""

import itertools

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


def l1_box_by_sorting(delta, eps, low, high):
    """Croce & Hein's proposition 2.1 in float64: the length at every kink, then linear interpolation."""
    size, bound = np.abs(delta), np.where(delta > 0, high, -low)

    def length(threshold):
        return np.clip(size - threshold, 0, bound).sum()

    if length(0.0) <= eps:
        return np.clip(delta, low, high)
    kinks = np.unique(np.concatenate([[0.0], size, np.maximum(size - bound, 0)]))
    lengths = np.array([length(kink) for kink in kinks])
    threshold = np.interp(-eps, -lengths, kinks)
    return np.sign(delta) * np.clip(size - threshold, 0, bound)


@pytest.mark.parametrize("eps", [0.05, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_l1_projection_onto_ball_and_box_is_that_of_sorting(eps, scale, seed):
    rng = np.random.default_rng(seed)
    # Half the pixels at the border of the box, as in MNIST, and in one case many equal offsets.
    x = np.where(rng.random(300) < 0.5, rng.integers(0, 2, 300), rng.random(300)).astype(np.float32)
    delta = (scale * rng.standard_normal(300)).astype(np.float32)
    delta = np.round(delta / scale) * np.float32(scale) if seed else delta
    low, high = -x, 1 - x
    found = np.asarray(jax.jit(projections.project_l1_box)(delta, eps, low, high), np.float64)
    np.testing.assert_allclose(found, l1_box_by_sorting(delta, eps, low, high), atol=3e-6 * max(scale, 1))
    assert np.abs(found).sum() <= eps * (1 + 1e-6)
    assert ((found >= low) & (found <= high)).all()


def test_l1_projection_is_that_of_duchi_et_al():
    rng = np.random.default_rng(0)
    delta = rng.standard_normal(50).astype(np.float32)
    descending = np.sort(np.abs(delta))[::-1]
    ranks = np.arange(1, 51)
    theta = (np.cumsum(descending) - 2.0) / ranks
    theta = theta[descending > theta][-1]
    expected = np.sign(delta) * np.maximum(np.abs(delta) - theta, 0)
    np.testing.assert_allclose(projections.project_l1(delta, 2.0), expected, atol=1e-6)


def test_l1_projection_beats_every_feasible_point_of_a_cloud():
    rng = np.random.default_rng(5)
    delta, low, high = 2 * rng.standard_normal(4), -rng.random(4), rng.random(4)
    ours = np.asarray(projections.project_l1_box(jnp.asarray(delta, jnp.float32), 0.8, low, high))
    cloud = rng.uniform(low, high, (300_000, 4))
    cloud = cloud[np.abs(cloud).sum(axis=1) <= 0.8]
    assert len(cloud) > 1000
    assert np.linalg.norm(ours - delta) <= np.linalg.norm(cloud - delta, axis=1).min() + 1e-6


@pytest.mark.parametrize("eps", range(7))
def test_l0_projection_is_the_nearest_of_all_subsets(eps):
    rng = np.random.default_rng(eps)
    for _ in range(5):
        delta, low, high = 2 * rng.standard_normal(6), -rng.random(6), rng.random(6)
        candidates = []
        for kept in itertools.combinations(range(6), eps):
            point = np.zeros(6)
            point[list(kept)] = np.clip(delta, low, high)[list(kept)]
            candidates.append(point)
        expected = min(candidates, key=lambda point: np.linalg.norm(point - delta))
        found = projections.project_l0_box(jnp.asarray(delta, jnp.float32), eps, low, high)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_l0_projection_counts_the_channels_of_a_pixel_once():
    delta = jnp.array([[[3.0, 3.0], [4.0, 0.0]], [[0.5, 0.0], [0.0, 0.0]]])
    kept = projections.project_l0_box(delta, 1, -10.0, 10.0, axis=-1)
    np.testing.assert_array_equal(kept, delta * jnp.array([[[1], [0]], [[0], [0]]]))


def test_keep_largest_keeps_that_many_the_first_of_equals():
    rng = np.random.default_rng(0)
    for values in (rng.random(40), rng.integers(0, 4, 40), np.zeros(40), 1e-42 * rng.random(40)):
        values = np.asarray(values, np.float32)
        # Denormals are 0 on some devices, so they tie.
        ranked = np.argsort(-np.where(values < 1e-37, 0, values), kind="stable")
        for num in (0, 1, 7, 40, 99):
            expected = np.isin(np.arange(40), ranked[:num])
            found = np.asarray(jax.jit(projections.keep_largest)(values, num))
            assert found.sum() == min(num, 40)
            if values.max() == 0 or values.max() > 1e-37:
                np.testing.assert_array_equal(found, expected)


def test_kth_largest_is_that_of_sorting():
    values = np.concatenate([np.random.default_rng(1).exponential(size=30), [0, 0, 1e-20, 1e30]])
    values = values.astype(np.float32)
    for k in (1, 2, 17, 34):
        assert float(projections.kth_largest(values, k)) == np.sort(values)[-k]
    assert float(projections.kth_largest(values, 0)) == np.inf
    assert float(projections.kth_largest(values, 35)) == 0


@pytest.mark.parametrize(
    "project",
    [
        projections.project_l1,
        lambda d, eps: projections.project_l1_box(d, eps, -0.5, 0.5),
        lambda d, eps: projections.project_l2_box(d, eps, -0.5, 0.5),
        lambda d, eps: projections.project_l0_box(d, eps, -0.5, 0.5),
    ],
)
def test_sparse_and_boxed_projections_are_idempotent_zero_at_zero_and_traced(project):
    radii = jnp.array([0.0, 1.0, 2.0, 3.0])
    points = jax.jit(jax.vmap(project, (None, 0)))(DELTA, radii)
    np.testing.assert_allclose(jax.vmap(project)(points, radii), points, atol=1e-6)
    np.testing.assert_array_equal(points[0], 0)
    zero = jnp.zeros((2, 2))
    np.testing.assert_array_equal(project(zero, 2.0), 0)
    for eps in (0.0, 1.0):
        assert np.isfinite(jax.jacrev(lambda d, eps=eps: project(d, eps))(zero)).all()
        assert np.isfinite(jax.jacrev(lambda d, eps=eps: project(d, eps))(DELTA)).all()
