"""Auto-PGD against closed forms, against Alg. 1 in NumPy, and against PGD at equal cost."""

import functools
import itertools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import APGD, PGD, bpda, eot, identity_start
from jaxrobust.attacks.apgd import checkpoints
from jaxrobust.neighbourhoods import L1, L2, Compose, LInf, Masked, RotationTranslation
from jaxrobust.numerics import losses
from jaxrobust.types import Example

SHAPE = (4, 3, 1)
RNG = np.random.default_rng(0)
WEIGHTS = jnp.asarray(RNG.standard_normal(SHAPE), jnp.float32)
KEYS = jax.random.split(jax.random.key(0), 5)
CLEAR = jax.random.uniform(jax.random.key(1), (5, *SHAPE), minval=0.3, maxval=0.7)  # no pixel near 0 or 1
CUT = jnp.round(jax.random.uniform(jax.random.key(2), (5, *SHAPE)) * 4) / 4  # many pixels at 0 and 1
ZEROS = jnp.zeros(5, jnp.int32)


def linear(images, ex):
    """Two classes with the logit difference <w, x>."""
    score = (images * WEIGHTS).sum(axis=(1, 2, 3))
    return jnp.stack([-score / 2, score / 2], axis=-1)


DIRECTIONS = jnp.asarray(RNG.standard_normal((12, 5)), jnp.float32)


def five(images, ex):
    """Five linear classes."""
    return images.reshape(images.shape[0], -1) @ DIRECTIONS


def rough(images, ex):
    """Five classes, the first ahead by 2, with many local maxima."""
    waves = jnp.sin(9 * five(images, ex)) + jnp.cos(17 * five(images, ex))
    return waves + jnp.array([2.0, 0.0, 0.0, 0.0, 0.0])


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(attack, score_fn, images, target, keys=KEYS):
    return attack(keys, score_fn, Example(images, target))


def test_the_checkpoints_are_the_papers():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(50) == [11, 21, 29, 35, 40, 44, 47]  # 49.5 rounds up to 50, the end
    assert checkpoints(1) == []
    shares = [0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99]
    for steps in (7, 20, 33, 1000):
        assert checkpoints(steps) == sorted({math.ceil(round(p * steps, 9)) for p in shares} - {steps})


@pytest.mark.parametrize("loss_fn", [losses.cross_entropy, losses.margin, losses.dlr])
def test_it_reaches_the_optimum_in_l_inf(loss_fn):
    for images in (CLEAR, CUT):
        result = run(APGD(neighbourhood=LInf(eps=0.2), steps=10, loss_fn=loss_fn), linear, images, ZEROS)
        expected = np.clip(np.asarray(images) + np.float32(0.2) * np.sign(WEIGHTS), 0, 1)
        np.testing.assert_allclose(result.image, expected, atol=1e-7)


@pytest.mark.parametrize("loss_fn", [losses.cross_entropy, losses.margin, losses.dlr])
def test_it_reaches_the_optimum_in_l2(loss_fn):
    result = run(APGD(neighbourhood=L2(eps=0.25), steps=50, loss_fn=loss_fn), linear, CLEAR, ZEROS)
    expected = CLEAR + 0.25 * WEIGHTS / jnp.linalg.norm(WEIGHTS)
    np.testing.assert_allclose(result.image, expected, atol=1e-4)
    np.testing.assert_allclose(result.distance, 1.0, atol=1e-5)


# Quadratics, from round ones to narrow valleys: steps must be halved, at other times for other rows.
CURVATURE = np.stack([np.geomspace(0.3, 3 * 10.0**i, 12) for i in range(-1, 4)])
CENTRES = np.asarray(CLEAR, np.float64).reshape(5, 12) + RNG.uniform(-0.05, 0.05, (5, 12))


def numpy_apgd(x0, curvature, centre, eps, steps, rho, l2):
    """Alg. 1 of arXiv:2003.01690 on f(x) = -sum c_i (x_i - m_i)^2, without a box: best f, halvings."""

    def f(x):
        return -(curvature * (x - centre) ** 2).sum()

    def gradient(x):
        return -2 * curvature * (x - centre)

    def ascent(g):
        return eps * (g / np.linalg.norm(g) if l2 else np.sign(g))

    def project(x):
        offset = x - x0
        if not l2:
            return x0 + np.clip(offset, -eps, eps)
        return x0 + offset * min(1, eps / max(np.linalg.norm(offset), 1e-300))

    eta = 2.0
    x, before, best, best_value = x0, x0, x0, f(x0)
    last_mark, last_best, last_eta, rises, halvings = 0, f(x0), eta, 0, []
    for k in range(steps):
        if k in checkpoints(steps):
            too_few = rises <= rho * (k - last_mark)
            same = last_eta == eta and last_best == best_value
            last_mark, last_best, last_eta, rises = k, best_value, eta, 0
            if too_few or same:
                eta, x = eta / 2, best
                halvings.append(k)
        alpha = 0.75 if k else 1.0
        z = project(x + eta * ascent(gradient(x)))
        x, before, here = project(x + alpha * (z - x) + (1 - alpha) * (x - before)), x, f(x)
        rises += f(x) > here
        if f(x) > best_value:
            best, best_value = x, f(x)
    return best_value, halvings


