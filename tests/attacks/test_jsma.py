"""JSMA on linear models, where the fewest changes are known, and step by step against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import (
    JSMA,
    MostLikely,
    bpda,
    every_class,
    papernot,
    runner_up,
)
from jaxrobust.neighbourhoods import L0, L2, Masked
from jaxrobust.types import Example

FEATURES = L0(eps=1, features=True)
KEYS = jax.random.split(jax.random.key(0), 8)


def linear(params, images, ex):
    """Logits `[b, k]` of flattened images."""
    weights, bias = params
    return images.reshape(images.shape[0], -1) @ weights + bias


def tanh_net(params, images, ex):
    first, second = params
    return jnp.tanh(images.reshape(images.shape[0], -1) @ first) @ second


def two_classes(weights, threshold):
    """Class 1 where weights @ x > threshold; the logit of class 0 is constant."""
    weights = jnp.asarray(weights, jnp.float32)
    return jnp.stack([0 * weights, weights], axis=-1), jnp.array([0.0, -threshold])


@functools.cache
def compiled(attack, net_fn):
    def run(params, keys, example):
        return attack(keys, functools.partial(net_fn, params), example)

    return jax.jit(run)


def attacked(attack, params, images, target, mask=None, net_fn=linear):
    """Compiled once per attack: the nets come as parameters."""
    example = Example(jnp.asarray(images, jnp.float32), jnp.asarray(target), mask=mask)
    return compiled(attack, net_fn)(params, KEYS[: len(example.image)], example)


JSMA_ALL = JSMA(neighbourhood=FEATURES, upsilon=1.0)
BLACK = jnp.zeros((1, 4, 4, 1))


@pytest.mark.parametrize("needed", [1, 2, 3, 6])
@pytest.mark.parametrize("targeted", [False, True])
def test_it_reaches_the_fewest_changes_of_a_linear_model(needed, targeted):
    """Of weights 10 and 1 only `needed` of the large ones together pass the threshold."""
    weights = np.where(np.arange(16) % 2, 10.0, 1.0)
    params = two_classes(weights, 10.0 * needed - 3)
    attack = JSMA(neighbourhood=FEATURES, upsilon=1.0, targeted=targeted)
    result = attacked(attack, params, BLACK, [1 if targeted else 0])
    assert bool(result.found[0])
    assert float(result.distance[0]) == needed
    assert set(np.unique(result.image)) == {0.0, 1.0}


def test_pairs_alone_overshoot_an_odd_count_by_one():
    params = two_classes(np.full(16, 10.0), 27.0)
    attack = JSMA(neighbourhood=FEATURES, upsilon=1.0, prune=False)
    assert float(attacked(attack, params, BLACK, [0]).distance[0]) == 4


def test_a_negative_theta_darkens():
    params = two_classes(-np.where(np.arange(16) % 2, 10.0, 1.0), -88.0 + 17.0)
    attack = JSMA(neighbourhood=FEATURES, upsilon=1.0, theta=-1.0)
    result = attacked(attack, params, jnp.ones((1, 4, 4, 1)), [0])
    assert float(result.distance[0]) == 2
    assert set(np.unique(result.image)) == {0.0, 1.0}
    raising = attacked(JSMA_ALL, params, jnp.ones((1, 4, 4, 1)), [0])
    assert not bool(raising.found[0])


def numpy_jsma(jacobian_fn, logits_fn, image, target, max_pairs):
    """Eq. 10 over all pairs; features that were used or are saturated are left out."""
    x, domain, changed = image.copy(), image < 1, 0
    for _ in range(max_pairs):
        if logits_fn(x).argmax() == target:
            break
        jacobian = jacobian_fn(x)
        alpha, beta = jacobian[target], np.delete(jacobian, target, axis=0).sum(axis=0)
        a, b = alpha[:, None] + alpha, beta[:, None] + beta
        admissible = (a > 0) & (b < 0) & np.triu(np.outer(domain, domain), 1)
        if not admissible.any():
            break
        pair = list(divmod(int(np.where(admissible, -a * b, 0).argmax()), x.size))
        x[pair], domain[pair], changed = np.minimum(x[pair] + 1, 1), False, changed + 2
    return x, changed, logits_fn(x).argmax() == target


@pytest.mark.parametrize("seed", range(3))
def test_the_papers_form_equals_numpy_step_by_step(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(18, 12)) / 2, rng.normal(size=(12, 4))
    images = np.clip(rng.uniform(-0.2, 1.2, size=(8, 18)), 0, 1)
    targets = rng.integers(0, 4, size=8)

    def logits_fn(x):
        return np.tanh(x @ first) @ second

    def jacobian_fn(x):
        return ((1 - np.tanh(x @ first) ** 2)[:, None] * second).T @ first.T

    attack, params = papernot(FEATURES, upsilon=0.7, targeted=True), (jnp.float32(first), jnp.float32(second))
    result = attacked(attack, params, images.reshape(8, 3, 3, 2), targets, net_fn=tanh_net)
    outcomes = []
    for i in range(8):
        image, changed, fooled = numpy_jsma(jacobian_fn, logits_fn, images[i], targets[i], 6)
        outcomes.append(fooled)
        assert bool(result.found[i]) == fooled
        np.testing.assert_allclose(
            result.image[i].ravel(), image if fooled else images[i], atol=1e-6, err_msg=f"row {i}"
        )
        assert float(result.distance[i]) == (changed if fooled else 0)
    assert any(outcomes)


def test_where_no_pair_is_admissible_it_stops_and_gives_the_clean_image():
    """All logits rise together, so the paper's beta is never negative: changing (0, 0) would be wrong."""
    params = jnp.stack([jnp.ones(16), jnp.full(16, 2.0)], axis=-1), jnp.array([5.5, 0.0])
    result = attacked(papernot(FEATURES, upsilon=1.0), params, BLACK, [0])
    assert not bool(result.found[0])
    np.testing.assert_array_equal(result.image, 0.0)
    # Relative to the mean logit the second class gains on the first.
    assert float(attacked(JSMA_ALL, params, BLACK, [0]).distance[0]) == 6


