"""C&W against true distances on linear models, against NumPy, and what it promises row by row."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD, CarliniWagner, bpda, identity_start
from jaxrobust.data import load
from jaxrobust.neighbourhoods import L2, LInf, Masked
from jaxrobust.numerics import losses
from jaxrobust.types import Example
from tests.attacks.linear_truth import to_leave, to_reach

RNG = np.random.default_rng(0)
SHAPE, ROWS, CLASSES = (4, 3, 1), 4, 4
# Orthogonal and of one length, so that the runner-up is the nearest class and greedy is right.
WEIGHTS = np.linalg.qr(RNG.standard_normal((12, CLASSES)))[0].T.astype(np.float32)
BIAS = np.float32([0.1, -0.1, 0.05, 0.0])
CLEAR = RNG.uniform(0.4, 0.6, (ROWS, *SHAPE)).astype(np.float32)
CORNERS = RNG.integers(0, 2, (ROWS, *SHAPE)).astype(np.float32)  # every pixel exactly 0 or 1
KEYS = jax.random.split(jax.random.key(0), ROWS)
ATTACK = CarliniWagner(
    neighbourhood=L2(eps=0.5), searches=7, steps=300, learning_rate=0.05, abort_early=False
)


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
    """Also where the box cuts, and from pixels of exactly 0 and 1, where arctanh is infinite."""
    label = predicted(images)
    target = (label + 2) % CLASSES if targeted else label
    solve = to_reach if targeted else to_leave
    truth = np.array([solve(image, WEIGHTS, BIAS, each) for image, each in zip(images, target)])
    result = run(replace(ATTACK, targeted=targeted), linear, images, target)
    assert np.isfinite(truth).all()
    assert result.found.all()
    np.testing.assert_allclose(lengths(result, images), truth, rtol=0.01)
    np.testing.assert_allclose(result.distance, lengths(result, images) / 0.5, rtol=1e-5)
    assert (lengths(result, images) >= 0.9999 * truth).all()


def test_kappa_is_the_margin_and_costs_its_distance():
    label, kappa = predicted(CLEAR), 0.3
    result = run(replace(ATTACK, kappa=kappa), linear, CLEAR, label)
    margins = np.asarray(losses.margin(linear(result.image, None), label))
    assert (margins >= kappa).all()
    clean = np.asarray(losses.margin(linear(CLEAR, None), label))
    np.testing.assert_allclose(lengths(result, CLEAR), (kappa - clean) / np.sqrt(2), rtol=0.01)


def test_a_misclassified_image_is_found_at_distance_0_and_kappa_searches_on():
    label = (predicted(CLEAR) + 1) % CLASSES
    result = run(ATTACK, linear, CLEAR, label)
    assert result.found.all()
    np.testing.assert_array_equal(result.image, CLEAR)
    np.testing.assert_array_equal(result.distance, 0.0)
    wider = run(replace(ATTACK, kappa=0.5), linear, CLEAR, label)
    assert (np.asarray(losses.margin(linear(wider.image, None), label)) >= 0.5).all()


def constant(images, ex):
    return jnp.broadcast_to(jnp.array([0.0, 1.0]), (len(images), 2)) + 0 * images.sum(axis=(1, 2, 3))[:, None]


@pytest.mark.parametrize("kappa", [0.0, 5.0])
def test_failure_is_a_flag_and_the_clean_image(kappa):
    """Class 1 is predicted for ever: rows of that class cannot be fooled, the others are from the start."""
    attack = replace(ATTACK, searches=2, steps=20, kappa=kappa)
    result = run(attack, constant, CLEAR, jnp.array([1, 0, 1, 0]))
    np.testing.assert_array_equal(result.found, [False, True, False, True])
    np.testing.assert_array_equal(result.image, CLEAR)
    np.testing.assert_array_equal(result.distance, 0.0)


def in_numpy(attack, image, label):
    """One image, float64, the linear model: the authors' program without its batch."""
    flat = image.ravel().astype(float)
    start = np.arctanh(0.999999 * (2 * flat - 1))
    const, low, high, best = attack.initial_const, 0.0, np.inf, np.inf
    for search in range(len(attack.constants) or attack.searches):
        if attack.constants:
            const = attack.constants[search]
        elif attack.searches >= 10 and search == attack.searches - 1 and high < np.inf:
            const = high
        w, mean, square, before, success = start.copy(), 0.0, 0.0, np.inf, False
        for t in range(attack.steps):
            x = (np.tanh(w) + 1) / 2
            logits = WEIGHTS.astype(float) @ x + BIAS
            other = max((j for j in range(CLASSES) if j != label), key=lambda j, z=logits: z[j])
            margin = logits[other] - logits[label]
            offset = x - (np.tanh(start) + 1) / 2
            if margin > attack.kappa:
                success, best = True, min(best, np.linalg.norm(offset))
            loss = offset @ offset + const * max(0.0, attack.kappa - margin)
            if attack.abort_early and t % max(attack.steps // 10, 1) == 0:
                if loss > 0.9999 * before:
                    break
                before = loss
            slope = (1 - np.tanh(w) ** 2) / 2
            hinge = (WEIGHTS[label] - WEIGHTS[other]) * (margin < attack.kappa)
            gradient = slope * (2 * offset + const * hinge)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            corrected = mean / (1 - 0.9 ** (t + 1)), square / (1 - 0.999 ** (t + 1))
            w = w - attack.learning_rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
        low, high = (low, min(high, const)) if success else (max(low, const), high)
        const = (low + high) / 2 if high < np.inf else 10 * const
    return best


@pytest.mark.parametrize(
    "options",
    [
        {"searches": 4, "steps": 25, "learning_rate": 0.02, "abort_early": True},
        {"searches": 10, "steps": 12, "learning_rate": 0.05, "initial_const": 0.3, "abort_early": True},
        {"searches": 5, "steps": 20, "kappa": 0.05, "initial_const": 0.5},
        {"constants": (0.3, 20.0, 2.0), "steps": 20},
    ],
    ids=["times-10", "upper-bound-last", "kappa", "constants"],
)
def test_it_equals_numpy(options):
    attack = replace(ATTACK, **options)
    label = predicted(CLEAR)
    expected = np.array([in_numpy(attack, image, each) for image, each in zip(CLEAR, label)])
    result = run(attack, linear, CLEAR, label)
    np.testing.assert_array_equal(result.found, np.isfinite(expected))
    assert result.found.any()
    np.testing.assert_allclose(
        lengths(result, CLEAR)[result.found], expected[np.isfinite(expected)], rtol=2e-3
    )


def uneven(images, ex):
    """Rows whose clean image starts above 1/2 see a model that no small change fools."""
    z = linear(images, ex)
    hard = ex.image[:, 0, 0, 0] > 0.5
    return jnp.where(hard[:, None], z + 100 * jax.nn.one_hot(ex.target, CLASSES), z)


def test_a_hard_row_beside_an_easy_one_changes_nothing():
    images = CLEAR.copy()
    images[:, 0, 0, 0] = [0.45, 0.9, 0.9, 0.9]
    attack, label = replace(ATTACK, steps=60, abort_early=True), predicted(images)
    mixed = run(attack, uneven, images, label)
    alone = run(attack, uneven, images[:1], label[:1], KEYS[:1])
    np.testing.assert_array_equal(mixed.found, [True, False, False, False])
    np.testing.assert_allclose(mixed.image[0], alone.image[0], atol=1e-6)
    easy = images.copy()
    easy[1:] = images[0]
    beside_easy = run(attack, uneven, easy, np.repeat(label[:1], ROWS))
    np.testing.assert_array_equal(mixed.image[0], beside_easy.image[0])


@pytest.mark.parametrize(("abort_early", "forwards"), [(True, 1 + 3 * 5), (False, 1 + 3 * 40)])
def test_a_search_that_gets_nowhere_ends_at_the_first_check(abort_early, forwards):
    count = []

    def counted(images, ex):
        jax.debug.callback(lambda: count.append(1))
        return constant(images, ex)

    attack = replace(ATTACK, searches=3, steps=40, abort_early=abort_early)
    run(attack, counted, CLEAR, jnp.ones(ROWS, jnp.int32))
    jax.effects_barrier()
    assert len(count) == forwards


def test_a_mask_is_kept_bit_for_bit():
    mask = np.zeros((ROWS, *SHAPE), np.float32)
    mask[:, :, :2] = 1
    label = predicted(CORNERS)
    result = run(
        replace(ATTACK, neighbourhood=Masked(neighbourhood=L2(eps=0.5)), steps=1000, learning_rate=0.02),
        linear,
        CORNERS,
        label,
        mask=mask,
    )
    outside = mask == 0
    np.testing.assert_array_equal(np.asarray(result.image)[outside], CORNERS[outside])
    inside = mask[0].ravel() == 1
    for i in np.flatnonzero(result.found):
        rest = BIAS + WEIGHTS[:, ~inside] @ CORNERS[i].ravel()[~inside]
        other = predicted(result.image)[i]
        truth = to_leave(CORNERS[i].ravel()[inside], WEIGHTS[:, inside], rest, label[i], other)
        assert lengths(result, CORNERS)[i] == pytest.approx(truth, rel=0.01)
    assert result.found.any()


def test_masked_classes_and_a_hidden_gradient():
    def open_set(images, ex):
        return jnp.concatenate([linear(images, ex), jnp.full((ROWS, 1), -jnp.inf)], axis=-1)

    def rounded(images, ex):
        return open_set(jnp.round(images * 20) / 20, ex)

    label = predicted(np.round(CLEAR * 20) / 20)
    attack = replace(ATTACK, searches=5, steps=100)
    assert not run(attack, rounded, CLEAR, label).found.any()
    result = run(replace(attack, gradient_fn=bpda(open_set)), rounded, CLEAR, label)
    assert result.found.all()


def test_real_digits_under_a_linear_model():
    """Most pixels are exactly 0; the truth is the box-bound distance to the class that it found."""
    digits = load("digits")
    pixels = digits.train.images.reshape(-1, 64) / 255
    design = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1)
    fit = np.linalg.lstsq(design, np.eye(10)[digits.train.labels], rcond=None)[0].T.astype(np.float32)
    weights, bias = fit[:, :-1], fit[:, -1]

    def score_fn(images, ex):
        return images.reshape(len(images), -1) @ weights.T + bias

    images = (digits.test.images[:ROWS] / 255).astype(np.float32)
    label = np.asarray(score_fn(images, None)).argmax(axis=-1).astype(np.int32)
    result = run(replace(ATTACK, steps=1000, learning_rate=0.02), score_fn, images, label)
    assert result.found.all()
    # The method descends to the runner-up, which need not be the nearest class.
    other = np.asarray(score_fn(result.image, None)).argmax(axis=-1)
    truth = np.array([to_leave(x, weights, bias, *pair) for x, *pair in zip(images, label, other)])
    np.testing.assert_allclose(lengths(result, images), truth, rtol=0.01)


def test_its_loss_in_the_l_inf_ball_sees_through_saturation():
    """How a table gives C&W a radius: the margin has a gradient where cross-entropy's has vanished."""
    confident = functools.partial(_scaled_linear, 1e5)
    label = predicted(CLEAR)
    attack = PGD(neighbourhood=LInf(eps=0.3), steps=20, step_size=0.1, start_fn=identity_start)
    assert not run(attack, confident, CLEAR, label).found.any()
    by_margin = run(replace(attack, loss_fn=losses.margin), confident, CLEAR, label)
    assert by_margin.found.all()
    assert by_margin.distance.max() <= 1 + 1e-5


def _scaled_linear(scale, images, ex):
    return scale * linear(images, ex)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"neighbourhood": LInf(eps=0.1)}, "Expected a ball like L2"),
        ({"searches": 0}, "searches >= 1"),
        ({"steps": 0}, "steps >= 1"),
        ({"learning_rate": 0.0}, "learning_rate > 0"),
        ({"initial_const": 0.0}, "initial_const > 0"),
        ({"constants": (1.0, 0.0)}, "constants > 0"),
        ({"kappa": -1.0}, "kappa >= 0"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        CarliniWagner(**{"neighbourhood": L2(eps=1.0), **options})
