"""The point-wise attack on models whose fewest changes are known, and its parts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PointWise, _resets
from jaxrobust.neighbourhoods import L0, LInf, Masked
from jaxrobust.types import Example

FEATURES, PIXELS = L0(eps=1, features=True), L0(eps=1)
KEYS = jax.random.split(jax.random.key(0), 8)
BLACK = jnp.zeros((2, 4, 4, 1))
ATTACK = PointWise(neighbourhood=FEATURES, starts=12, draws=16, shares=16)


def linear(params, images, ex):
    """Class 1 where weights @ x > threshold."""
    weights, threshold = params
    total = images.reshape(images.shape[0], -1) @ jnp.ravel(weights)
    return jnp.stack([0 * total, total - threshold], axis=-1)


def tanh_net(params, images, ex):
    first, second = params
    return jnp.tanh(images.reshape(images.shape[0], -1) @ first) @ second


PARAMS = jax.random.normal(jax.random.key(1), (36, 12)), jax.random.normal(jax.random.key(2), (12, 4))
IMAGES = jax.random.uniform(jax.random.key(3), (8, 6, 6, 1))
LABELS = tanh_net(PARAMS, IMAGES, None).argmax(-1)


@functools.cache
def compiled(attack, net_fn):
    def run(params, keys, example):
        return attack(keys, functools.partial(net_fn, params), example)

    return jax.jit(run)


def attacked(attack, params, images, target=None, mask=None, net_fn=linear, keys=KEYS):
    target = jnp.zeros(len(images), jnp.int32) if target is None else jnp.asarray(target)
    example = Example(jnp.asarray(images, jnp.float32), target, mask=mask)
    return compiled(attack, net_fn)(jax.tree.map(jnp.float32, params), keys[: len(images)], example)


@pytest.mark.parametrize("needed", [1, 2, 3, 6])
def test_it_reaches_the_fewest_changes_where_all_features_weigh_the_same(needed):
    result = attacked(ATTACK, (np.ones(16), needed - 0.5), BLACK)
    np.testing.assert_array_equal(result.found, True)
    np.testing.assert_array_equal(result.distance, needed)
    assert bool((linear((np.ones(16), needed - 0.5), result.image, None).argmax(-1) == 1).all())


def test_it_drops_all_that_is_needless():
    """Only one feature counts; noise changes others too, and all of them go."""
    result = attacked(ATTACK, (np.eye(16)[5], 0.5), BLACK)
    np.testing.assert_array_equal(result.found, True)
    np.testing.assert_array_equal(result.image.reshape(2, 16)[:, np.arange(16) != 5], 0.0)


@pytest.mark.parametrize("bisections", [0, 3, 10])
def test_bisection_shrinks_the_changes_and_keeps_their_number_and_the_fooling(bisections):
    """Three features of 1 make 3.0; the threshold is 2.3."""
    attack = PointWise(neighbourhood=FEATURES, starts=6, draws=16, shares=16, bisections=bisections)
    params = (np.ones(16), 2.3)
    result = attacked(attack, params, BLACK)
    np.testing.assert_array_equal(result.distance, 3)
    assert bool((linear(params, result.image, None).argmax(-1) == 1).all())
    total = np.asarray(result.image).sum(axis=(1, 2, 3))
    # The first change alone can give up 0.7, of which halving the interval misses 2^-bisections at most.
    assert (total <= 2.3 + 0.7 * (bisections == 0) + 2.0**-bisections * (bisections > 0)).all()
    assert (total > 2.3).all()


def test_more_starts_are_never_worse_and_start_as_fewer_do():
    """One of three heavy features is enough, or four of the others; noise on all leaves either, by chance."""
    weights = np.where(np.arange(36) < 3, 4.0, 1.0)
    few, many = (
        attacked(
            PointWise(neighbourhood=FEATURES, starts=starts, draws=1, shares=1, bisections=0),
            (weights, 3.5),
            jnp.zeros((8, 6, 6, 1)),
        )
        for starts in (1, 8)
    )
    assert bool((many.found | ~few.found).all())
    both = np.asarray(few.found & many.found)
    assert (np.asarray(many.distance)[both] <= np.asarray(few.distance)[both]).all()
    assert set(np.asarray(few.distance)[both]) == {1.0, 4.0}
    assert np.asarray(many.distance)[both].sum() < np.asarray(few.distance)[both].sum()


def test_at_the_end_no_single_change_can_be_undone():
    attack = PointWise(neighbourhood=FEATURES, starts=5, draws=16, shares=16)
    result = attacked(attack, PARAMS, IMAGES, LABELS, net_fn=tanh_net)
    assert bool(result.found.any())
    for i in np.flatnonzero(result.found):
        for at in np.argwhere(np.asarray(result.image[i] != IMAGES[i])):
            undone = result.image[i].at[tuple(at)].set(IMAGES[i][tuple(at)])
            assert int(tanh_net(PARAMS, undone[None], None).argmax()) == int(LABELS[i])


def test_a_row_without_a_start_fails_alone():
    """No image of the second row's class fools: its logits ignore the pixels."""
    images = jnp.stack([jnp.zeros((4, 4, 1)), jnp.zeros((4, 4, 1)).at[0, 0].set(0.5), jnp.ones((4, 4, 1))])

    def net(params, images, ex):
        stubborn = ex.image[:, 0, 0, 0] == 0.5
        logits = linear(params, images, ex)
        return jnp.where(stubborn[:, None], jnp.array([1.0, 0.0]), logits)

    result = attacked(ATTACK, (np.ones(16), 2.5), images, net_fn=net)
    np.testing.assert_array_equal(result.found, [True, False, True])
    np.testing.assert_array_equal(result.distance, [3.0, 0.0, 0.0])
    np.testing.assert_array_equal(result.image[1:], images[1:])


