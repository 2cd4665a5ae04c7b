"""Maps against what is known: linear models, loops in NumPy, all masks of a small grid."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.models import TinyCNN, build
from jaxrobust.saliency import (
    RISE,
    Gradient,
    GradientTimesInput,
    IntegratedGradients,
    Occlusion,
    SmoothGrad,
    TopFraction,
    class_logit,
    completeness_errors,
    iou,
    largest_magnitude,
    model_logits,
    saliency_maps,
)
from tests.saliency.saliency_table import make_example, make_params, target_of

SHAPE = (7, 6, 2)
KEY = jax.random.key(0)


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


WEIGHTS = uniform(*SHAPE, seed=1) - 0.5
IMAGES = uniform(3, *SHAPE)
LEVEL = uniform(*SHAPE, seed=2)


def linear(images, example):
    return jnp.tensordot(images, WEIGHTS, 3, precision="highest") + 1.0


def linear_maps(method, baseline=0.0):
    return saliency_maps(method, linear, IMAGES, key=KEY, baseline=baseline)


def close(first, second, atol=1e-5):
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=atol)


def test_linear_gradients_are_the_weights():
    expected = np.broadcast_to(WEIGHTS.sum(axis=-1), IMAGES.shape[:3])
    close(linear_maps(Gradient()), expected)
    close(linear_maps(SmoothGrad(num=9)), expected)
    magnitude = np.broadcast_to(np.abs(WEIGHTS).max(axis=-1), IMAGES.shape[:3])
    close(linear_maps(Gradient(reduce_fn=largest_magnitude)), magnitude)


def test_linear_gradient_times_input_is_exact():
    close(linear_maps(GradientTimesInput()), (WEIGHTS * IMAGES).sum(axis=-1))
    close(linear_maps(GradientTimesInput(), LEVEL), (WEIGHTS * (IMAGES - LEVEL)).sum(axis=-1))


def test_linear_integrated_gradients_are_exact_with_one_step():
    close(linear_maps(IntegratedGradients(steps=1), LEVEL), (WEIGHTS * (IMAGES - LEVEL)).sum(axis=-1))


def test_the_midpoint_rule_is_exact_for_a_quadratic_target():
    def target_fn(images, example):
        return (images**2 * WEIGHTS).sum(axis=(1, 2, 3))

    found = saliency_maps(IntegratedGradients(steps=2), target_fn, IMAGES, baseline=LEVEL)
    close(found, (WEIGHTS * (IMAGES**2 - LEVEL**2)).sum(axis=-1))


def test_smooth_grad_without_noise_is_the_gradient():
    example, target_fn = make_example(), target_of(make_params())
    options = {"targets": example.target, "key": KEY}
    still = saliency_maps(SmoothGrad(num=3, sigma=0.0), target_fn, example.image, **options)
    close(still, saliency_maps(Gradient(), target_fn, example.image, **options))


def test_integrated_gradients_of_a_smooth_net_are_complete():
    example, target_fn = make_example(), target_of(make_params())
    options = {"targets": example.target, "baseline": 0.5}
    maps = saliency_maps(IntegratedGradients(), target_fn, example.image, **options)
    errors = completeness_errors(maps, target_fn, example.image, **options)
    start = example._replace(image=jnp.full_like(example.image, 0.5))
    change = target_fn(example.image, example) - target_fn(start.image, start)
    close(errors, maps.sum(axis=(1, 2)) - change)
    assert np.abs(errors).max() <= 1e-3
    coarse = saliency_maps(IntegratedGradients(steps=1), target_fn, example.image, **options)
    rough = completeness_errors(coarse, target_fn, example.image, **options)
    assert np.abs(rough).max() > 10 * np.abs(errors).max()


def test_integrated_gradients_of_a_net_of_relus_are_complete():
    model = build(TinyCNN(), (8, 8, 1))
    target_fn = class_logit(model_logits(model, *model.init(jax.random.key(1))))
    images, options = uniform(4, 8, 8, 1), {"targets": np.arange(4), "baseline": 0.0}
    maps = saliency_maps(IntegratedGradients(steps=400), target_fn, images, **options)
    assert np.abs(completeness_errors(maps, target_fn, images, **options)).max() <= 1e-3


def occlusion_by_loops(target, images, window, stride, fill):
    b, h, w, _ = images.shape
    total, count = np.zeros((b, h, w)), np.zeros((h, w))

    def starts(length):
        found = [0]
        while found[-1] + window < length:
            found.append(found[-1] + stride)
        return found

    clean = target(images)
    for top, left in itertools.product(starts(h), starts(w)):
        here = np.s_[top : top + window, left : left + window]
        covered = images.copy()
        covered[:, *here] = np.broadcast_to(fill, images.shape)[:, *here]
        total[:, *here] += (clean - target(covered))[:, None, None]
        count[here] += 1
    return total / count


@pytest.mark.parametrize(("window", "stride"), [(3, 2), (2, 2), (4, 3), (1, 1), (6, 1)])
def test_occlusion_is_what_loops_give(window, stride):
    def target(images):
        return np.tanh((images * WEIGHTS).sum(axis=(1, 2, 3)))

    def target_fn(images, example):
        return jnp.tanh((images * WEIGHTS).sum(axis=(1, 2, 3)))

    method = Occlusion(window=window, stride=stride)
    for fill in (0.0, LEVEL):
        found = saliency_maps(method, target_fn, IMAGES, baseline=fill)
        close(found, occlusion_by_loops(target, IMAGES, window, stride, fill))


def test_occlusion_of_a_linear_model_pixel_by_pixel():
    found = linear_maps(Occlusion(window=1, stride=1), LEVEL)
    close(found, (WEIGHTS * (IMAGES - LEVEL)).sum(axis=-1))


def test_rise_is_the_papers_estimate_less_the_mean():
    rise = RISE(num=50, cells=3, keep=0.4, seed=5)
    masks = np.asarray(rise.masks(jnp.arange(50), SHAPE[:2]))
    assert masks.shape == (50, *SHAPE[:2])
    assert masks.min() >= 0
    assert masks.max() <= 1
    kept = LEVEL + masks[:, None, ..., None] * (IMAGES - LEVEL)
    scores = (kept * WEIGHTS).sum(axis=(2, 3, 4)) + 1
    paper = np.einsum("nb,nhw->bhw", scores, masks) / (50 * 0.4)
    level = scores.mean(axis=0)[:, None, None] * masks.mean(axis=0) / 0.4
    close(linear_maps(rise, LEVEL), (paper - level) * 50 / 49, atol=1e-4)


def test_a_target_that_the_masks_do_not_move_has_an_empty_map():
    def constant(images, example):
        return 1e4 + 0 * images.sum(axis=(1, 2, 3))

    found = saliency_maps(RISE(num=32, cells=3), constant, IMAGES)
    np.testing.assert_array_equal(found, 0.0)


def every_mask(side, cells):
    """All masks of a grid, enlarged over one cell more than it has, at every shift: equally likely."""
    cell = side // cells
    grids = np.array(list(itertools.product((0.0, 1.0), repeat=cells * cells))).reshape(-1, cells, cells)

    def shares(shift):
        places = (np.arange(side) + shift + 0.5) / ((cells + 1) * cell) * cells - 0.5
        return np.stack([np.interp(places, np.arange(cells), one) for one in np.eye(cells)], axis=1)

    for down, across in itertools.product(range(cell), repeat=2):
        yield from shares(down) @ grids @ shares(across).T


def test_rise_is_unbiased_up_to_its_noise():
    side, num, keep = 4, 4000, 0.5
    masks = np.stack(list(every_mask(side, 2)))
    image, weights = uniform(1, side, side, 1), uniform(side, side, seed=3)
    np.testing.assert_allclose(masks.mean(axis=0), keep, rtol=1e-6)
    scores = np.square((masks * image[0, ..., 0] * weights).sum(axis=(1, 2)))
    products = (scores - scores.mean())[:, None, None] * (masks - keep)

    def target_fn(images, example):
        return jnp.square((images[..., 0] * weights).sum(axis=(1, 2)))

    found = saliency_maps(RISE(num=num, cells=2, keep=keep, seed=1), target_fn, image)[0]
    error = products.std(axis=0) / np.sqrt(num) / keep
    assert (np.abs(found - products.mean(axis=0) / keep) <= 5 * error).all()
    # Noise is no excuse for anything: the map itself is many times larger.
    assert products.mean(axis=0).max() / keep > 10 * error.max()


def test_the_first_masks_do_not_depend_on_how_many_there_are():
    first = RISE(num=4).masks(jnp.arange(4), (9, 8))
    np.testing.assert_array_equal(first, RISE(num=400).masks(jnp.arange(400), (9, 8))[:4])
    assert (np.asarray(RISE(seed=1).masks(jnp.arange(4), (9, 8))) != np.asarray(first)).any()


@pytest.mark.parametrize(
    "method",
    [Occlusion(window=4, stride=2), IntegratedGradients(), GradientTimesInput(), Gradient()],
    ids=lambda method: type(method).__name__,
)
def test_a_model_that_looks_at_one_patch_is_found_out(method):
    patch = np.zeros((1, 24, 24), bool)
    patch[0, 6:14, 10:18] = True

    def target_fn(images, example):
        return jnp.tanh(0.1 * images[:, 6:14, 10:18].sum(axis=(1, 2, 3)))

    images = 0.5 + 0.5 * uniform(1, 24, 24, 1)
    found = saliency_maps(method, target_fn, images, baseline=0.25)
    region = TopFraction(fraction=64.5 / 576, sigma=0.5)(found)
    assert region.area.tolist() == [64]
    assert iou(region.inside, patch)[0] >= 0.8
