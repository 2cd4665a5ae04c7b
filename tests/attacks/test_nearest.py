"""What the minimum-norm attacks keep, and when a point counts as adversarial."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import DDN, FAB, JSMA, CarliniWagner, PointWise
from jaxrobust.attacks._nearest import candidate, nearer_of, none_yet, surely_fools, to_result
from jaxrobust.neighbourhoods import L0, L2
from jaxrobust.types import Example

BALL = L2(eps=0.5)
EXAMPLE = Example(image=jnp.full((3, 2, 2, 1), 0.5), target=jnp.array([0, 0, 1]))
ATTACKS = (
    CarliniWagner(neighbourhood=L2(eps=1.0), searches=6, steps=50, learning_rate=0.1),
    DDN(neighbourhood=L2(eps=1.0)),
    FAB(neighbourhood=L2(eps=1.0), steps=10),
    JSMA(neighbourhood=L0(eps=1), upsilon=1.0),
    PointWise(neighbourhood=L0(eps=1)),
)


def masked_score(value):
    """Two classes of a linear model, the boundary 0.2 away, and a third one masked by a constant logit."""

    def score_fn(images, example):
        total = images.sum(axis=(1, 2, 3))
        return jnp.stack([0 * total, total - 2.4, jnp.full_like(total, value)], axis=-1)

    return score_fn


@pytest.mark.parametrize(
    "attack",
    [ATTACKS[0], *(pytest.param(attack, marks=pytest.mark.slow) for attack in ATTACKS[1:])],
    ids=lambda attack: type(attack).__name__,
)
def test_a_class_masked_by_a_large_logit_hides_no_success(attack):
    """Masks are -inf, or a large finite number, in models out there."""
    example = Example(EXAMPLE.image[1:], EXAMPLE.target[1:])
    keys = jax.random.split(jax.random.key(0), 2)
    results = [attack(keys, masked_score(value), example) for value in (-jnp.inf, -1e9, -10.0)]
    for result in results:
        assert result.found.all()
        np.testing.assert_allclose(result.distance, results[-1].distance, rtol=0.02, atol=1e-5)
    assert results[0].distance[1] == 0  # misclassified from the start


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_margin_within_the_rounding_of_the_logits_is_no_success(scale):
    logits = scale * jnp.array([[1.0, 1.0 + 1e-6], [1.0, 1.0 + 1e-4], [1.0, 1.0 + 1e-4]])
    np.testing.assert_array_equal(surely_fools(logits, EXAMPLE.target), [False, True, False])
    targeted = surely_fools(logits, EXAMPLE.target, targeted=True)
    np.testing.assert_array_equal(targeted, [False, False, True])


def test_nan_never_fools():
    logits = jnp.array([[0.0, jnp.nan], [jnp.nan, 1.0], [0.0, 1.0]])
    np.testing.assert_array_equal(surely_fools(logits, jnp.array([0, 0, 0])), [False, False, True])


def test_the_nearest_is_kept_row_by_row_and_failures_are_clean():
    far, near = EXAMPLE.image + 0.2, EXAMPLE.image + 0.1
    fooled = jnp.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    nearest = nearer_of(none_yet(EXAMPLE), candidate(BALL, EXAMPLE, far, fooled))
    second = jnp.array([[0.0, 1.0], [1.0, 0.0], [jnp.nan, 1.0]])
    nearest = nearer_of(nearest, candidate(BALL, EXAMPLE, near, second))
    result = to_result(BALL, EXAMPLE, nearest)
    np.testing.assert_array_equal(result.found, [True, True, False])
    np.testing.assert_array_equal(result.nonfinite, [False, False, True])
    np.testing.assert_allclose(result.distance, [0.4, 0.8, 0.0], atol=1e-6)  # ||0.1|| over 4 pixels is 0.2
    np.testing.assert_array_equal(result.image[2], EXAMPLE.image[2])


@pytest.mark.parametrize("attack", ATTACKS[3:], ids=lambda attack: type(attack).__name__)
def test_nan_met_while_changes_are_taken_back_is_remembered(attack):
    """The clean image and the changed one are numbers, what lies between them is not."""

    def score_fn(images, example):
        total = (images - example.image).sum(axis=(1, 2, 3))
        logits = jnp.stack([0 * total, total - 1.6], axis=-1)
        return jnp.where(((total > 0.1) & (total < 1.4))[:, None], jnp.nan, logits)

    example = Example(jnp.zeros((1, 2, 2, 1)), jnp.array([0]))
    result = attack(jax.random.split(jax.random.key(0), 1), score_fn, example)
    assert result.found.all()
    assert result.nonfinite.all()
