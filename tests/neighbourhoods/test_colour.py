"""Colour shifts against closed forms, a NumPy implementation by way of YIQ, and the standard library's."""

import colorsys
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.neighbourhoods import ColourShift, Shift
from jaxrobust.types import Example

EVERY = ColourShift(hue=180.0, saturation=2.0, brightness=0.5, contrast=2.0, grey=1.0)
LUMA = np.array([0.299, 0.587, 0.114])
IMAGE = np.random.default_rng(0).random((6, 5, 3), dtype=np.float32)
MUTED = np.float32(0.4 + 0.2 * IMAGE)  # far from 0 and 1, so that nothing is clipped


def example(image):
    return Example(jnp.asarray(image, jnp.float32), jnp.array(0))


def shift(**changes):
    return Shift(**{name: jnp.float32(changes.get(name, 0.0)) for name in Shift._fields})


@jax.jit
def apply(image, theta):
    return EVERY.apply(Example(image, jnp.array(0)), theta)


def numpy_shift(image, *, hue=0.0, saturation=0.0, brightness=0.0, contrast=0.0, grey=0.0):
    """One image and one shift in float64: to YIQ, polar, back; then contrast and brightness."""
    to_yiq = np.array([LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
    yiq = np.float64(image) @ to_yiq.T
    chroma, phase = np.hypot(yiq[..., 1], yiq[..., 2]), np.arctan2(yiq[..., 2], yiq[..., 1])
    chroma, phase = chroma * (1 + saturation) * (1 - grey), phase - np.deg2rad(hue)
    mean = yiq[..., 0].mean()
    yiq = np.stack([yiq[..., 0], chroma * np.cos(phase), chroma * np.sin(phase)], axis=-1)
    image = yiq @ np.linalg.inv(to_yiq).T
    image = mean + (1 + contrast) * (image - mean)
    return np.clip(image + brightness, 0, 1)


def test_it_equals_the_numpy_implementation():
    ex = example(IMAGE)
    thetas = jax.vmap(EVERY.sample, (0, None))(jax.random.split(jax.random.key(0), 50), ex)
    ours = jax.vmap(apply, (None, 0))(ex.image, thetas)
    for i in range(50):
        one = {name: float(values[i]) for name, values in thetas._asdict().items()}
        np.testing.assert_allclose(ours[i], numpy_shift(IMAGE, **one), atol=1e-5, err_msg=f"{one}")


def test_black_and_white_is_the_luma_in_all_channels():
    expected = np.repeat((IMAGE @ LUMA)[..., None], 3, axis=-1)
    for theta in (shift(grey=1), shift(saturation=-1), shift(grey=1, hue=77, saturation=1.5)):
        np.testing.assert_allclose(apply(IMAGE, theta), expected, atol=1e-6)
    # The standard library rounds the weights to 0.30, 0.59 and 0.11.
    theirs = np.array([colorsys.rgb_to_yiq(*pixel)[0] for pixel in IMAGE.reshape(-1, 3)])
    np.testing.assert_allclose(apply(IMAGE, shift(grey=1))[..., 0].ravel(), theirs, atol=0.005)
    half = apply(IMAGE, shift(grey=0.5))
    np.testing.assert_allclose(half, (IMAGE + expected) / 2, atol=1e-6)


def test_brightness_adds_and_is_clipped():
    np.testing.assert_allclose(apply(MUTED, shift(brightness=0.25)), MUTED + 0.25, atol=1e-7)
    np.testing.assert_allclose(apply(IMAGE, shift(brightness=-0.5)), np.clip(IMAGE - 0.5, 0, 1), atol=1e-7)


def test_contrast_scales_the_differences_from_the_mean_luma():
    mean = (MUTED @ LUMA).mean()
    np.testing.assert_allclose(apply(MUTED, shift(contrast=0.5)) - mean, 1.5 * (MUTED - mean), atol=1e-6)
    np.testing.assert_allclose(apply(MUTED, shift(contrast=-1)), mean, atol=1e-6)


def test_hue_is_periodic_keeps_the_luma_and_half_a_turn_mirrors():
    np.testing.assert_allclose(apply(IMAGE, shift(hue=360)), IMAGE, atol=1e-6)
    turned = apply(MUTED, shift(hue=105))
    np.testing.assert_allclose(turned @ LUMA, MUTED @ LUMA, atol=1e-6)
    assert np.abs(turned - MUTED).max() > 0.05
    opposite = 2 * (MUTED @ LUMA)[..., None] - MUTED
    np.testing.assert_allclose(apply(MUTED, shift(hue=180)), opposite, atol=1e-6)
    np.testing.assert_allclose(apply(MUTED, shift(hue=-180)), opposite, atol=1e-6)


def test_positive_turns_go_the_way_hues_are_counted():
    wheel = np.float32([[colorsys.hsv_to_rgb(i / 24, 0.3, 0.6) for i in range(24)]])
    turned = apply(wheel, shift(hue=15))
    steps = [colorsys.rgb_to_hsv(*map(float, turned[0, i]))[0] - i / 24 for i in range(24)]
    degrees = 360 * ((np.array(steps) + 0.5) % 1 - 0.5)
    assert degrees.min() > 5 and degrees.max() < 30


def test_hue_and_saturation_equal_the_standard_librarys_yiq():
    """Its matrices have two digits, hence the tolerance."""
    ours = apply(IMAGE, shift(hue=40, saturation=0.5))
    cos, sin = 1.5 * np.cos(np.deg2rad(40)), 1.5 * np.sin(np.deg2rad(40))
    for pixel, found in zip(IMAGE.reshape(-1, 3), np.asarray(ours).reshape(-1, 3)):
        y, i, q = colorsys.rgb_to_yiq(*map(float, pixel))
        theirs = colorsys.yiq_to_rgb(y, cos * i + sin * q, cos * q - sin * i)
        np.testing.assert_allclose(found, theirs, atol=0.03)


def test_changes_of_the_whole_image_commute_until_the_clip():
    small = {"hue": 20.0, "saturation": 0.3, "brightness": 0.05, "contrast": -0.4, "grey": 0.3}
    together = apply(MUTED, shift(**small))
    for order in itertools.islice(itertools.permutations(small), 0, 120, 7):
        image = jnp.asarray(MUTED)
        for name in order:
            image = apply(image, shift(**{name: small[name]}))
        np.testing.assert_allclose(image, together, atol=2e-6, err_msg=f"{order}")


@pytest.mark.parametrize("channels", [1, 3])
def test_per_pixel_a_shift_changes_its_own_pixel_alone(channels):
    names = Shift._fields if channels == 3 else ("brightness", "contrast")
    limits = {"hue": 90.0, "saturation": 0.5, "brightness": 0.2, "contrast": 0.5, "grey": 0.5}
    each = ColourShift(**{name: limits[name] for name in names}, per_pixel=True)
    ex = example(MUTED[..., :channels])
    for name in names:
        zero = each.init(ex)
        theta = zero._replace(**{name: getattr(zero, name).at[2, 3].set(limits[name] / 2)})
        moved = np.abs(np.asarray(each.apply(ex, theta) - ex.image)).max(axis=-1)
        assert moved[2, 3] > 1e-3
        moved[2, 3] = 0
        np.testing.assert_array_equal(moved, 0.0)


def test_per_pixel_an_equal_shift_everywhere_is_that_of_the_whole_image():
    each = ColourShift(hue=180.0, saturation=2.0, brightness=0.5, contrast=2.0, grey=1.0, per_pixel=True)
    ex = example(IMAGE)
    one = EVERY.sample(jax.random.key(3), ex)
    everywhere = jax.tree.map(lambda value: jnp.full((6, 5), value), one)
    np.testing.assert_allclose(each.apply(ex, everywhere), EVERY.apply(ex, one), atol=1e-6)


def test_the_derivative_in_theta_equals_finite_differences():
    weights = jax.random.normal(jax.random.key(2), MUTED.shape)
    score = jax.jit(lambda theta: (EVERY.apply(example(MUTED), theta) * weights).sum())
    at = shift(hue=30.0, saturation=0.2, brightness=0.02, contrast=0.1, grey=0.1)
    gradient = jax.grad(score)(at)
    for name, step in {
        "hue": 1.0,
        "saturation": 0.02,
        "brightness": 0.02,
        "contrast": 0.02,
        "grey": 0.02,
    }.items():
        ahead, behind = (at._replace(**{name: getattr(at, name) + s}) for s in (step, -step))
        numeric = float(score(ahead) - score(behind)) / (2 * step)
        assert float(getattr(gradient, name)) == pytest.approx(numeric, rel=0.02, abs=1e-3), name


def test_the_derivative_in_the_image_is_the_transpose():
    theta = shift(hue=-50.0, saturation=0.2, contrast=-0.3)
    a, b = (0.5 + 0.02 * jax.random.normal(jax.random.key(i), MUTED.shape) for i in (3, 4))
    moved, pullback = jax.vjp(lambda image: apply(image, theta), a)
    assert float((moved * b).sum()) == pytest.approx(float((a * pullback(b)[0]).sum()), rel=1e-4)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_derivatives_are_finite_at_greys_and_at_the_identity(level):
    for neighbourhood in (EVERY, ColourShift(hue=10.0, contrast=0.1, grey=0.5, per_pixel=True)):
        ex = example(np.full((3, 4, 3), level))

        def score(theta, image, neighbourhood=neighbourhood):
            return (neighbourhood.apply(Example(image, jnp.array(0)), theta) ** 2).sum()

        gradients = jax.jit(jax.grad(score, (0, 1)))(neighbourhood.init(ex), ex.image)
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))