@pytest.mark.parametrize(("upsilon", "found"), [(0.5, True), (0.49, False), (0.0, False)])
def test_no_more_features_change_than_upsilon_allows(upsilon, found):
    """8 of 16 features are needed."""
    params = two_classes(np.ones(16), 7.5)
    attack = JSMA(neighbourhood=FEATURES, upsilon=upsilon)
    result = attacked(attack, params, BLACK, [0])
    assert bool(result.found[0]) == found


@pytest.mark.parametrize("theta", [0.5, 1.0])
def test_a_feature_is_used_once(theta):
    """One feature has all the weight; with theta = 0.5 it would be wanted again."""
    params = two_classes([100.0] + 15 * [1.0], 80.0)
    attack = JSMA(neighbourhood=FEATURES, upsilon=1.0, theta=theta)
    result = attacked(attack, params, BLACK, [0])
    assert bool(result.found[0]) == (theta == 1.0)


def test_a_saturated_feature_is_not_changed():
    """The most salient features are white already; changing them does nothing but count."""
    weights = np.array(4 * [50.0] + 12 * [1.0])
    images = jnp.where(jnp.arange(16) < 4, 1.0, 0.0).reshape(1, 4, 4, 1)
    result = attacked(
        papernot(FEATURES, upsilon=1.0, gain_fn=JSMA.gain_fn, others_fn=JSMA.others_fn),
        two_classes(weights, 203.5),
        images,
        [0],
    )
    assert float(result.distance[0]) == 4
    np.testing.assert_array_equal(result.image.ravel()[:4], 1.0)


def test_features_with_little_room_are_not_preferred():
    weights = np.array(4 * [5.0] + 12 * [4.0])
    images = jnp.where(jnp.arange(16) < 4, 0.9, 0.0).reshape(1, 4, 4, 1)
    params = two_classes(weights, 18.0 + 7.5)
    by_room, plain = (
        attacked(JSMA(neighbourhood=FEATURES, upsilon=1.0, prune=False, by_room=room), params, images, [0])
        for room in (True, False)
    )
    assert float(by_room.distance[0]) == 2 < float(plain.distance[0])


def test_untargeted_it_keeps_the_class_of_fewest_changes():
    """Class 1 is likelier but takes 4 features; class 2 takes 2."""
    weights = jnp.stack([jnp.zeros(16), jnp.full(16, 1.0), jnp.full(16, 4.0)], axis=-1)
    weights = weights.at[8:, 1].set(0.0).at[:8, 2].set(0.0)
    params = weights, jnp.array([0.0, -3.5, -7.5])
    best, likeliest = (
        attacked(JSMA(neighbourhood=FEATURES, upsilon=1.0, target_fn=fn), params, BLACK, [0])
        for fn in (every_class, runner_up)
    )
    assert float(best.distance[0]) == 2
    assert float(likeliest.distance[0]) == 4


