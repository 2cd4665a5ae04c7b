"""Crop and flip: against slices made by hand, row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.data import Augment


def images(n=6, h=5, w=7):
    return jax.random.uniform(jax.random.key(0), (n, h, w, 2), minval=0.1)


def keys(n=6):
    return jax.random.split(jax.random.key(1), n)


def test_nothing_asked_nothing_done():
    x = images()
    assert Augment()(keys(), x) is x


def test_every_result_is_a_crop_of_the_padded_image_and_all_crops_occur():
    x = np.asarray(images(1))
    many = 500
    out = np.asarray(Augment(pad=1)(keys(many), jnp.repeat(jnp.asarray(x), many, 0)))
    padded = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
    crops = {padded[i : i + 5, j : j + 7].tobytes() for i in range(3) for j in range(3)}
    assert {row.tobytes() for row in out} == crops


def test_flip_mirrors_half_of_the_images():
    x = np.asarray(images(1))
    many = 400
    out = np.asarray(Augment(flip=True)(keys(many), jnp.repeat(jnp.asarray(x), many, 0)))
    flipped = (out == x[:, :, ::-1]).all((1, 2, 3))
    assert (flipped | (out == x).all((1, 2, 3))).all()
    assert 150 < flipped.sum() < 250


def test_a_row_depends_on_its_own_key_only():
    augment, x, k = Augment(pad=2, flip=True), images(), keys()
    whole = augment(k, x)
    for i in (0, 3):
        np.testing.assert_array_equal(augment(k[i : i + 1], x[i : i + 1])[0], whole[i])
    np.testing.assert_array_equal(augment(k[::-1], x[::-1])[::-1], whole)


def test_an_empty_stream():
    assert Augment(pad=2, flip=True)(keys(0), jnp.zeros((0, 4, 4, 1))).shape == (0, 4, 4, 1)


def test_bad_pad():
    with pytest.raises(ValueError, match="pad >= 0"):
        Augment(pad=-1)
