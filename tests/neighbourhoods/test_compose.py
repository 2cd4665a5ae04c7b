"""Joint composites: order, budgets, distances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.neighbourhoods import L2, Compose, LInf, Pose, RotationTranslation
from jaxrobust.types import Example

PIXELS, MOVES = LInf(eps=0.2), RotationTranslation(max_angle=30.0, max_shift=2.0)
EX = Example(jax.random.uniform(jax.random.key(0), (6, 6, 1)), jnp.array(0))


def test_parts_apply_in_order():
    noise = jnp.full((6, 6, 1), 0.1)
    shift = Pose(angle=jnp.array(0.0), shift=jnp.array([1.0, 0.0]))
    first_noise = jax.jit(Compose(parts=(PIXELS, MOVES)).apply)(EX, (noise, shift))
    first_move = jax.jit(Compose(parts=(MOVES, PIXELS)).apply)(EX, (shift, noise))
    np.testing.assert_array_equal(first_noise[0], 0.0)
    np.testing.assert_allclose(first_move[0], 0.1, atol=1e-6)
    np.testing.assert_allclose(first_noise[1:], first_move[1:], atol=1e-6)


def test_the_joint_distance_is_the_largest_of_the_parts():
    distance = jax.jit(Compose(parts=(PIXELS, MOVES)).distance)
    at = (
        0.05 * jnp.ones((6, 6, 1)) * (EX.image < 0.9),
        Pose(angle=jnp.array(15.0), shift=jnp.array([0.2, 0.4])),
    )
    assert float(distance(EX, at)) == pytest.approx(0.5, abs=1e-6)
    at = (at[0], Pose(angle=jnp.array(3.0), shift=jnp.array([0.0, 0.0])))
    assert float(distance(EX, at)) == pytest.approx(0.25, abs=1e-6)


def test_a_later_part_is_projected_on_the_image_its_predecessors_made():
    joint = Compose(parts=(MOVES, PIXELS))
    shift = Pose(angle=jnp.array(0.0), shift=jnp.array([2.0, 0.0]))
    bright = Example(jnp.ones((6, 6, 1)), jnp.array(0))
    _, noise = jax.jit(joint.project)(bright, (shift, jnp.full((6, 6, 1), 0.5)))
    np.testing.assert_allclose(noise[:2], 0.2)  # the emptied rows may brighten, the others are at 1 already
    np.testing.assert_allclose(noise[2:], 0.0)


def test_samples_of_equal_parts_differ():
    first, second = jax.jit(Compose(parts=(L2(eps=0.5), L2(eps=0.5))).sample)(jax.random.key(3), EX)
    assert float(jnp.abs(first - second).max()) > 0.01


def test_each_part_keeps_its_own_budget_when_scaled():
    joint = Compose(parts=(PIXELS, MOVES)).scaled(0.5)
    assert joint.parts == (LInf(eps=0.1), RotationTranslation(max_angle=15.0, max_shift=1.0))


@pytest.mark.parametrize("parts", [(), [PIXELS], (LInf,), ("linf",)])
def test_parts_are_checked(parts):
    with pytest.raises(ValueError, match="neighbourhood"):
        Compose(parts=parts)
