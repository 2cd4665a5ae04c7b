"""DDN against true distances on linear models, against NumPy, and what it promises row by row."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import DDN, bpda
from jaxrobust.data import load
from jaxrobust.neighbourhoods import L2, LInf, Masked
from jaxrobust.numerics import losses
from jaxrobust.types import Example
from tests.attacks.linear_truth import to_leave, to_reach

RNG = np.random.default_rng(1)
SHAPE, ROWS, CLASSES = (4, 3, 1), 4, 4
# Orthogonal and of one length, so that the runner-up is the nearest class; large, so that the loss's gradient
# points at it and not at a mean of all the others.
SCALE = np.float32(100.0)
WEIGHTS = SCALE * np.linalg.qr(RNG.standard_normal((12, CLASSES)))[0].T.astype(np.float32)
BIAS = SCALE * np.float32([0.1, -0.1, 0.05, 0.0])
CLEAR = RNG.uniform(0.4, 0.6, (ROWS, *SHAPE)).astype(np.float32)
CORNERS = RNG.integers(0, 2, (ROWS, *SHAPE)).astype(np.float32)  # every pixel exactly 0 or 1
KEYS = jax.random.split(jax.random.key(0), ROWS)
ATTACK = DDN(neighbourhood=L2(eps=0.5), steps=200, levels=None)


def linear(images, ex):
    return images.reshape(len(images), -1) @ WEIGHTS.T + BIAS


def predicted(images):
    return np.asarray(linear(images, None)).argmax(axis=-1).astype(np.int32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(attack, score_fn, images, target, keys=KEYS, mask=None):
    return attack(keys, score_fn, Example(images, target, mask=mask))


def lengths(result, images):
    return np.linalg.norm((np.asarray(result.image) - images).reshape(len(images), -1), axis=1)


@pytest.mark.parametrize("images", [CLEAR, CORNERS], ids=["clear", "corners"])
@pytest.mark.parametrize("targeted", [False, True], ids=["away", "towards"])
def test_it_reaches_the_true_distance(images, targeted):
    """Also from pixels of exactly 0 and 1, half of which cannot move along the gradient."""
    label = predicted(images)
    target = (label + 2) % CLASSES if targeted else label
    solve = to_reach if targeted else to_leave
    truth = np.array([solve(image, WEIGHTS, BIAS, each) for image, each in zip(images, target)])
    # On an edge where three classes meet, it goes to and fro between two of them and comes near slowly.
    steps = 1000 if targeted else 200
    result = run(replace(ATTACK, targeted=targeted, steps=steps), linear, images, target)
    assert np.isfinite(truth).all()
    assert result.found.all()
    np.testing.assert_allclose(lengths(result, images), truth, rtol=0.01)
    np.testing.assert_allclose(result.distance, lengths(result, images) / 0.5, rtol=1e-5)
    assert (lengths(result, images) >= 0.9999 * truth).all()


def gentle(images, ex):
    """Softer than `linear`, which near an edge takes rounding errors to another class."""
    return linear(images, ex) / 20


def in_numpy(attack, image, label):
    """One image, float64, the gentle model: Algorithm 1, with the rounding of the authors' code."""
    x, weights = image.ravel().astype(float), WEIGHTS.astype(float) / 20
    delta, eps, best = np.zeros_like(x), attack.initial_norm, np.inf
    farthest = np.linalg.norm(np.maximum(x, 1 - x))
    for k in range(attack.steps + 1):
        logits = weights @ (x + delta) + BIAS / 20
        adversarial = logits.argmax() != label
        if adversarial:
            best = min(best, np.linalg.norm(delta))
        p = np.exp(logits - logits.max())
        p /= p.sum()
        gradient = (p - np.eye(CLASSES)[label]) @ weights
        alpha = 0.01 + 0.99 * (1 + np.cos(np.pi * k / attack.steps)) / 2
        delta = delta + alpha * gradient / np.linalg.norm(gradient)
        eps = min(eps * (1 - attack.gamma if adversarial else 1 + attack.gamma), farthest)
        delta = x + eps * delta / np.linalg.norm(delta)
        if attack.levels is not None:
            delta = np.round(delta * (attack.levels - 1)) / (attack.levels - 1)
        delta = np.clip(delta, 0, 1) - x
    return best


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 12, "initial_norm": 0.02, "gamma": 0.2},
        {"steps": 25, "initial_norm": 3.0, "gamma": 0.3},
        {"steps": 20, "levels": 256},
    ],
    ids=["grows", "capped", "rounded"],
)
def test_it_equals_numpy(options):
    attack, label = replace(ATTACK, **options), predicted(CORNERS)
    expected = np.array([in_numpy(attack, image, each) for image, each in zip(CORNERS, label)])
    result = run(attack, gentle, CORNERS, label)
    np.testing.assert_array_equal(result.found, np.isfinite(expected))
    assert result.found.any()
    np.testing.assert_allclose(
        lengths(result, CORNERS)[result.found], expected[np.isfinite(expected)], rtol=2e-3
    )


def test_what_it_returns_has_the_levels_asked_for_and_fools_as_it_is():
    label = predicted(CORNERS)
    result = run(replace(ATTACK, levels=256), linear, CORNERS, label)
    image = np.asarray(result.image)
    np.testing.assert_array_equal(image, np.round(image * 255) / np.float32(255))
    assert result.found.all()
    assert (predicted(image) != label).all()


def test_a_misclassified_image_is_found_at_distance_0():
    result = run(replace(ATTACK, levels=8), linear, CLEAR, (predicted(CLEAR) + 1) % CLASSES)
    assert result.found.all()
    np.testing.assert_array_equal(result.image, CLEAR)
    np.testing.assert_array_equal(result.distance, 0.0)