def test_scales_stop_at_0_and_grey_has_one_side():
    theta = jax.tree.map(lambda leaf: leaf - 500.0, shift())
    low = EVERY.project(example(IMAGE), theta)
    assert [float(value) for value in low] == [-180.0, -1.0, -0.5, -1.0, 0.0]
    high = EVERY.project(example(IMAGE), jax.tree.map(lambda leaf: leaf + 500.0, shift()))
    assert [float(value) for value in high] == [180.0, 2.0, 0.5, 2.0, 1.0]


def test_samples_fill_their_bounds():
    keys = jax.random.split(jax.random.key(0), 400)
    drawn = jax.vmap(EVERY.sample, (0, None))(keys, example(IMAGE))
    lows, highs = [-180, -1, -0.5, -1, 0], [180, 2, 0.5, 2, 1]
    for values, low, high in zip(drawn, lows, highs):
        assert low <= float(values.min()) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < float(values.max()) <= high
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.06 * (high - low))


def test_the_distance_is_the_largest_in_radii():
    theta = shift(hue=-90.0, brightness=0.1, grey=0.25)
    assert float(EVERY.distance(example(IMAGE), theta)) == 0.5
    assert float(ColourShift(grey=0.5).distance(example(IMAGE), theta._replace(hue=jnp.array(0.0)))) == np.inf


