"""The decoder: doubling folded into its convolutions, all shapes, precision, what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.models import DECODERS, MODELS, Decoder, Precision, build, decode, num_params, with_precision
from jaxrobust.models._upsample import doubled_conv
from jaxrobust.numerics.convolution import conv2d

SMALL = Decoder(image_shape=(12, 10, 1), width=4)


def values(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@functools.cache
def made(module=SMALL, shape=(1, 1, 6)):
    model = build(module, shape)
    return model, *model.init(jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0, static_argnames="train")
def apply(model, params, stats, x, train=False):
    return model.apply(params, stats, x, train=train)[0]


def naive(x, kernel):
    return conv2d(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), kernel, padding="SAME")


def test_the_folded_doubling_is_nearest_and_convolution_in_value_and_gradients():
    x, kernel = values(2, 3, 4, 5), values(3, 3, 5, 6, seed=1)
    out = values(2, 6, 8, 6, seed=2)
    np.testing.assert_allclose(doubled_conv(x, kernel), naive(x, kernel), atol=1e-4)
    slopes = [
        jax.grad(lambda x, k, fn=fn: (fn(x, k) * out).sum(), argnums=(0, 1))(x, kernel)
        for fn in (doubled_conv, naive)
    ]
    for ours, theirs in zip(*slopes):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_parameter_count_by_hand():
    h, w, c = 7, 6, 32
    seed = 128 * h * w * 4 * c + h * w * 4 * c
    convs = 9 * (4 * c * 2 * c + 2 * c * c + c * c // 2) + 2 * (2 * c + c + c // 2)
    assert num_params(build(Decoder(), (1, 1, 128))) == seed + convs + 9 * c // 2 + 1


@pytest.mark.parametrize(
    ("image_shape", "features_shape"),
    [((8, 16, 3), (1, 1, 5)), ((13, 9, 1), (1, 1, 5)), ((16, 16, 1), (2, 2, 3)), ((16, 24, 1), (5, 4, 3))],
)
def test_any_features_make_images_of_any_size(image_shape, features_shape):
    model, params, stats = made(Decoder(image_shape=image_shape, width=4), features_shape)
    outputs = apply(model, params, stats, values(3, *features_shape))
    image = outputs.taps["image"]
    assert image.shape == (3, *image_shape) and float(image.min()) >= 0 and float(image.max()) <= 1
    np.testing.assert_allclose(jax.nn.sigmoid(outputs.logits).reshape(image.shape), image, atol=1e-6)
    assert outputs.logits.shape[1] == model.num_classes and outputs.embedding is None and stats == {}


def test_another_size_is_the_centre_of_the_next_that_8_divides():
    whole, params, _ = made(Decoder(image_shape=(16, 16, 1), width=4))
    part = build(Decoder(image_shape=(13, 10, 1), width=4), (1, 1, 6))
    x = values(2, 1, 1, 6)
    expected = apply(whole, params, {}, x).taps["image"][:, 1:14, 3:13]
    np.testing.assert_allclose(apply(part, params, {}, x).taps["image"], expected, atol=1e-6)


def test_a_feature_map_goes_place_by_place_to_where_doubling_starts():
    """No weight knows of places, so that maps of any size take the same ones, and an even map stays even."""
    model, params, stats = made(Decoder(image_shape=(32, 16, 1), width=4), (4, 2, 3))
    other = build(Decoder(image_shape=(32, 16, 1), width=4), (5, 7, 3))
    assert params["seed"]["kernel"].shape == (1, 1, 3, 16)
    place = values(1, 1, 1, 3)
    first, second = (
        apply(net, params, stats, jnp.tile(place, (1, h, w, 1))).logits
        for net, h, w in ((model, 4, 2), (other, 5, 7))
    )
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_rows_and_modes_do_not_depend_on_each_other():
    model, params, stats = made()
    x = values(4, 1, 1, 6)
    together = apply(model, params, stats, x)
    alone = apply(model, params, stats, x[2:3])
    np.testing.assert_allclose(together.logits[2:3], alone.logits, atol=1e-5)
    np.testing.assert_array_equal(together.logits, apply(model, params, stats, x, train=True).logits)


def test_bf16_computes_in_bf16_and_gives_float32():
    model, params, stats = made()
    x = values(4, 1, 1, 6)
    half = apply(with_precision(model, Precision.BF16), params, stats, x)
    full = apply(model, params, stats, x)
    assert half.logits.dtype == half.taps["image"].dtype == jnp.float32
    difference = np.abs(half.taps["image"] - full.taps["image"]).max()
    assert 1e-6 < difference < 0.05


def test_it_is_registered_apart_from_classifiers():
    assert DECODERS["decoder"] is Decoder and not set(DECODERS) & set(MODELS)


def test_decoding_many_is_decoding_each():
    model, params, stats = made()
    x = values(7, 6)
    found = decode(model, params, stats, x, batch_size=3)
    expected = apply(model, params, stats, x[:, None, None]).taps["image"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(found, decode(model, params, stats, x[:, None, None], batch_size=3))
    with pytest.raises(ValueError, match=r"Expected features \[n, 1, 1, 6\].*got \[7, 5\]"):
        decode(model, params, stats, x[:, :5])


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Decoder(width=5), "even width, got width=5. Use 6"),
        (Decoder(width=0), "width >= 2"),
        (Decoder(groups=0), "groups >= 1"),
        (Decoder(image_shape=(8, 8)), "Expected image_shape="),
    ],
)
def test_bad_fields(module, said):
    with pytest.raises(ValueError, match=said):
        build(module, (1, 1, 8))
