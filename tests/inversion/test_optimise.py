"""Inversion by optimisation: where the answer is known, the prior by hand, rows, restarts, MIFace."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import Partial

from jaxrobust.inversion import (
    TVInversion,
    chosen_method,
    invert,
    one_minus_confidence,
    one_minus_cosine,
    relative_squares,
    total_variation,
)
from jaxrobust.numerics.fidelity import ssim

SHAPE = (16, 14, 1)
KEY = jax.random.key(0)


def pictures(b=5, seed=0):
    """Smooth pictures, no two alike."""
    rng = np.random.default_rng(seed)
    rows, columns = np.arange(SHAPE[0])[:, None], np.arange(SHAPE[1])
    phases = rng.uniform(0, 6, (b, 2, 1, 1))
    waves = np.sin(rows / 3 + phases[:, 0]) * np.cos(columns / 4 + phases[:, 1])
    return (0.5 + 0.4 * waves)[..., None].astype(np.float32)


GREY = np.full(SHAPE, 0.5, np.float32)
METHOD = TVInversion(steps=80, total_variation=1e-3)


def linear(kernel, images):
    return images.reshape(images.shape[0], -1) @ kernel


def orthonormal(d, seed=1):
    square = np.random.default_rng(seed).normal(size=(SHAPE[0] * SHAPE[1], d))
    return np.linalg.qr(square)[0].astype(np.float32)


def identity(images):
    return images.reshape(images.shape[0], -1)


def test_an_embedding_that_is_the_image_gives_the_image():
    images = pictures()
    found = invert(METHOD, identity, identity(images), start=GREY, key=KEY, chunk=10)
    assert ssim(found.image, images).min() > 0.95
    assert found.distance.max() < 1e-3


def test_a_linear_embedding_gives_its_projection_and_nothing_of_the_rest():
    """Without prior and noise the descent stays in the span of the rows: the image of least change."""
    images, kernel = pictures(), orthonormal(40)
    method = TVInversion(
        steps=60, learning_rate=0.4, total_variation=0.0, restarts=1, noise=0.0, optimizer_fn=optax.sgd
    )
    features_fn = Partial(linear, kernel)
    # The loss is divided by the target's length, the step is multiplied by about as much.
    target = np.asarray(features_fn(images))
    method = dataclasses.replace(method, learning_rate=float(0.45 * (target**2).sum(1).min()), decay=False)
    found = invert(method, features_fn, target, start=GREY, key=KEY, chunk=5)
    middle = GREY.reshape(1, -1)
    expected = middle + (images.reshape(5, -1) - middle) @ kernel @ kernel.T
    inside = (expected.min(axis=1) > 0) & (expected.max(axis=1) < 1)
    assert inside.sum() >= 3
    np.testing.assert_allclose(found.image.reshape(5, -1)[inside], expected[inside], atol=2e-3)


def test_a_row_alone_is_that_row_among_others():
    images, features_fn = pictures(3), Partial(linear, orthonormal(20))
    target = np.asarray(features_fn(images))
    method = TVInversion(steps=20, restarts=3)
    together = invert(method, features_fn, target, start=GREY, key=KEY, chunk=4)
    alone = invert(method, features_fn, target[:1], start=GREY, key=KEY, chunk=4)
    np.testing.assert_allclose(alone.image[0], together.image[0], atol=1e-5)
    wider = invert(method, features_fn, target, start=GREY, key=KEY, chunk=9)
    np.testing.assert_allclose(wider.image, together.image, atol=1e-4)


def test_rows_and_restarts_start_at_places_of_their_own():
    features_fn = Partial(linear, orthonormal(20))
    target = np.repeat(np.asarray(features_fn(pictures(1))), 3, axis=0)
    method = TVInversion(steps=1, restarts=1, learning_rate=1e-6, noise=0.2)
    found = invert(method, features_fn, target, start=GREY, key=KEY, chunk=3).image.reshape(3, -1)
    away = found - 0.5
    assert 0.15 < np.abs(away).max() < 0.2001 and np.abs(np.corrcoef(away) - np.eye(3)).max() < 0.3
    again = invert(dataclasses.replace(method, restarts=4), features_fn, target, start=GREY, key=KEY, chunk=3)
    # Row i's first restart is the one that it has alone; the nearest of four is mostly another.
    assert (np.abs(again.image.reshape(3, -1) - found).max(axis=1) > 0.05).any()


def test_the_best_restart_is_the_one_of_the_smallest_distance():
    images, features_fn = pictures(4), Partial(linear, orthonormal(20))
    target = np.asarray(features_fn(images))
    method = TVInversion(steps=5, restarts=4, noise=0.3)
    found = invert(method, features_fn, target, start=GREY, key=KEY, chunk=16)
    np.testing.assert_allclose(found.distance, relative_squares(features_fn(found.image), target), rtol=1e-4)
    fewer = invert(
        dataclasses.replace(method, restarts=2), features_fn, target, start=GREY, key=KEY, chunk=16
    )
    assert (found.distance <= fewer.distance * (1 + 1e-4)).all() and (found.distance < fewer.distance).any()


def test_the_prior_smooths_what_the_features_leave_open():
    images, features_fn = pictures(2), Partial(linear, orthonormal(10))
    target = np.asarray(features_fn(images))
    rough, smooth = (
        invert(dataclasses.replace(METHOD, total_variation=weight), features_fn, target, start=GREY, key=KEY)
        for weight in (0.0, 0.1)
    )
    assert (total_variation(smooth.image) < 0.7 * total_variation(rough.image)).all()
    assert (smooth.distance < 1e-3).all()


def test_other_targets_starts_and_weights_compile_nothing():
    traced = []

    def counted(kernel, images):
        traced.append(1)
        return linear(kernel, images)

    method = TVInversion(steps=2, restarts=2)
    compiled = 0
    for seed, rows in enumerate((3, 1, 5)):
        features_fn = Partial(counted, orthonormal(6, seed))
        target = np.asarray(linear(orthonormal(6, seed), pictures(rows)))
        traced.clear()
        invert(method, features_fn, target, start=GREY * seed / 2, key=jax.random.key(seed), chunk=4)
        compiled = compiled or len(traced)
        # One look at the shapes alone.
        assert len(traced) == (compiled if seed == 0 else 1)
    assert compiled > 1


def test_the_less_is_seen_the_more_prior_is_chosen():
    methods = [TVInversion(steps=60, restarts=1, total_variation=weight) for weight in (1e-4, 1.0)]
    options = {"start": GREY, "key": KEY, "chunk": 5}
    everything, scores = chosen_method(methods, identity, pictures(), **options)
    assert everything is methods[0] and scores[0] > 0.95 and len(scores) == 2
    little, _ = chosen_method(methods, Partial(linear, orthonormal(8)), pictures(), **options)
    assert little is methods[1]
    with pytest.raises(ValueError, match="at least one method"):
        chosen_method([], identity, pictures(), **options)


def test_total_variation_by_hand():
    image = np.zeros((1, 3, 3, 1), np.float32)
    image[0, 1, 1] = 1
    # One pixel differs from its two neighbours before it, and by both differences at itself.
    np.testing.assert_allclose(total_variation(jnp.asarray(image))[0], (2 + np.sqrt(2)) / 9, atol=1e-4)
    slope = jax.grad(lambda x: total_variation(x).sum())(jnp.full((1, 4, 4, 1), 0.3))
    np.testing.assert_array_equal(slope, 0)


def test_miface_is_a_configuration():
    """Plain descent on 1 - p_y, as Fredrikson et al. have it; here by hand on a linear softmax."""
    kernel = orthonormal(3)
    method = TVInversion(
        steps=7,
        learning_rate=0.5,
        total_variation=0.0,
        restarts=1,
        noise=0.0,
        decay=False,
        distance_fn=one_minus_confidence,
        optimizer_fn=optax.sgd,
    )
    classes = np.array([0, 1, 2, 1])
    found = invert(method, Partial(linear, kernel), classes, start=GREY, key=KEY, chunk=4)
    for row, label in enumerate(classes):
        x = GREY.reshape(-1).astype(np.float64)
        for _ in range(7):
            z = x @ kernel
            p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
            x = np.clip(x + 0.5 * kernel @ (p[label] * ((np.arange(3) == label) - p)), 0, 1)
        np.testing.assert_allclose(found.image[row].reshape(-1), x, atol=1e-4)
        z = x @ kernel
        np.testing.assert_allclose(
            found.distance[row], 1 - np.exp(z[label]) / np.exp(z).sum(), rtol=1e-3, atol=1e-5
        )


def test_distances_by_hand():
    a, b = (np.random.default_rng(seed).normal(size=(4, 2, 3)).astype(np.float32) for seed in (0, 1))
    squares = ((a - b) ** 2).sum((1, 2)) / (b**2).sum((1, 2))
    np.testing.assert_allclose(relative_squares(a, b), squares, rtol=1e-5)
    cosines = (a * b).sum((1, 2)) / np.sqrt((a**2).sum((1, 2)) * (b**2).sum((1, 2)))
    np.testing.assert_allclose(one_minus_cosine(a, b), 1 - cosines, rtol=1e-4)
    assert np.isfinite(relative_squares(a, 0 * b)).all()


def broken(images):
    return jnp.log(images.mean((1, 2)) - 0.4)


def test_a_descent_that_meets_nan_is_at_infinite_distance():
    method = TVInversion(steps=3, restarts=1, noise=0.0)
    found = invert(method, broken, np.zeros((1, 1), np.float32), start=0 * GREY, key=KEY, chunk=1)
    assert np.isinf(found.distance).all()
    # Pixels that nobody can measure would end an audit, instead of being an attack that failed.
    np.testing.assert_array_equal(found.image[0], 0 * GREY)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: TVInversion(steps=0), "steps >= 1"),
        (lambda: TVInversion(restarts=2, noise=0.0), "all start at one place"),
        (lambda: invert("adam", identity, np.ones((1, 224)), start=GREY, key=KEY), "TVInversion"),
        (lambda: invert(METHOD, identity, np.ones((1, 224)), start=GREY + 1, key=KEY), r"in \[0, 1\]"),
        (lambda: invert(METHOD, identity, np.ones((2, 9)), start=GREY, key=KEY), "do not fit the features"),
        (lambda: invert(METHOD, identity, np.full((1, 224), np.nan), start=GREY, key=KEY), "finite targets"),
    ],
)
def test_bad_input(call, said):
    with pytest.raises(ValueError, match=said):
        call()
