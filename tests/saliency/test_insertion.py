"""Insertion and deletion curves against sums by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.saliency import Deletion, Insertion, curve_area, perturbation_curves

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(3, 5, 4, 2)).astype(np.float32)
WEIGHTS = RNG.normal(size=(5, 4, 2)).astype(np.float32)
LEVEL = RNG.uniform(size=(5, 4, 2)).astype(np.float32)
# What each pixel adds to a linear target.
SHARES = (WEIGHTS * (IMAGES - LEVEL)).sum(axis=-1)


def target_fn(images, example):
    return (images * WEIGHTS).sum(axis=(1, 2, 3))


def curves(curve, maps, **options):
    return perturbation_curves(curve, target_fn, IMAGES, maps, baseline=LEVEL, **options)


@pytest.mark.parametrize("chunk", [None, 2])
def test_a_linear_target_falls_by_the_sorted_shares(chunk):
    falling = -np.sort(-SHARES.reshape(3, -1), axis=1)
    counts = np.arange(7) * 20 // 6
    gone = np.concatenate([np.zeros((3, 1)), falling.cumsum(axis=1)], axis=1)[:, counts]
    whole = target_fn(IMAGES, None)[:, None]
    np.testing.assert_allclose(curves(Deletion(steps=6), SHARES, chunk=chunk), whole - gone, atol=1e-4)
    start = (LEVEL * WEIGHTS).sum()
    np.testing.assert_allclose(curves(Insertion(steps=6), SHARES, chunk=chunk), start + gone, atol=1e-4)


def test_the_best_order_has_the_least_and_the_largest_area():
    random = RNG.normal(size=SHARES.shape)
    assert (curve_area(curves(Deletion(), SHARES)) < curve_area(curves(Deletion(), random))).all()
    assert (curve_area(curves(Insertion(), SHARES)) > curve_area(curves(Insertion(), random))).all()


def test_equal_values_go_by_the_smaller_index():
    found = curves(Deletion(steps=20), np.zeros(SHARES.shape))
    expected = target_fn(IMAGES, None)[:, None] - SHARES.reshape(3, -1).cumsum(axis=1)
    np.testing.assert_allclose(found[:, 1:], expected, atol=1e-4)


def test_the_area_is_the_trapezoids():
    values = RNG.uniform(size=(2, 9))
    np.testing.assert_allclose(curve_area(jnp.asarray(values)), np.trapezoid(values, dx=1 / 8), rtol=1e-5)
    with pytest.raises(ValueError, match="at least two points"):
        curve_area(np.zeros((2, 1)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Deletion(steps=0), "Expected steps >= 1"),
        (lambda: Insertion(steps=1.5), "Expected an integer steps"),
        (lambda: curves(Deletion, SHARES), r"Expected Insertion\(steps=20\) or Deletion"),
        (lambda: curves(Deletion(), SHARES[:2]), r"Expected maps \[3, 5, 4\]"),
        (lambda: curves(Deletion(), SHARES * np.nan), "Expected finite maps"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
