"""The shortest way to a hyperplane in a box: against SciPy's solvers, and where the box is in the way."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog, minimize

from jaxrobust.numerics.hyperplanes import to_hyperplane

NORMS = pytest.mark.parametrize("norm", [1, 2, math.inf])
SIZE, CASES = 12, 60
BATCHED = jax.jit(jax.vmap(to_hyperplane, (0, 0, 0, 0, None)), static_argnums=4)


def cases(seed=0):
    """Weights some of which are 0, boxes some of which have no room, gaps of both signs, near and far."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(CASES, SIZE)) * (rng.random((CASES, SIZE)) > 0.2)
    image = np.round(rng.random((CASES, SIZE)), 1)
    reach = np.where(weight > 0, (1 - image) * weight, -image * weight)
    lowest = np.where(weight > 0, -image * weight, (1 - image) * weight)
    part = rng.uniform(0.02, 1.3, CASES)
    gap = np.where(rng.random(CASES) < 0.5, -part * reach.sum(1), -part * lowest.sum(1))
    return tuple(a.astype(np.float32) for a in (weight, gap, -image, 1 - image))


def by_linprog(weight, gap, low, high, norm):
    """The least norm for p = 1 (d = a - b) or p = inf (|d_i| <= t); None where the plane is out of reach."""
    size = len(weight)
    if norm == 1:
        bounds = [(0, u) for u in high] + [(0, -v) for v in low]
        result = linprog(np.ones(2 * size), A_eq=[[*weight, *-weight]], b_eq=[-gap], bounds=bounds)
    else:
        eye, ones = np.eye(size), np.ones((size, 1))
        result = linprog(
            [*np.zeros(size), 1],
            A_ub=np.block([[eye, -ones], [-eye, -ones]]),
            b_ub=np.zeros(2 * size),
            A_eq=[[*weight, 0]],
            b_eq=[-gap],
            bounds=[*zip(low, high), (0, None)],
        )
    return result.fun if result.status == 0 else None


def by_slsqp(weight, gap, low, high):
    """The optimal value of the quadratic programme, from the linear programme's point."""
    feasible = linprog(np.zeros(len(weight)), A_eq=[weight], b_eq=[-gap], bounds=[*zip(low, high)])
    if feasible.status != 0:
        return None
    plane = {"type": "eq", "fun": lambda d: weight @ d + gap, "jac": lambda d: weight}
    result = minimize(
        lambda d: d @ d, feasible.x, jac=lambda d: 2 * d, bounds=[*zip(low, high)], constraints=[plane],
        method="SLSQP", options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    return np.sqrt(result.fun)


@NORMS
def test_random_cases_are_as_scipy_solves_them(norm):
    weights, gaps, lows, highs = cases()
    offsets = np.asarray(BATCHED(weights, gaps, lows, highs, norm))
    reached = 0
    for weight, gap, low, high, offset in zip(
        weights.astype(float), gaps.astype(float), lows, highs, offsets
    ):
        assert (offset >= low).all() and (offset <= high).all()
        best = by_slsqp(weight, gap, low, high) if norm == 2 else by_linprog(weight, gap, low, high, norm)
        if best is None:
            # As near to the plane as the box lets it: every coordinate at its bound.
            side = -np.sign(gap * weight)
            expected = np.where(side > 0, high, np.where(side < 0, low, 0.0))
            np.testing.assert_allclose(offset, expected, atol=1e-6)
            continue
        reached += 1
        assert weight @ offset + gap == pytest.approx(0, abs=2e-5 * max(1, abs(gap)))
        assert np.linalg.norm(offset, norm) == pytest.approx(best, rel=2e-4)
    assert CASES / 2 < reached < CASES


def test_without_a_box_in_the_way_they_are_the_closed_forms():
    weight, gap = jnp.array([1.0, -2.0, 0.5]), jnp.array(-0.7)
    box = jnp.full(3, -9.0), jnp.full(3, 9.0)
    np.testing.assert_allclose(to_hyperplane(weight, gap, *box, 2), 0.7 * weight / 5.25, rtol=1e-6)
    np.testing.assert_allclose(to_hyperplane(weight, gap, *box, math.inf), 0.2 * jnp.sign(weight), rtol=1e-6)
    np.testing.assert_allclose(to_hyperplane(weight, gap, *box, 1), [0.0, -0.35, 0.0], rtol=1e-6)
    # From the other side it is the same way back.
    np.testing.assert_allclose(to_hyperplane(weight, -gap, *box, 2), -0.7 * weight / 5.25, rtol=1e-6)


@NORMS
def test_scale_does_not_matter_down_to_the_smallest_gradients(norm):
    weights, gaps, lows, highs = cases(1)
    plain = BATCHED(weights, gaps, lows, highs, norm)
    np.testing.assert_allclose(BATCHED(weights * 1e-30, gaps * 1e-30, lows, highs, norm), plain, atol=1e-5)
    np.testing.assert_allclose(BATCHED(weights * 1e20, gaps * 1e20, lows, highs, norm), plain, atol=1e-5)


@NORMS
def test_no_gradient_no_gap_and_nan_move_nothing(norm):
    low, high = jnp.full(3, -0.5), jnp.full(3, 0.5)
    weight = jnp.array([1.0, 2.0, 3.0])
    for w, g in [
        (0 * weight, 1.0),
        (weight, 0.0),
        (jnp.nan * weight, 1.0),
        (weight, jnp.nan),
        (0 * weight, jnp.inf),
    ]:
        np.testing.assert_array_equal(to_hyperplane(w, jnp.array(g), low, high, norm), 0.0)
    # One entry that is not a number moves nothing itself, and does not stop the others.
    mixed = to_hyperplane(weight.at[0].set(jnp.nan), jnp.array(-1.0), low, high, norm)
    assert mixed[0] == 0
    assert float(mixed[1:] @ weight[1:]) == pytest.approx(1.0, rel=1e-6)


@NORMS
def test_breakpoints_over_many_orders_of_magnitude(norm):
    """Newton's method passes them one by one; it must still end, and exactly."""
    room = 2.0 ** -jnp.arange(20.0)
    weight = 2.0 ** jnp.arange(20.0)
    total = float(weight @ room)
    for part in (0.03, 0.5, 0.97):
        offset = to_hyperplane(weight, jnp.array(-part * total), -room, room, norm)
        assert float(weight @ offset) == pytest.approx(part * total, rel=1e-5)
        assert (offset <= room).all()


def test_another_norm_is_refused():
    with pytest.raises(ValueError, match="1, 2 or inf, got norm=3"):
        to_hyperplane(jnp.ones(2), jnp.array(1.0), -jnp.ones(2), jnp.ones(2), 3)