@pytest.mark.parametrize("l2", [False, True], ids=["linf", "l2"])
@pytest.mark.parametrize("steps", [30, 100])
def test_it_is_algorithm_1(l2, steps):
    """In float64 the best value, and with it every halving, is that of Alg. 1 written down in NumPy."""
    with jax.enable_x64(True):
        curvature, centres = jnp.asarray(CURVATURE), jnp.asarray(CENTRES)

        def score(images, ex):
            value = -(curvature * (images.reshape(-1, 12) - ex.reference) ** 2).sum(axis=-1)
            return jnp.stack([-value, 0 * value], axis=-1)

        ball = (L2 if l2 else LInf)(eps=0.1)
        attack = APGD(neighbourhood=ball, steps=steps, loss_fn=_second_less_first, start_fn=identity_start)
        example = Example(jnp.asarray(CLEAR, jnp.float64), ZEROS, reference=centres)
        result = jax.jit(lambda ex: attack(KEYS, score, ex))(example)
        found = np.asarray(score(result.image, example)[:, 0])
    starts = np.asarray(CLEAR, np.float64).reshape(5, 12)
    expected = [
        numpy_apgd(*row, eps=0.1, steps=steps, rho=0.75, l2=l2) for row in zip(starts, CURVATURE, CENTRES)
    ]
    np.testing.assert_allclose(-found, [value for value, _ in expected], rtol=1e-4, atol=1e-9)
    assert all(halvings for _, halvings in expected)
    # Sign steps overshoot at every checkpoint of all rows; in l_2 the rows have schedules of their own.
    assert not l2 or len({tuple(halvings) for _, halvings in expected}) > 1


def _second_less_first(logits, target):
    """f of `test_it_is_algorithm_1`: the second logit is 0."""
    return logits[:, 1] - logits[:, 0]


def test_restarts_begin_with_those_of_fewer_and_leave_fooled_rows_alone():
    attack = APGD(neighbourhood=LInf(eps=0.06), steps=2)
    results = [run(replace(attack, restarts=n), rough, CUT, ZEROS) for n in (1, 2, 20)]
    for fewer, more in itertools.pairwise(results):
        assert bool((more.found >= fewer.found).all())
        np.testing.assert_array_equal(more.image[fewer.found], fewer.image[fewer.found])
    assert results[-1].found.sum() > results[0].found.sum() > 0


def test_restarts_end_when_every_row_is_fooled():
    calls = []

    def counted(images, ex):
        jax.debug.callback(lambda: calls.append(1))
        return linear(images, ex)

    wrong = jnp.argmin(linear(CLEAR, None), axis=-1)
    attack = APGD(neighbourhood=LInf(eps=0.01), steps=3, restarts=50)
    result = jax.block_until_ready(run(attack, counted, CLEAR, wrong))
    jax.effects_barrier()
    assert result.found.all()
    assert len(calls) == 4  # one climb: three gradients and the last point


def test_the_targeted_form_goes_through_the_likely_classes():
    grey, target = jnp.full((5, *SHAPE), 0.5), ZEROS
    attack = APGD(neighbourhood=LInf(eps=0.1), steps=5, start_fn=identity_start)
    assert not run(replace(attack, num_targets=1), lower_first, grey, target).found.any()
    for num in (2, 3, 100):  # more than there are is all
        assert run(replace(attack, num_targets=num), lower_first, grey, target).found.all()


def lower_first(images, ex):
    """Class 1 is likeliest beside 0, but only class 2, in the opposite direction, can be reached."""
    rise = images.mean(axis=(1, 2, 3)) - 0.5
    return jnp.stack([0 * rise, -0.5 - rise, -1 + 11 * rise, -9 - rise], axis=-1)


@pytest.mark.parametrize("num_targets", [0, 2])
def test_it_leads_to_a_designated_class(num_targets):
    designated = (jnp.argmax(five(CLEAR, None), axis=-1) + 1) % 5
    attack = APGD(neighbourhood=LInf(eps=0.6), steps=20, targeted=True, num_targets=num_targets)
    result = run(attack, five, CLEAR, designated)
    assert result.found.all()
    np.testing.assert_array_equal(jnp.argmax(five(result.image, None), axis=-1), designated)


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_fall_back_to_the_margin(classes):
    def few(images, ex):
        return five(images, ex)[:, :classes]

    target = jnp.argmax(few(CLEAR, None), axis=-1)
    for options in ({"loss_fn": losses.dlr}, {"num_targets": 9}):
        assert run(APGD(neighbourhood=LInf(eps=0.5), steps=10, **options), few, CLEAR, target).found.all()


