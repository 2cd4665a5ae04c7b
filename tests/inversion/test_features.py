"""Features of a victim: layers, protections in a row, noise that belongs to an image, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxrobust.inversion import (
    Features,
    Noisy,
    Principal,
    Quantised,
    TopK,
    Truncated,
    content_keys,
    embedding_of,
    perceptual_distance,
    protected,
    publish,
    victim_features,
)
from jaxrobust.models import FaceCNN, TinyCNN, build, from_callable

SHAPE = (16, 12, 1)
IMAGES = np.random.default_rng(0).random((7, *SHAPE)).astype(np.float32)


@functools.cache
def victim():
    model = build(FaceCNN(num_classes=5, widths=(4, 4, 4, 6), embedding_size=6, scale=4.0), SHAPE)
    return model, *model.init(jax.random.key(0))


@functools.cache
def outputs():
    model, params, stats = victim()
    return jax.jit(lambda p, s, x: model.apply(p, s, x, train=False)[0])(params, stats, IMAGES)


@pytest.mark.parametrize(
    ("layer", "read"),
    [
        ("embedding", lambda found: found.embedding),
        ("logits", lambda found: found.logits),
        ("conv4", lambda found: found.taps["conv4"]),
    ],
)
def test_a_layer_is_the_models_own(layer, read):
    features_fn = victim_features(Features(layer=layer), *victim())
    np.testing.assert_allclose(publish(features_fn, IMAGES, batch_size=4), read(outputs()), atol=1e-5)


def test_protections_follow_each_other():
    features = Features(layer="logits", protections=(TopK(keep=2), Truncated(keep=3), Quantised(bits=2)))
    expected = outputs().logits
    for one in features.protections:
        expected = one(expected, (), None)
    np.testing.assert_allclose(publish(victim_features(features, *victim()), IMAGES), expected, atol=1e-5)


def test_a_fitted_protection_is_fitted_to_what_comes_before_it():
    features = Features(protections=(Quantised(bits=6), Principal(keep=2)))
    found = publish(victim_features(features, *victim(), fitted_to=IMAGES), IMAGES)
    before = np.asarray(Quantised(bits=6)(outputs().embedding, (), None), np.float64)
    _, lengths, _ = np.linalg.svd(before - before.mean(0), full_matrices=False)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), lengths[:2], rtol=1e-3)


def test_noise_belongs_to_the_key_and_the_image_and_not_to_its_place():
    features_fn = victim_features(Features(protections=(Noisy(ratio=0.5),)), *victim())
    clean = publish(features_fn, IMAGES)
    np.testing.assert_allclose(clean, outputs().embedding, atol=1e-5)
    noisy = publish(features_fn, IMAGES, key=jax.random.key(1), batch_size=3)
    assert np.abs(noisy - clean).max() > 0.05
    turned = publish(features_fn, IMAGES[::-1], key=jax.random.key(1), batch_size=7)
    np.testing.assert_allclose(noisy, turned[::-1], atol=1e-5)
    other = publish(features_fn, IMAGES, key=jax.random.key(2), batch_size=3)
    assert (np.abs(other - noisy).max(axis=1) > 1e-3).all()
    # Images that differ in one pixel, or in where their pixels are, draw anew.
    pixel, moved = IMAGES.copy(), IMAGES[:, ::-1].copy()
    pixel[:, 0, 0] += 1e-6
    words = [
        np.asarray(jax.random.key_data(content_keys(jax.random.key(1), jnp.asarray(images))))
        for images in (IMAGES, pixel, moved)
    ]
    assert len(np.unique(np.concatenate(words), axis=0)) == 21


def test_what_is_published_is_an_embedding_to_verify():
    features_fn = victim_features(Features(layer="conv4", protections=(Noisy(ratio=0.5),)), *victim())
    for key in (None, jax.random.key(1)):
        expected = publish(features_fn, IMAGES, key=key).reshape(7, -1)
        np.testing.assert_allclose(embedding_of(features_fn, key=key)(IMAGES), expected, atol=1e-5)


def test_other_weights_compile_nothing():
    model, params, stats = victim()
    traced = []

    class Counted:
        def __call__(self, params, images):
            traced.append(1)
            return model.apply(params, stats, images, train=False)[0].embedding

    fn = Counted()
    for factor in (1.0, 2.0):
        scaled = jax.tree.map(lambda leaf, factor=factor: factor * leaf, params)
        publish(protected(Partial(fn, scaled), (), IMAGES.shape), IMAGES, batch_size=4)
        traced.append(0)
    # Once to learn the shape and once to compile, then the shape alone.
    assert traced == [1, 1, 0, 1, 0]


def test_a_plain_function_will_do():
    found = publish(protected(lambda x: x.mean((1, 2)), (), IMAGES.shape), IMAGES)
    np.testing.assert_allclose(found, IMAGES.mean((1, 2)), atol=1e-6)


def test_the_perceptual_distance_by_hand():
    model, params, stats = victim()
    distance = jax.jit(perceptual_distance(model, params, stats, ("conv2", "conv4")))
    found = distance(IMAGES[:3], IMAGES[3:6])
    expected = np.zeros(3)
    for name in ("conv2", "conv4"):
        taps = np.asarray(outputs().taps[name], np.float64)
        units = taps / np.sqrt((taps**2).sum(-1, keepdims=True) + 1e-10)
        expected += ((units[:3] - units[3:6]) ** 2).sum(-1).mean((1, 2)) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(distance(IMAGES[:3], IMAGES[:3]), 0, atol=1e-7)
    slope = jax.jit(jax.grad(lambda x: distance(x, IMAGES[:3]).sum()))(jnp.zeros_like(IMAGES[:3]))
    assert np.isfinite(slope).all()
    assert perceptual_distance(model, params, stats).func.layers == ("conv1", "conv2", "conv3", "conv4")


def not_finite(images):
    return images.mean((1, 2)) / 0.0


def test_bad_input():
    model, params, stats = victim()
    with pytest.raises(ValueError, match=r"Unknown layer 'conv5'. Known: conv1, conv2, conv3, conv4, emb"):
        victim_features(Features(layer="conv5"), model, params, stats)
    with pytest.raises(ValueError, match="Principal is fitted to features: give images"):
        victim_features(Features(protections=(Principal(keep=2),)), model, params, stats)
    with pytest.raises(ValueError, match="keep <= 6"):
        victim_features(Features(protections=(Truncated(keep=7),)), model, params, stats)
    with pytest.raises(ValueError, match="a map"):
        victim_features(Features(layer="conv4", protections=(Truncated(keep=2),)), model, params, stats)
    with pytest.raises(ValueError, match="tuple of protections"):
        Features(protections=Quantised(bits=2))
    foreign = from_callable(lambda p, x: x.reshape(len(x), -1) @ p, np.ones((192, 3), np.float32), SHAPE)
    with pytest.raises(ValueError, match="Unknown layer 'embedding'"):
        victim_features(Features(), foreign, *foreign.init(jax.random.key(0)))
    with pytest.raises(ValueError, match="draws at random in eval mode"):
        victim_features(Features(), model._replace(random=True), params, stats)
    with pytest.raises(ValueError, match="finite features, got NaN or infinity for 7 of 7 images"):
        publish(not_finite, IMAGES)
    with pytest.raises(ValueError, match="Unknown tap 'final'"):
        perceptual_distance(model, params, stats, ("final",))
    tiny = build(TinyCNN(), (8, 8, 1))
    with pytest.raises(ValueError, match="name at least one"):
        perceptual_distance(tiny, *tiny.init(jax.random.key(0)), ())
