"""FAB against true distances on linear models, against NumPy, on real digits, and what it promises by row."""

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog
from sklearn.neural_network import MLPClassifier

from jaxrobust.attacks import DDN, FAB, bpda, exact_gradient
from jaxrobust.attacks._nearest import none_yet
from jaxrobust.data import load
from jaxrobust.neighbourhoods import L0, L1, L2, LInf, Masked, RotationTranslation
from jaxrobust.types import Example
from tests.attacks.linear_truth import to_leave, to_reach

RNG = np.random.default_rng(3)
SHAPE, ROWS, CLASSES = (4, 3, 1), 4, 4
WEIGHTS = RNG.standard_normal((CLASSES, 12)).astype(np.float32)
BIAS = np.float32([0.3, -0.2, 0.1, 0.0])
CLEAR = RNG.uniform(0.3, 0.7, (ROWS, *SHAPE)).astype(np.float32)
CORNERS = RNG.integers(0, 2, (ROWS, *SHAPE)).astype(np.float32)  # every pixel exactly 0 or 1
KEYS = jax.random.split(jax.random.key(0), ROWS)
BALLS = {1: L1(eps=1.0), 2: L2(eps=0.5), math.inf: LInf(eps=0.2)}
NORMS = pytest.mark.parametrize("norm", [1, 2, math.inf])


def linear(images, ex):
    return images.reshape(len(images), -1) @ WEIGHTS.T + BIAS