MASK = jnp.broadcast_to(jnp.ones((4, 3, 1)).at[0].set(0.0), (5, *SHAPE))


@pytest.mark.parametrize(
    "neighbourhood",
    [
        pytest.param(L1(eps=1.0), marks=pytest.mark.slow),
        Masked(neighbourhood=L2(eps=0.4)),
        Compose(parts=(LInf(eps=0.1), RotationTranslation(max_angle=20.0, max_shift=0.5))),
    ],
    ids=["l1", "masked", "composite"],
)
def test_it_climbs_in_any_neighbourhood(neighbourhood):
    """It is at least as strong as PGD at as many gradients."""
    example = Example(CLEAR, jnp.argmax(five(CLEAR, None), axis=-1), mask=MASK)

    @jax.jit
    def both(example):
        attacks = (
            APGD(neighbourhood=neighbourhood, steps=40, loss_fn=losses.margin),
            PGD(neighbourhood=neighbourhood, steps=40, step_size=0.1, loss_fn=losses.margin),
        )
        return [attack(KEYS, five, example) for attack in attacks]

    auto, fixed = both(example)
    assert auto.distance.max() <= 1 + 1e-5
    margins = [losses.margin(five(result.image, None), example.target) for result in (auto, fixed)]
    assert float(margins[0].mean()) >= float(margins[1].mean()) - 0.02
    assert float((margins[0] - losses.margin(five(CLEAR, None), example.target)).min()) > 0
    if isinstance(neighbourhood, Masked):
        np.testing.assert_array_equal(auto.image[:, 0], CLEAR[:, 0])


def test_gradients_may_come_from_elsewhere():
    def rounded(images, ex):
        return linear(jnp.round(images * 4) / 4, ex)

    def brighter(key, image):
        return image + 0.01 * jax.random.normal(key, image.shape)

    target = jnp.argmax(rounded(CLEAR, None), axis=-1)
    plain = APGD(neighbourhood=LInf(eps=0.3), steps=6, start_fn=identity_start)
    assert not run(plain, rounded, CLEAR, target).found.any()
    for gradient_fn in (bpda(linear), eot(2, brighter, bpda(linear))):
        assert run(replace(plain, gradient_fn=gradient_fn), rounded, CLEAR, target).found.any()


@functools.cache
def digits_net():
    """A perceptron on 8 x 8 digits, trained, with test images that it mostly has right."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = jnp.asarray(found.images[..., None] / 16, jnp.float32)
    labels = jnp.asarray(found.target, jnp.int32)
    first, second = jax.random.split(jax.random.key(0))
    params = (jax.random.normal(first, (64, 48)) / 8, jax.random.normal(second, (48, 10)) / 7)

    def loss(params, images, labels):
        return losses.cross_entropy(digits_score(params, images), labels).mean()

    def step(i, params):
        rows = jax.random.randint(jax.random.fold_in(first, i), (128,), 0, 1500)
        grads = jax.grad(loss)(params, images[rows], labels[rows])
        return jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)

    params = jax.jit(lambda params: jax.lax.fori_loop(0, 800, step, params))(params)
    return params, images[1500:1700], labels[1500:1700]


def digits_score(params, images):
    return jax.nn.relu(images.reshape(-1, 64) @ params[0]) @ params[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ball", "step_size"), [(LInf(eps=0.06), 0.1), (L2(eps=0.35), 0.1)], ids=["linf", "l2"]
)
def test_it_is_at_least_as_strong_as_pgd_at_equal_gradients(ball, step_size):
    params, images, labels = digits_net()
    keys = jax.random.split(jax.random.key(5), len(labels))
    assert float((jnp.argmax(digits_score(params, images), -1) == labels).mean()) > 0.9

    @jax.jit
    def judged(images):
        attacks = (
            PGD(neighbourhood=ball, steps=40, step_size=step_size),
            APGD(neighbourhood=ball, steps=40),
            APGD(neighbourhood=ball, steps=40, loss_fn=losses.dlr),
            APGD(neighbourhood=ball, steps=40, num_targets=4),
        )
        score = lambda x, ex: digits_score(params, x)  # noqa: E731
        return [attack(keys, score, Example(images, labels)) for attack in attacks]

    fixed, *auto = judged(images)
    assert 0.2 < float(fixed.found.mean()) < 0.9
    value = [losses.cross_entropy(digits_score(params, r.image), labels).mean() for r in (fixed, auto[0])]
    assert float(value[1]) >= float(value[0]) - 1e-3
    for result in auto:
        assert int(result.found.sum()) >= int(fixed.found.sum())
        assert float(result.distance.max()) <= 1 + 1e-5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps >= 1, got steps=0"),
        ({"restarts": 0}, "restarts >= 1"),
        ({"rho": 1.5}, "rho <= 1.0, got rho=1.5"),
        ({"num_targets": -1}, "num_targets >= 0"),
        ({"neighbourhood": 0.3}, "Expected a neighbourhood"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        APGD(**{"neighbourhood": LInf(eps=0.1), **options})
