"""Closed forms of the regularisers in the plane, and finite gradients where source and adversary coincide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.numerics.similarity import unit
from jaxrobust.objectives import MTER, REGULARISERS, Push, TripletCos


def at(degrees):
    """The unit vector `[1, 2]` of an angle."""
    return jnp.array([[np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))]], jnp.float32)


def chord(degrees):
    return 2 * np.sin(np.deg2rad(degrees) / 2)


def cos(degrees):
    return np.cos(np.deg2rad(degrees))


@pytest.mark.parametrize(
    ("fn", "a", "t", "expected"),
    [
        (TripletCos(), 0, 90, 0.0),
        (TripletCos(), 60, 90, 0.3 + cos(30) - cos(60) + 1 - cos(60)),
        # The hinge is shut, the pull to the source is not.
        (TripletCos(), 20, 120, 1 - cos(20)),
        (MTER(), 0, 90, 0.0),
        (MTER(), 60, 90, chord(60) - chord(30) + 0.2),
        (MTER(margin=0.0), 90, 90, chord(90)),
        (Push(), 60, 90, cos(30) - cos(90) - 0.3),
        (Push(margin=0.0), 0, 90, 0.0),
        (Push(margin=0.0), -60, 90, 0.0),
    ],
)
def test_closed_forms(fn, a, t, expected):
    np.testing.assert_allclose(fn(at(0), at(a), at(t)), [expected], atol=1e-6)


@pytest.mark.parametrize("name", sorted(REGULARISERS))
@pytest.mark.parametrize(("a", "t"), [(0, 90), (0, 0), (90, 90), (1e-6, 90)])
def test_gradients_are_finite_where_embeddings_coincide(name, a, t):
    fn = REGULARISERS[name](margin=2.0)

    def total(features):
        return jnp.sum(fn(*(unit(part) for part in features)))

    grads = jax.grad(total)([3 * at(0), 2 * at(a), at(t)])
    assert all(np.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("name", sorted(REGULARISERS))
def test_a_margin_out_of_range_is_refused(name):
    with pytest.raises(ValueError, match=r"Expected 0.0 <= margin <= 2.0, got margin=-0.1"):
        REGULARISERS[name](margin=-0.1)