def predicted(images):
    return np.asarray(linear(images, None)).argmax(axis=-1).astype(np.int32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(attack, score_fn, images, target, keys=KEYS, mask=None):
    return attack(keys, score_fn, Example(images, target, mask=mask))


def lengths(result, images, norm=2):
    return np.linalg.norm((np.asarray(result.image) - images).reshape(len(images), -1), norm, axis=1)


def by_linprog(image, rows, gaps, norm):
    """min ||d||_p for p = 1 or inf, d = a - b, subject to rows @ d >= gaps and 0 <= x + d <= 1."""
    rows, flat = np.atleast_2d(rows).astype(float), np.ravel(image).astype(float)
    size, signed = flat.size, np.hstack([rows, -rows])
    bounds = [(0, 1 - v) for v in flat] + [(0, v) for v in flat]
    if norm == 1:
        found = linprog(np.ones(2 * size), A_ub=-signed, b_ub=-np.atleast_1d(gaps), bounds=bounds)
    else:
        below = np.hstack([np.eye(2 * size), -np.ones((2 * size, 1))])
        above = np.hstack([-signed, np.zeros((len(rows), 1))])
        found = linprog(
            [*np.zeros(2 * size), 1],
            A_ub=np.vstack([below, above]),
            b_ub=np.concatenate([np.zeros(2 * size), -np.atleast_1d(gaps)]),
            bounds=[*bounds, (0, None)],
        )
    return found.fun if found.status == 0 else math.inf


def distance_to_leave(image, label, norm):
    if norm == 2:
        return to_leave(image, WEIGHTS, BIAS, label)
    logits = WEIGHTS @ np.ravel(image) + BIAS
    others = [j for j in range(CLASSES) if j != label]
    return min(
        by_linprog(image, WEIGHTS[j] - WEIGHTS[label], logits[label] - logits[j], norm) for j in others
    )


def distance_to_reach(image, target, norm):
    if norm == 2:
        return to_reach(image, WEIGHTS, BIAS, target)
    logits = WEIGHTS @ np.ravel(image) + BIAS
    others = [j for j in range(CLASSES) if j != target]
    return by_linprog(image, WEIGHTS[target] - WEIGHTS[others], logits[others] - logits[target], norm)


@NORMS
@pytest.mark.parametrize("images", [CLEAR, CORNERS], ids=["clear", "corners"])
def test_it_reaches_the_true_distance(images, norm):
    """Also from pixels of exactly 0 and 1, half of which cannot move along the gradient."""
    label = predicted(images)
    truth = np.array([distance_to_leave(image, each, norm) for image, each in zip(images, label)])
    assert np.isfinite(truth).all()
    # All classes at once, the nearest chosen by its unbounded plane; and every class in turn.
    for num_targets in (0, 9):
        attack = FAB(neighbourhood=BALLS[norm], steps=30, num_targets=num_targets)
        result = run(attack, linear, images, label)
        assert result.found.all()
        assert (predicted(result.image) != label).all()
        np.testing.assert_allclose(lengths(result, images, norm), truth, rtol=0.01)
        np.testing.assert_allclose(result.distance * attack.neighbourhood.eps, truth, rtol=0.01)


@NORMS
def test_two_classes_have_one_boundary_in_closed_form(norm):
    weight = np.float32([2, -1, 1, 0.5, 1, -1, 1.5, 1, -0.5, 1, 1, -2])

    def binary(images, ex):
        score = images.reshape(len(images), -1) @ weight - offset
        return jnp.stack([score, -score], axis=-1)

    offset = np.float32(np.median(CLEAR.reshape(ROWS, -1) @ weight) + 0.02)
    label = np.asarray(binary(CLEAR, None)).argmax(-1).astype(np.int32)
    score = np.abs(CLEAR.reshape(ROWS, -1) @ weight - offset)
    images, label, score = CLEAR[score < 0.4], label[score < 0.4], score[score < 0.4]
    assert len(images) >= 2
    dual = {1: np.abs(weight).max(), 2: np.linalg.norm(weight), math.inf: np.abs(weight).sum()}[norm]
    result = run(FAB(neighbourhood=BALLS[norm], steps=10), binary, images, label, KEYS[: len(images)])
    assert result.found.all()
    np.testing.assert_allclose(lengths(result, images, norm), score / dual, rtol=0.01)


@NORMS
def test_a_designated_class_is_reached_at_the_true_distance(norm):
    target = (predicted(CLEAR) + 2) % CLASSES
    truth = np.array([distance_to_reach(image, each, norm) for image, each in zip(CLEAR, target)])
    result = run(FAB(neighbourhood=BALLS[norm], steps=200, targeted=True), linear, CLEAR, target)
    assert result.found[np.isfinite(truth)].all()
    assert (predicted(result.image)[np.asarray(result.found)] == target[np.asarray(result.found)]).all()
    np.testing.assert_allclose(lengths(result, CLEAR, norm), truth, rtol=0.02)


def test_only_the_region_changes_and_the_distance_is_the_true_one_there():
    mask = np.ones((ROWS, 4, 3, 1), np.float32)
    mask[:, :2] = 0
    label = predicted(CLEAR)
    attack = FAB(neighbourhood=Masked(neighbourhood=LInf(eps=0.2)), steps=30)
    result = run(attack, linear, CLEAR, label, mask=mask)
    np.testing.assert_array_equal(np.asarray(result.image)[:, :2], CLEAR[:, :2])
    for i in range(ROWS):
        inside, own = mask[i].ravel() > 0, label[i]
        logits = WEIGHTS @ CLEAR[i].ravel() + BIAS
        truth = min(
            by_linprog(
                CLEAR[i].ravel()[inside], (WEIGHTS[j] - WEIGHTS[own])[inside], logits[own] - z, math.inf
            )
            for j, z in enumerate(logits)
            if j != own
        )
        assert bool(result.found[i]) == np.isfinite(truth)
        if np.isfinite(truth):
            assert lengths(result, CLEAR, math.inf)[i] == pytest.approx(truth, rel=0.01)


def sorted_projection(weight, gap, x, norm):
    """The way to the plane in the box, by sorting the breakpoints; NumPy."""
    sign = -np.sign(gap) * np.sign(weight)
    room = np.where(sign > 0, 1 - x, np.where(sign < 0, x, 0.0))
    slope = np.abs(weight)
    speed = slope if norm == 2 else np.ones_like(slope)
    breaks = np.where(slope > 0, room / np.where(speed > 0, speed, 1), 0.0)

    def progress(t):
        return (slope * np.minimum(t * speed, room)).sum()

    if progress(breaks.max()) <= abs(gap):
        return sign * room
    ordered = np.sort(breaks)
    at = next(i for i, t in enumerate(ordered) if progress(t) >= abs(gap))
    low = ordered[at - 1] if at else 0.0
    part = (abs(gap) - progress(low)) / (progress(ordered[at]) - progress(low))
    return sign * np.minimum((low + part * (ordered[at] - low)) * speed, room)


def numpy_fab(logits_fn, jacobian_fn, x, label, norm, steps):
    """Alg. 1 of arXiv:1907.02044 on one image, without the last search: the norm found."""
    dual = 2 if norm == 2 else 1
    point, best = x.copy(), math.inf
    for _ in range(steps):
        logits, jacobian = logits_fn(point), jacobian_fn(point)
        gaps, normals = logits - logits[label], jacobian - jacobian[label]
        distances = np.abs(gaps) / np.maximum([np.linalg.norm(w, dual) for w in normals], 1e-30)
        distances[label] = math.inf
        s = distances.argmin()
        here = sorted_projection(normals[s], gaps[s], point, norm)
        clean = sorted_projection(normals[s], gaps[s] + normals[s] @ (x - point), x, norm)
        a, b = np.linalg.norm(here, norm), np.linalg.norm(clean, norm)
        alpha = min(a / (a + b), 0.1)
        point = np.clip((1 - alpha) * (point + 1.05 * here) + alpha * (x + 1.05 * clean), 0, 1)
        if logits_fn(point).argmax() != label:
            best = min(best, np.linalg.norm(point - x, norm))
            point = x + 0.9 * (point - x)
    return best


@pytest.mark.parametrize("norm", [2, math.inf])
def test_it_follows_the_paper_as_written_in_numpy(norm):
    first = RNG.standard_normal((12, 16)) * 0.8
    second = RNG.standard_normal((16, CLASSES))

    def net(images, ex):
        return jnp.tanh(images.reshape(len(images), -1) @ first.astype(np.float32)) @ second.astype(
            np.float32
        )

    def logits_fn(x):
        return np.tanh(x @ first) @ second

    def jacobian_fn(x):
        return (first * (1 - np.tanh(x @ first) ** 2)) @ second  # [12, k], hence transposed below

    label = np.asarray(net(CLEAR, None)).argmax(-1).astype(np.int32)
    expected = [
        numpy_fab(logits_fn, lambda x: jacobian_fn(x).T, image.ravel().astype(float), each, norm, 15)
        for image, each in zip(CLEAR, label)
    ]
    result = run(FAB(neighbourhood=BALLS[norm], steps=15), net, CLEAR, label)
    found = lengths(result, CLEAR, norm)
    # It also knows the points on its way and searches at the end, so it may only be nearer.
    assert (found <= np.array(expected) * 1.001).all()
    assert (found >= np.array(expected) * 0.97).all()


@functools.cache
def digits():
    """Twelve test digits and a small net that knows digits, its weights as float32."""
    train, test = load("digits").train, load("digits").test
    flat = np.asarray(train.images, np.float32).reshape(len(train.labels), -1) / 255
    fitted = MLPClassifier((24,), max_iter=60, random_state=0, tol=1e-2, n_iter_no_change=3).fit(
        flat, train.labels
    )
    weights = tuple(np.float32(a) for pair in zip(fitted.coefs_, fitted.intercepts_) for a in pair)

    def net(images, ex):
        hidden = jax.nn.relu(images.reshape(len(images), -1) @ weights[0] + weights[1])
        return hidden @ weights[2] + weights[3]

    images = np.asarray(test.images[:24], np.float32) / 255
    labels = np.asarray(net(images, None)).argmax(-1).astype(np.int32)
    return net, images, labels, jax.random.split(jax.random.key(1), 24)


def test_on_digits_it_is_as_near_as_ddn_and_all_targets_are_as_near_as_the_nearest():
    net, images, labels, keys = digits()
    ddn = run(DDN(neighbourhood=L2(eps=0.5), steps=100, levels=None), net, images, labels, keys)
    fab = run(FAB(neighbourhood=L2(eps=0.5), steps=50), net, images, labels, keys)
    in_turn = run(FAB(neighbourhood=L2(eps=0.5), steps=50, num_targets=9), net, images, labels, keys)
    assert fab.found.all() and ddn.found.all() and in_turn.found.all()
    assert lengths(fab, images).mean() <= 1.01 * lengths(ddn, images).mean()
    assert np.median(lengths(fab, images)) <= 1.01 * np.median(lengths(ddn, images))
    assert lengths(in_turn, images).mean() <= 1.01 * lengths(fab, images).mean()


def test_classes_at_once_and_the_form_of_the_gradient_change_nothing():
    net, images, labels, keys = digits()
    attack = FAB(neighbourhood=LInf(eps=0.1), steps=5)
    expected = run(attack, net, images, labels, keys).image
    for chunk in (4, 100):
        found = run(replace(attack, chunk=chunk), net, images, labels, keys).image
        np.testing.assert_allclose(found, expected, atol=1e-4)

    def one_loss_at_a_time(*arguments):
        return exact_gradient(*arguments)

    found = run(replace(attack, gradient_fn=one_loss_at_a_time), net, images, labels, keys).image
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_surrogate_sees_through_rounded_pixels():
    def rounding(images, ex):
        return linear(jnp.round(images * 31) / 31, ex)

    label = np.asarray(rounding(CLEAR, None)).argmax(-1).astype(np.int32)
    blind = run(FAB(neighbourhood=LInf(eps=0.2), steps=20), rounding, CLEAR, label)
    seeing = run(FAB(neighbourhood=LInf(eps=0.2), steps=20, gradient_fn=bpda(linear)), rounding, CLEAR, label)
    assert not blind.found.any()
    assert seeing.found.all()
    truth = [distance_to_leave(image, each, math.inf) for image, each in zip(CLEAR, label)]
    assert (np.abs(lengths(seeing, CLEAR, math.inf) - truth) < 1.5 / 31).all()


def test_an_image_that_is_wrong_from_the_start_is_its_own_nearest():
    label = predicted(CLEAR)
    wrong = np.where(np.arange(ROWS) % 2, label, (label + 1) % CLASSES).astype(np.int32)
    result = run(FAB(neighbourhood=L2(eps=0.5), steps=30), linear, CLEAR, wrong)
    assert result.found.all()
    np.testing.assert_array_equal(result.distance[::2], 0.0)
    np.testing.assert_array_equal(np.asarray(result.image)[::2], CLEAR[::2])
    assert (result.distance[1::2] > 0).all()


def test_a_row_on_the_boundary_does_not_stand_still():
    """All logits equal: the first class is predicted, the plane is at distance 0; still there is a way."""

    def tied(images, ex):
        score = images.reshape(len(images), -1).sum(-1) - 6.0
        return jnp.stack([1.0 + 0 * score, 1.0 + score], axis=-1)

    images = np.full((ROWS, *SHAPE), 0.5, np.float32)
    result = run(FAB(neighbourhood=L2(eps=0.5), steps=3), tied, images, np.zeros(ROWS, np.int32))
    assert result.found.all()
    assert float(result.distance.max()) < 1e-3


def test_masked_classes_are_nowhere():
    """A class with the logit -inf neither attracts nor disturbs: as if there were three."""

    def without_the_last(images, ex):
        return linear(images, ex).at[:, 3].set(-jnp.inf)

    def three(images, ex):
        return linear(images, ex)[:, :3]

    label = np.asarray(three(CLEAR, None)).argmax(-1).astype(np.int32)
    attack = FAB(neighbourhood=LInf(eps=0.2), steps=10)
    plain = run(attack, three, CLEAR, label)
    for each in (attack, replace(attack, num_targets=9)):
        masked = run(each, without_the_last, CLEAR, label)
        assert masked.found.all()
        assert not masked.nonfinite.any()
        np.testing.assert_allclose(
            lengths(masked, CLEAR, math.inf), lengths(plain, CLEAR, math.inf), rtol=1e-3
        )


def test_a_constant_model_and_one_row_of_nan_fail_cleanly():
    def constant(images, ex):
        return jnp.stack([1 + 0 * images.sum(axis=(1, 2, 3)), 0 * images.sum(axis=(1, 2, 3))], axis=-1)

    attack = FAB(neighbourhood=L2(eps=0.5), steps=3, restarts=2)
    result = run(attack, constant, CLEAR, np.zeros(ROWS, np.int32))
    assert not result.found.any()
    np.testing.assert_array_equal(result.image, CLEAR)
    np.testing.assert_array_equal(result.distance, 0.0)
    label, broken = predicted(CLEAR), CLEAR.copy()
    broken[1] = np.nan
    result, plain = run(attack, linear, broken, label), run(attack, linear, CLEAR, label)
    np.testing.assert_array_equal(result.found, [True, False, True, True])
    np.testing.assert_array_equal(result.nonfinite, [False, True, False, False])
    np.testing.assert_allclose(
        result.distance[np.array([0, 2, 3])], plain.distance[np.array([0, 2, 3])], rtol=1e-5
    )


def test_restarts_begin_within_half_of_what_was_found_and_half_of_eps():
    attack, label = FAB(neighbourhood=L2(eps=0.5), restarts=2), predicted(CLEAR)
    ex = Example(jnp.asarray(CLEAR), jnp.asarray(label))
    nearest = none_yet(ex)._replace(length=jnp.array([0.02, 0.4, 7.0, jnp.inf]))
    starts = attack._random_starts(KEYS, ex, nearest)
    moved = np.linalg.norm((np.asarray(starts) - CLEAR).reshape(ROWS, -1), axis=1)
    assert (moved <= np.array([0.01, 0.2, 0.25, 0.25]) * (1 + 1e-5)).all()
    assert (moved > 0).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": 0}, "steps >= 1"),
        ({"restarts": 0}, "restarts >= 1"),
        ({"num_targets": -1}, "num_targets >= 0"),
        ({"alpha_max": 1.5}, "alpha_max <= 1"),
        ({"eta": 0.9}, "1.0 <= eta"),
        ({"beta": 0.0}, "beta > 0"),
        ({"chunk": 0}, "chunk >= 1"),
        ({"neighbourhood": Masked(neighbourhood=L2(eps=0.5)), "steps": 1.5}, "an integer steps"),
    ],
)
def test_what_is_out_of_range_is_refused(options, match):
    with pytest.raises(ValueError, match=match):
        FAB(**{"neighbourhood": L2(eps=0.5), **options})


def test_a_set_that_is_no_such_ball_is_refused():
    for other in (L0(eps=3), RotationTranslation(max_angle=3.0, max_shift=1.0), L2):
        with pytest.raises(ValueError, match="Expected a"):
            FAB(neighbourhood=other)
