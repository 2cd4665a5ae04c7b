"""Greedy composites: order, original target, budgets."""

import itertools
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD, Ensemble, GridSearch, RandomSearch, Sequence, fgsm, identity_start
from jaxrobust.neighbourhoods import L2, ColourShift, LInf, RotationTranslation
from jaxrobust.types import AttackResult, Example

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


def only_t1_is_fooled(images):
    """Above 0 the model is fooled. The bright pixel in the middle can go left, where noise no longer helps,
    or right, where clean it is less harmful; watched in the middle, it is brightened first."""
    left, middle, right = images[:, 0, 0, 0], images[:, 0, 1, 0], images[:, 0, 2, 0]
    return jnp.maximum(jnp.minimum(left, 0.7) - 0.75, jnp.maximum(right - 0.95, middle - 1.3))


def only_t2_is_fooled(images):
    """A dark middle fools; as long as they are at the sides, noise brightens those that could come there."""
    left, middle, right = images[:, 0, 0, 0], images[:, 0, 1, 0], images[:, 0, 2, 0]
    return 0.3 - middle + 0.01 * (left + right)


@pytest.mark.parametrize(
    ("margin_fn", "row", "fooled"),
    [
        (only_t1_is_fooled, [0.0, 0.8, 0.0], (True, False)),
        (only_t2_is_fooled, [0.45, 0.8, 0.45], (False, True)),
    ],
    ids=["T1", "T2"],
)
def test_an_image_that_one_order_fools_and_the_other_cannot(margin_fn, row, fooled):
    """T1 is pixels then geometry, T2 geometry then pixels, at the same radii.

    Of the order that fails, what is maximised first is unique, and no second perturbation whatever fools:
    the margins are monotone in every pixel, so the last one is tried at the corners of its ball.
    """

    def score(images, ex):
        margin = margin_fn(images)
        return jnp.stack([jnp.zeros_like(margin), margin], axis=-1)

    eps, image = 0.2, jnp.array(row).reshape(1, 1, 3, 1)
    ex = Example(image, jnp.array([0]))
    noise = PGD(neighbourhood=LInf(eps=eps), steps=5, step_size=0.5, start_fn=identity_start)
    shift = GridSearch(neighbourhood=SHIFTS, granularity=(1, 3, 1))
    found = tuple(
        bool(Sequence(stages=stages)(KEYS, score, ex).found[0]) for stages in ((noise, shift), (shift, noise))
    )
    assert found == fooled
    failing = (shift, noise) if fooled[0] else (noise, shift)
    frozen = failing[0](KEYS, score, ex).image
    if failing[1] is shift:
        poses = SHIFTS.grid((1, 41, 1))
        last = jax.vmap(lambda pose: SHIFTS.apply(Example(frozen[0], jnp.array(0)), pose))(poses)
    else:
        corners = jnp.array(list(itertools.product((-eps, eps), repeat=3))).reshape(8, 1, 3, 1)
        last = jnp.clip(frozen + corners, 0, 1)
    assert float(margin_fn(last).max()) < 0


@pytest.mark.slow
def test_three_stages_with_colours_in_every_order_keep_each_its_budget():
    kernel = jax.random.normal(jax.random.key(5), (48, 3))
    images = jax.random.uniform(jax.random.key(6), (3, 4, 4, 3))
    ex, keys = Example(images, jnp.array([0, 1, 2])), jax.random.split(jax.random.key(7), 3)
    stages = (
        fgsm(LInf(eps=0.05)),
        GridSearch(neighbourhood=SHIFTS, granularity=(1, 3, 1)),
        fgsm(ColourShift(hue=60.0, saturation=0.5, brightness=0.1, grey=0.5)),
    )
    orders = list(itertools.permutations(stages))

    @jax.jit
    def all_orders(ex):
        return [Sequence(stages=o)(keys, lambda x, e: x.reshape(-1, 48) @ kernel, ex) for o in orders]

    results = all_orders(ex)
    for order, result in zip(orders, results):
        image, distances = images, []
        for stage, theta in zip(order, result.theta, strict=True):
            seen = ex._replace(image=image)
            distances.append(jax.vmap(stage.neighbourhood.distance)(seen, theta))
            image = jax.vmap(stage.neighbourhood.apply)(seen, theta)
        np.testing.assert_allclose(image, result.image, atol=1e-6)
        np.testing.assert_allclose(np.max(distances, axis=0), result.distance, atol=1e-5)
        assert float(result.distance.max()) <= 1 + 1e-5
    for one, other in itertools.combinations(results, 2):
        assert float(jnp.abs(one.image - other.image).max()) > 1e-4