def test_the_targets_are_the_likeliest_first_and_never_the_label():
    logits = jnp.array([[3.0, 1.0, 2.0, -jnp.inf], [0.0, 4.0, -1.0, 5.0]])
    label = jnp.array([0, 3])
    np.testing.assert_array_equal(every_class(logits, label), [[2, 1, 3], [1, 0, 2]])
    np.testing.assert_array_equal(runner_up(logits, label), [[2], [1]])
    np.testing.assert_array_equal(MostLikely(num=9)(logits, label), every_class(logits, label))


def test_a_pixel_counts_once_whatever_its_channels():
    """Both features of the pair are channels of one pixel."""
    weights = np.zeros((2, 2, 3))
    weights[0, 0, :2] = 5.0
    params = two_classes(weights.ravel(), 9.0)
    image = jnp.zeros((1, 2, 2, 3))
    pixels, features = (
        attacked(JSMA(neighbourhood=ball, upsilon=1.0), params, image, [0]) for ball in (L0(eps=1), FEATURES)
    )
    assert float(pixels.distance[0]) == 1
    assert float(features.distance[0]) == 2


def test_outside_the_region_nothing_changes():
    mask = jnp.zeros((1, 4, 4, 1)).at[:, 2:].set(1.0)
    weights = np.array(8 * [10.0] + 8 * [1.0])
    images = jnp.full((1, 4, 4, 1), 0.1)
    attack = JSMA(neighbourhood=Masked(neighbourhood=FEATURES), upsilon=1.0)
    result = attacked(attack, two_classes(weights, 8.8 + 3.0), images, [0], mask=mask)
    assert bool(result.found[0])
    np.testing.assert_array_equal(result.image[:, :2], images[:, :2])


def test_misclassified_from_the_start_is_found_at_distance_0_and_does_not_stop_the_others():
    params = two_classes(np.full(16, 10.0), 17.0)
    images = jnp.stack([jnp.ones((4, 4, 1)), jnp.zeros((4, 4, 1))])
    result = attacked(JSMA_ALL, params, images, [0, 0])
    np.testing.assert_array_equal(result.found, [True, True])
    np.testing.assert_array_equal(result.distance, [0.0, 2.0])
    np.testing.assert_array_equal(result.image[0], images[0])


def test_masked_classes_are_no_obstacle():
    def masked(params, images, ex):
        return linear(params, images, ex).at[:, 2].set(-jnp.inf)

    params = (
        jnp.stack([jnp.zeros(16), jnp.full(16, 10.0), jnp.ones(16)], axis=-1),
        jnp.array([0.0, -17.0, 0.0]),
    )
    for attack in (JSMA_ALL, JSMA(neighbourhood=FEATURES, targeted=True)):
        result = attacked(attack, params, BLACK, [int(attack.targeted)], net_fn=masked)
        assert float(result.distance[0]) == 2


def test_a_surrogate_sees_through_a_defence_without_gradient():
    params = two_classes(np.full(16, 10.0), 17.0)

    def defended(params, images, ex):
        return linear(params, jnp.round(images * 4) / 4, ex)

    assert not bool(attacked(JSMA_ALL, params, BLACK, [0], net_fn=defended).found[0])
    surrogate = bpda(functools.partial(linear, params))
    adaptive = JSMA(neighbourhood=FEATURES, upsilon=1.0, gradient_fn=surrogate)
    result = adaptive(KEYS[:1], functools.partial(defended, params), Example(BLACK, jnp.array([0])))
    assert float(result.distance[0]) == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("neighbourhood", L2(eps=0.5)),
        ("neighbourhood", L0),
        ("upsilon", -0.1),
        ("upsilon", 1.5),
        ("theta", 0.0),
        ("theta", 2.0),
        ("chunk", 0),
    ],
)
def test_what_cannot_be_is_refused(field, value):
    with pytest.raises(ValueError, match=field):
        JSMA(**{"neighbourhood": FEATURES, field: value})
    with pytest.raises(ValueError, match="num"):
        MostLikely(num=0)