def plateau(images, ex):
    """Class 1 farther than 0.3 from the clean image, which is class 0; the gradient is 0 everywhere.

    Rows whose clean image starts above 1/2 are class 0 everywhere.
    """
    square = ((images - ex.image) ** 2).sum(axis=(1, 2, 3))
    away = (square > 0.09) & (ex.image[:, 0, 0, 0] <= 0.5)
    return jnp.stack([jnp.where(away, 0.0, 1.0), jnp.where(away, 1.0, 0.0)], axis=-1)


def test_without_a_gradient_it_goes_where_the_key_says_and_fails_row_by_row():
    images = CLEAR.copy()
    images[:, 0, 0, 0] = [0.45, 0.45, 0.55, 0.45]
    images[1] = images[0]
    result = run(replace(ATTACK, steps=60), plateau, images, jnp.zeros(ROWS, jnp.int32))
    np.testing.assert_array_equal(result.found, [True, True, False, True])
    np.testing.assert_allclose(lengths(result, images)[[0, 1, 3]], 0.3, rtol=0.06)
    assert np.abs(result.image[0] - result.image[1]).max() > 0.01
    np.testing.assert_array_equal(result.image[2], images[2])
    assert result.distance[2] == 0
    alone = run(replace(ATTACK, steps=60), plateau, images[:1], jnp.zeros(1, jnp.int32), KEYS[:1])
    np.testing.assert_allclose(alone.image[0], result.image[0], atol=1e-6)


@pytest.mark.parametrize(("loss_fn", "gap"), [(losses.log_odds, 150), (losses.cross_entropy, 60)])
def test_a_saturated_model_still_shows_its_direction(loss_fn, gap):
    """Cross-entropy's gradient is 1e-26 at 60 logits, which float32 cannot square, and 0 at 150."""
    direction = np.float32(RNG.standard_normal(12))
    direction /= np.linalg.norm(direction)

    def confident(images, ex):
        away = (images - ex.image).reshape(len(images), -1) @ direction
        return jnp.stack([0 * away, 300 * away - gap], axis=-1)

    result = run(replace(ATTACK, steps=8, loss_fn=loss_fn), confident, CLEAR, jnp.zeros(ROWS, jnp.int32))
    assert result.found.all()
    offset = (np.asarray(result.image) - CLEAR).reshape(ROWS, -1)
    np.testing.assert_allclose(offset @ direction, np.linalg.norm(offset, axis=1), rtol=3e-3)


def test_a_mask_is_kept_bit_for_bit():
    mask = np.zeros((ROWS, *SHAPE), np.float32)
    mask[:, :, :2] = 1
    label = predicted(CLEAR)
    masked = Masked(neighbourhood=L2(eps=0.5))
    inside = mask[0].ravel() == 1
    attack = replace(ATTACK, neighbourhood=masked)
    result = run(attack, linear, CLEAR, label, mask=mask)
    rounded = run(replace(attack, levels=256), linear, CLEAR, label, mask=mask)
    for each in (result, rounded):
        np.testing.assert_array_equal(np.asarray(each.image)[mask == 0], CLEAR[mask == 0])
        assert each.found.all()
    for i, other in enumerate(predicted(result.image)):
        image = CLEAR[i].ravel()
        rest = BIAS + WEIGHTS[:, ~inside] @ image[~inside]
        truth = to_leave(image[inside], WEIGHTS[:, inside], rest, label[i], other)
        assert lengths(result, CLEAR)[i] == pytest.approx(truth, rel=0.01)


def test_masked_classes_and_a_hidden_gradient():
    def open_set(images, ex):
        return jnp.concatenate([linear(images, ex), jnp.full((ROWS, 1), -jnp.inf)], axis=-1)

    def rounded(images, ex):
        return open_set(jnp.round(images * 50) / 50, ex)

    label = predicted(np.round(CLEAR * 50) / 50)
    attack = replace(ATTACK, steps=40, gradient_fn=bpda(open_set))
    result = run(attack, rounded, CLEAR, label)
    assert result.found.all()
    exact = run(replace(attack, gradient_fn=DDN.gradient_fn), rounded, CLEAR, label)
    assert lengths(result, CLEAR).mean() < lengths(exact, CLEAR).mean()


def test_real_digits_under_a_linear_model():
    """Most pixels are exactly 0; the truth is the box-bound distance to the class that it found."""
    digits = load("digits")
    pixels = digits.train.images.reshape(-1, 64) / 255
    design = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
    fit = np.linalg.lstsq(design, np.eye(10)[digits.train.labels], rcond=None)[0].T.astype(np.float32)
    weights, bias = 50 * fit[:, :-1], 50 * fit[:, -1]

    def score_fn(images, ex):
        return images.reshape(len(images), -1) @ weights.T + bias

    images = (digits.test.images[:ROWS] / 255).astype(np.float32)
    label = np.asarray(score_fn(images, None)).argmax(axis=-1).astype(np.int32)
    result = run(ATTACK, score_fn, images, label)
    assert result.found.all()
    # The method descends to the runner-up, which need not be the nearest class.
    other = np.asarray(score_fn(result.image, None)).argmax(axis=-1)
    truth = np.array([to_leave(x, weights, bias, *pair) for x, *pair in zip(images, label, other)])
    np.testing.assert_allclose(lengths(result, images), truth, rtol=0.01)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"neighbourhood": LInf(eps=0.1)}, "Expected a ball like L2"),
        ({"steps": 0}, "steps >= 1"),
        ({"gamma": 0.0}, "gamma > 0"),
        ({"gamma": 1.0}, "gamma < 1"),
        ({"initial_norm": 0.0}, "initial_norm > 0"),
        ({"levels": 1}, "levels >= 2"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        DDN(**{"neighbourhood": L2(eps=1.0), **options})
