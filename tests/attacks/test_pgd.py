"""PGD and FGSM against closed forms on linear models, and what restarts and options promise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD, fgsm, identity_start, near_start, uniform_start
from jaxrobust.neighbourhoods import L2, LInf
from jaxrobust.numerics import losses
from jaxrobust.types import Example

SHAPE = (4, 3, 1)
WEIGHTS = jnp.asarray(np.random.default_rng(0).standard_normal(SHAPE), jnp.float32)
KEYS = jax.random.split(jax.random.key(0), 5)
CLEAR = jax.random.uniform(jax.random.key(1), (5, *SHAPE), minval=0.3, maxval=0.7)  # no pixel near 0 or 1
CUT = jnp.round(jax.random.uniform(jax.random.key(2), (5, *SHAPE)) * 4) / 4  # many pixels at 0 and 1


def linear(images, ex):
    """Two classes with the logit difference <w, x>."""
    score = (images * WEIGHTS).sum(axis=(1, 2, 3))
    return jnp.stack([-score / 2, score / 2], axis=-1)


def wavy(images, ex):
    """Three classes with many local maxima."""
    phases = jnp.stack([(images * jnp.roll(WEIGHTS, i)).sum(axis=(1, 2, 3)) for i in range(3)], axis=-1)
    return jnp.sin(9 * phases) + jnp.cos(17 * phases)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(attack, score_fn, images, target):
    return attack(KEYS, score_fn, Example(images, target))


ZEROS, ONES = jnp.zeros(5, jnp.int32), jnp.ones(5, jnp.int32)


@pytest.mark.parametrize("images", [CLEAR, CUT], ids=["clear", "cut"])
@pytest.mark.parametrize(("target", "sign"), [(ZEROS, 1), (ONES, -1)])
def test_fgsm_and_linf_pgd_reach_the_optimum_exactly(images, target, sign):
    expected = np.clip(np.asarray(images) + sign * np.float32(0.2) * np.sign(WEIGHTS), 0, 1)
    for attack in (fgsm(LInf(eps=0.2)), PGD(neighbourhood=LInf(eps=0.2), steps=12, step_size=0.25)):
        result = run(attack, linear, images, target)
        np.testing.assert_allclose(result.image, expected, atol=1e-7)


def test_l2_pgd_reaches_the_optimum_of_the_ball():
    result = run(PGD(neighbourhood=L2(eps=0.25), steps=100, step_size=0.2), linear, CLEAR, ONES)
    expected = CLEAR - 0.25 * WEIGHTS / jnp.linalg.norm(WEIGHTS)
    np.testing.assert_allclose(result.image, expected, atol=2e-4)
    np.testing.assert_allclose(result.distance, 1.0, atol=1e-5)


def test_l2_pgd_spends_the_whole_radius_where_the_box_cuts():
    """The optimum is clip(x + s w) with s such that the length is eps: no length is lost at the border."""
    eps = 0.8
    result = run(PGD(neighbourhood=L2(eps=eps), steps=100, step_size=0.3), linear, CUT, ZEROS)
    np.testing.assert_allclose(result.distance, 1.0, atol=1e-4)
    for image, found in zip(np.asarray(CUT), np.asarray(result.image)):
        low, high = 0.0, 100.0
        for _ in range(60):
            middle = (low + high) / 2
            moved = np.clip(image + middle * np.asarray(WEIGHTS), 0, 1)
            low, high = (middle, high) if np.linalg.norm(moved - image) < eps else (low, middle)
        optimum = ((moved - image) * np.asarray(WEIGHTS)).sum()
        assert ((found - image) * np.asarray(WEIGHTS)).sum() == pytest.approx(optimum, rel=1e-3)


def test_l2_fgsm_is_one_step_along_the_gradient():
    result = run(fgsm(L2(eps=0.2)), linear, CLEAR, ZEROS)
    np.testing.assert_allclose(result.image, CLEAR + 0.2 * WEIGHTS / jnp.linalg.norm(WEIGHTS), atol=1e-6)


def test_the_margin_loss_finds_the_same_optimum():
    attack = PGD(neighbourhood=LInf(eps=0.2), steps=12, step_size=0.25, loss_fn=losses.margin)
    expected = np.clip(np.asarray(CLEAR) + np.float32(0.2) * np.sign(WEIGHTS), 0, 1)
    np.testing.assert_allclose(run(attack, linear, CLEAR, ZEROS).image, expected, atol=1e-7)


def test_the_first_restarts_of_many_are_those_of_few_and_more_never_help_the_model():
    target = jnp.argmax(wavy(CUT, None), axis=-1)
    previous = None
    for restarts in (1, 2, 5):
        attack = PGD(neighbourhood=LInf(eps=0.05), steps=2, step_size=0.3, restarts=restarts)
        result = run(attack, wavy, CUT, target)
        logits = wavy(result.image, None)
        loss, fooled = losses.cross_entropy(logits, target), jnp.argmax(logits, -1) != target
        if previous is not None:
            was_fooled, was_loss, was_image = previous
            assert bool((fooled >= was_fooled).all())
            assert bool(jnp.where(fooled == was_fooled, loss >= was_loss - 1e-5, True).all())
            # A row that no later restart bettered is the earlier run's, bit by bit.
            same = (fooled == was_fooled) & (jnp.abs(loss - was_loss) < 1e-6)
            np.testing.assert_array_equal(np.asarray(result.image)[same], np.asarray(was_image)[same])
        previous = fooled, loss, result.image
    assert bool(fooled.any())


def test_keep_worst_beats_every_iterate_and_the_start_counts():
    target = jnp.argmax(wavy(CUT, None), axis=-1)
    options = {"neighbourhood": LInf(eps=0.1), "step_size": 0.7, "start_fn": identity_start}
    worst = run(PGD(steps=4, **options), wavy, CUT, target)
    worst_logits = wavy(worst.image, None)
    worst_fooled = jnp.argmax(worst_logits, -1) != target
    for steps in (1, 2, 3, 4):
        last = run(PGD(steps=steps, keep_worst=False, **options), wavy, CUT, target)
        logits = wavy(last.image, None)
        fooled = jnp.argmax(logits, -1) != target
        np.testing.assert_array_equal(last.found, fooled)
        higher = losses.cross_entropy(worst_logits, target) >= losses.cross_entropy(logits, target) - 1e-5
        assert bool(((worst_fooled & ~fooled) | ((worst_fooled == fooled) & higher)).all())


def test_the_last_iterate_needs_one_forward_pass_less():
    def flops(keep_worst):
        attack = PGD(neighbourhood=LInf(eps=0.1), steps=1, keep_worst=keep_worst)
        weights = jnp.ones((12, 64))

        def image_only(images):
            score_fn = lambda x, ex: jnp.sin(x.reshape(5, 12) @ weights)  # noqa: E731
            return attack(KEYS, score_fn, Example(images, ZEROS)).image

        return jax.jit(image_only).lower(CUT).compile().cost_analysis()["flops"]

    assert flops(True) - flops(False) >= 2 * 5 * 12 * 64


def test_the_program_does_not_grow_with_steps_or_restarts():
    def size(**options):
        attack = PGD(neighbourhood=LInf(eps=0.1), **options)
        return len(jax.jit(lambda x: attack(KEYS, wavy, Example(x, ZEROS)).image).lower(CUT).as_text())

    assert abs(size(steps=500, restarts=90) - size(steps=20, restarts=10)) < 100


@pytest.mark.parametrize("start_fn", [uniform_start, near_start(0.01), identity_start])
def test_starts_are_inside(start_fn):
    ball, ex = L2(eps=0.1), Example(CUT[0], jnp.array(0))
    thetas = jax.jit(jax.vmap(lambda key: start_fn(key, ball, ex)))(jax.random.split(jax.random.key(0), 50))
    assert float(jax.vmap(lambda t: ball.distance(ex, t))(thetas).max()) <= 1 + 1e-6
    if start_fn is identity_start:
        assert not thetas.any()
    else:
        assert float(jnp.std(thetas, axis=0).max()) > 1e-3


def test_near_start_has_the_deviation_asked_for():
    ex = Example(jnp.full((20, 20, 1), 0.5), jnp.array(0))
    theta = near_start(0.001)(jax.random.key(0), LInf(eps=0.1), ex)
    assert float(theta.std()) == pytest.approx(0.001, rel=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps >= 1, got steps=0"),
        ({"steps": 2.5}, "integer steps"),
        ({"step_size": 0.0}, "step_size > 0, got step_size=0.0. It is in radii"),
        ({"restarts": 0}, "restarts >= 1"),
        ({"neighbourhood": LInf}, "Expected a neighbourhood"),
        ({"neighbourhood": 0.3}, "Expected a neighbourhood"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        PGD(**{"neighbourhood": LInf(eps=0.1), **options})
    with pytest.raises(ValueError, match="sigma"):
        near_start(-1.0)
