"""Greedy composites: order, original target, budgets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD, GridSearch, RandomSearch, Sequence, fgsm
from jaxrobust.neighbourhoods import L2, LInf, RotationTranslation
from jaxrobust.types import Example

SHIFTS = RotationTranslation(max_angle=0.0, max_shift=1.0)
KEYS = jax.random.split(jax.random.key(0), 1)


def test_the_order_of_stages_matters():
    """The model watches the middle pixel, the bright one; noise darkens it, a shift moves it away."""
    watched = jnp.zeros((1, 3, 1)).at[0, 1, 0].set(1.0)

    def score(images, ex):
        total = (images * watched).sum(axis=(1, 2, 3))
        return jnp.stack([total - 0.3, jnp.zeros_like(total)], axis=-1)

    ex = Example(jnp.array([0.45, 0.8, 0.45]).reshape(1, 1, 3, 1), jnp.array([0]))
    noise, shift = fgsm(LInf(eps=0.2)), GridSearch(neighbourhood=SHIFTS, granularity=(1, 3, 1))
    noise_last = Sequence(stages=(shift, noise))(KEYS, score, ex)
    shift_last = Sequence(stages=(noise, shift))(KEYS, score, ex)
    # Moved by one, the watched pixel has 0.45, and noise takes 0.2 more; noise first only darkens the middle.
    assert bool(noise_last.found[0])
    assert not bool(shift_last.found[0])
    np.testing.assert_allclose((noise_last.image * watched).sum(), 0.25, atol=1e-6)
    np.testing.assert_allclose((shift_last.image * watched).sum(), 0.45, atol=1e-6)


def test_later_stages_keep_the_original_target_when_the_first_has_fooled_the_model():
    def score(images, ex):
        total = images.sum(axis=(1, 2, 3))
        return jnp.stack([3.0 - total, jnp.zeros_like(total)], axis=-1)

    ex = Example(jnp.full((1, 2, 2, 1), 0.7), jnp.array([0]))
    up = fgsm(LInf(eps=0.1))
    result = Sequence(stages=(up, up))(KEYS, score, ex)
    # Fooled after the first stage (total 3.2); a second stage against C(x') would come back down.
    np.testing.assert_allclose(result.image, 0.9, atol=1e-6)
    assert bool(result.found[0])


def test_every_stage_has_its_own_budget_and_the_distance_is_the_largest():
    def score(images, ex):
        total = images.sum(axis=(1, 2, 3))
        return jnp.stack([-total, total], axis=-1)

    ex = Example(jnp.full((1, 2, 2, 1), 0.5), jnp.array([0]))
    whole, half = (
        fgsm(LInf(eps=0.1)),
        PGD(neighbourhood=L2(eps=0.2), steps=1, step_size=0.5, start_fn=lambda k, n, e: n.init(e)),
    )
    result = Sequence(stages=(half, whole))(KEYS, score, ex)
    np.testing.assert_allclose(result.image, 0.5 + 0.05 + 0.1, atol=1e-6)
    assert float(result.distance[0]) == pytest.approx(1.0, abs=1e-5)
    assert len(result.theta) == 2
    alone = Sequence(stages=(half,))(KEYS, score, ex)
    assert float(alone.distance[0]) == pytest.approx(0.5, abs=1e-5)


def test_stages_of_one_kind_draw_apart():
    noise = PGD(neighbourhood=LInf(eps=0.1), steps=1, step_size=1e-6)
    flat = lambda images, ex: jnp.zeros((images.shape[0], 2))  # noqa: E731
    result = Sequence(stages=(noise, noise))(KEYS, flat, Example(jnp.full((1, 3, 3, 1), 0.5), jnp.array([0])))
    assert float(jnp.abs(result.theta[0] - result.theta[1]).max()) > 1e-3


@pytest.mark.parametrize("stages", [(), (LInf(eps=0.1),), (PGD,), fgsm(LInf(eps=0.1))])
def test_stages_are_checked(stages):
    with pytest.raises(ValueError, match="stage"):
        Sequence(stages=stages)


@pytest.mark.parametrize("nested", [False, True])
def test_a_later_stage_does_not_undo_what_an_earlier_one_found(nested):
    """Rows 0 and 1 are fooled by the first stage; any motion of row 0 makes the model right again."""

    def score(images, ex):
        corner = images[:, 0, 0, 0]
        return jnp.stack([jnp.full_like(corner, 0.35), corner], axis=-1)

    image = jnp.full((3, 3, 3, 1), 0.2).at[0].set(0.0).at[0, 0, 0, 0].set(0.3).at[1].set(0.3)
    ex, keys = Example(image, jnp.zeros(3, jnp.int32)), jax.random.split(jax.random.key(0), 3)
    noise = fgsm(LInf(eps=0.1))
    shift = RandomSearch(neighbourhood=RotationTranslation(max_angle=0.0, max_shift=0.9), num=1)
    last = Sequence(stages=(shift,)) if nested else shift
    # From scratch, the motion takes the bright corner away from row 0.
    alone = noise(keys, score, ex)
    assert not bool(shift(keys, score, ex._replace(image=alone.image)).found[0])
    result = Sequence(stages=(noise, last))(keys, score, ex)
    np.testing.assert_array_equal(alone.found, [True, True, False])
    assert bool(result.found[0]) and bool(result.found[1])
    np.testing.assert_array_equal(result.image[0], alone.image[0])
    pose = result.theta[1][0] if nested else result.theta[1]
    np.testing.assert_array_equal(pose.shift[0], 0.0)
    # A row that nothing has fooled goes on from what the stage tried.
    assert np.abs(pose.shift[2]).max() > 0
    assert float(jnp.argmax(score(result.image[:1], None))) == 1.0