def test_the_grid_has_the_limits_the_identity_and_nothing_beyond():
    grid = EVERY.grid((3, 5, 1, 3, 2))
    assert all(leaf.shape == (90,) for leaf in grid)
    np.testing.assert_array_equal(grid.grey[:2], [0, 1])
    np.testing.assert_array_equal(grid.hue, np.repeat([-180, 0, 180], 30))
    np.testing.assert_array_equal(np.unique(grid.saturation), [-1, 0, 1, 2])
    np.testing.assert_array_equal(grid.brightness, 0)
    identity = np.all([np.asarray(leaf) == 0 for leaf in grid], axis=0)
    assert identity.sum() == 1
    traced = jax.jit(lambda factor: EVERY.scaled(factor).grid((1, 1, 3, 1, 2)))(0.5)
    np.testing.assert_allclose(traced.brightness, [-0.25, -0.25, 0, 0, 0.25, 0.25])
    with pytest.raises(ValueError, match="per_pixel=False"):
        ColourShift(grey=1.0, per_pixel=True).grid((1, 1, 1, 1, 2))


@pytest.mark.parametrize("channels", [1, 2])
def test_what_needs_colours_is_refused_without_them(channels):
    ex = example(IMAGE[..., :channels])
    wrong = ColourShift(hue=10.0, brightness=0.1, grey=1.0)
    for ask in (
        wrong.init,
        lambda ex: wrong.sample(jax.random.key(0), ex),
        lambda ex: wrong.apply(ex, shift()),
    ):
        with pytest.raises(ValueError, match=r"change of hue, grey, got . channel.*Leave out hue, grey"):
            jax.eval_shape(ask, ex)


def test_a_grey_level_takes_brightness_and_contrast_also_when_scaled_by_a_traced_factor():
    levels, ex = ColourShift(brightness=0.2, contrast=0.5), example(MUTED[..., :1])
    theta = shift(brightness=0.1, contrast=0.5)
    mean = MUTED[..., 0].mean()
    expected = mean + 1.5 * (MUTED[..., :1] - mean) + 0.1
    np.testing.assert_allclose(levels.apply(ex, theta), expected, atol=1e-6)
    distance = jax.jit(lambda factor: levels.scaled(factor).distance(ex, theta))(2.0)
    assert float(distance) == 0.5
    image = jax.jit(lambda factor: levels.scaled(factor).apply(ex, theta))(2.0)
    np.testing.assert_allclose(image, expected, atol=1e-6)


def test_scaled_limits_stop_where_there_is_no_more():
    limits = ColourShift(hue=100.0, saturation=1.0, brightness=0.6, contrast=1.0, grey=0.7)
    doubled = ColourShift(hue=180.0, saturation=2.0, brightness=1.0, contrast=2.0, grey=1.0)
    assert limits.scaled(2.0) == doubled
    traced = jax.jit(lambda f: limits.scaled(f).project(example(IMAGE), shift(hue=500, brightness=5, grey=5)))
    assert [float(value) for value in traced(2.0)] == [180, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hue": 181.0}, "degrees"),
        ({"saturation": -0.1}, "saturation >= 0"),
        ({"brightness": 30.0}, r"pixels of \[0, 1\]"),
        ({"contrast": float("nan")}, "finite"),
        ({"grey": 1.5}, "black-and-white"),
    ],
)
def test_limits_are_checked(fields, words):
    with pytest.raises(ValueError, match=words):
        ColourShift(**fields)