def test_targeted_it_reaches_the_class():
    def net(params, images, ex):
        total = images.sum(axis=(1, 2, 3))
        return jnp.stack([1.5 - total, jnp.where(total > 1.5, 1.0, -1.0), total - 4.5], axis=-1)

    attack = PointWise(neighbourhood=FEATURES, starts=6, draws=16, shares=16, bisections=0, targeted=True)
    result = attacked(attack, (), BLACK, [1, 2], net_fn=net)
    np.testing.assert_array_equal(result.found, True)
    np.testing.assert_array_equal(result.distance, [2.0, 6.0])


def test_pixels_are_set_back_whole_where_the_ball_counts_pixels():
    """One channel of a pixel is enough: counting features one change is left, counting pixels one pixel."""
    weights = np.zeros((4, 4, 3))
    weights[1, 2] = 1.0
    images = jnp.zeros((2, 4, 4, 3))
    for ball, changed in ((FEATURES, 1), (PIXELS, 3)):
        attack = PointWise(neighbourhood=ball, starts=6, draws=16, shares=16, bisections=0)
        result = attacked(attack, (weights, 0.5), images)
        np.testing.assert_array_equal(result.distance, 1.0)
        np.testing.assert_array_equal((result.image != images).sum(axis=(1, 2, 3)), changed)


def test_outside_the_region_nothing_changes():
    mask = jnp.zeros((2, 4, 4, 1)).at[:, 2:].set(1.0)
    images = jnp.full((2, 4, 4, 1), 0.1)
    attack = PointWise(neighbourhood=Masked(neighbourhood=FEATURES), starts=6, draws=16, shares=16)
    result = attacked(attack, (np.ones(16), 3.6), images, mask=mask)
    np.testing.assert_array_equal(result.found, True)
    np.testing.assert_array_equal(result.distance, 3.0)
    np.testing.assert_array_equal(result.image[:, :2], images[:, :2])
    hopeless = attacked(attack, (np.ones(16), 8.9), images, mask=mask)
    assert not bool(hopeless.found.any())


def test_an_order_is_a_permutation_drawn_from_the_key():
    orders = jax.vmap(lambda key: _resets.random_order(key, 1000))(KEYS)
    assert all(len(np.unique(order)) == 1000 for order in orders)
    assert int(orders.max()) < 2**31
    ranks = np.argsort(np.argsort(orders, axis=1), axis=1)
    assert abs(np.corrcoef(ranks)[np.triu_indices(8, 1)]).max() < 0.15
    assert abs(np.corrcoef(np.arange(1000), ranks[0])[0, 1]) < 0.15


def test_a_round_visits_every_change_once_and_goes_on_behind_the_last():
    clean, order = jnp.zeros((1, 6, 1)), jnp.array([[3, 0, 9, 2, 7, 5]], jnp.uint32)
    image = jnp.ones((1, 6, 1)).at[0, 2].set(0.0)
    sweep, seen = _resets.begin(image), []
    for _ in range(7):
        unit = _resets.next_unit(sweep, clean, order)
        seen.append(int(jnp.argmax(unit[0, :, 0])))
        sweep = _resets.after(sweep, order, unit, jnp.where(unit, clean, sweep.image), jnp.array([False]))
    assert seen == [1, 3, 0, 5, 4, 1, 3]
    assert int(sweep.fails[0]) == 7
    alone = _resets.Sweep(clean.at[0, 4].set(1.0), jnp.array([7], jnp.uint32), jnp.array([0]))
    assert int(jnp.argmax(_resets.next_unit(alone, clean, order)[0, :, 0])) == 4


@pytest.mark.parametrize(
    ("field", "value"),
    [("neighbourhood", LInf(eps=0.1)), ("starts", 0), ("draws", 0), ("shares", 0), ("bisections", -1)],
)
def test_what_cannot_be_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        PointWise(**{"neighbourhood": FEATURES, field: value})