@dataclass(frozen=True)
class ToTheBoundary:
    """The nearest image whose sum reaches 2.5: a minimum-norm attack in closed form."""

    minimum_norm: ClassVar[bool] = True
    neighbourhood: L2

    def __call__(self, keys, score_fn, example):
        total = example.image.sum(axis=(1, 2, 3), keepdims=True)
        theta = jnp.broadcast_to(jnp.maximum(2.501 - total, 0.0) / 4, example.image.shape)
        image = example.image + theta
        distance = jax.vmap(self.neighbourhood.distance)(example, theta)
        return AttackResult(image, theta, jnp.ones(len(image), bool), distance)

    def scaled(self, factor):
        return ToTheBoundary(self.neighbourhood.scaled(factor))


def test_a_minimum_norm_stage_counts_within_its_radius_only():
    def score(images, ex):
        total = images.sum(axis=(1, 2, 3))
        return jnp.stack([jnp.zeros_like(total), total - 2.5], axis=-1)

    # Sums of 1.2, 1.6 and 2.4 are 0.65, 0.45 and 0.05 away from 2.5, and 0.55, 0.35 and 0 once brightened.
    image = jnp.array([0.3, 0.4, 0.6])[:, None, None, None] * jnp.ones((3, 2, 2, 1))
    ex, keys = Example(image, jnp.zeros(3, jnp.int32)), jax.random.split(jax.random.key(0), 3)
    nearest, brighter = ToTheBoundary(L2(eps=0.4)), fgsm(ColourShift(brightness=0.05))
    alone = Sequence(stages=(nearest,))(keys, score, ex)
    np.testing.assert_array_equal(alone.found, [False, False, True])
    np.testing.assert_array_equal(alone.image[:2], image[:2])
    np.testing.assert_array_equal(alone.theta[0][:2], 0.0)
    both = Sequence(stages=(brighter, nearest))(keys, score, ex)
    np.testing.assert_array_equal(both.found, [False, True, True])
    assert float(both.distance.max()) <= 1 + 1e-5
    np.testing.assert_allclose(both.image[0], 0.35, atol=1e-6)
    np.testing.assert_allclose(both.theta[1][1], 0.701 / 4, atol=1e-5)


@pytest.mark.parametrize(
    "inner", [lambda a: a, lambda a: Sequence(stages=(a,)), lambda a: Ensemble(attacks=(a,))]
)
def test_stages_of_different_goals_are_refused(inner):
    towards, away = PGD(neighbourhood=LInf(eps=0.1), targeted=True), PGD(neighbourhood=LInf(eps=0.1))
    with pytest.raises(ValueError, match="all targeted or all untargeted"):
        Sequence(stages=(inner(towards), away))
    Sequence(stages=(inner(towards), towards))


def test_targeted_stages_lead_to_the_designated_class():
    def score(images, ex):
        total = images.sum(axis=(1, 2, 3))
        return jnp.stack([3.0 - total, jnp.zeros_like(total), total - 3.0], axis=-1)

    ex = Example(jnp.full((1, 2, 2, 1), 0.7), jnp.array([2]))
    up = fgsm(LInf(eps=0.03), targeted=True)
    result = Sequence(stages=(up, up))(KEYS, score, ex)
    np.testing.assert_allclose(result.image, 0.76, atol=1e-6)
    assert bool(result.found[0])


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
