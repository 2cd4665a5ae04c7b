"""Grad-CAM by hand, and models cut at their layers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.models import (
    FaceCNN,
    IResNet,
    MobileFaceNet,
    PreActResNet18,
    SmallCNN,
    SpatialMNIST,
    SpatialResNet,
    TinyCNN,
    WideResNet,
    build,
    from_callable,
)
from jaxrobust.models._layers import Conv, Dense
from jaxrobust.numerics.pooling import max_pool
from jaxrobust.saliency import (
    GradCAM,
    Occlusion,
    Stages,
    class_logit,
    model_embeddings,
    model_logits,
    negated,
    pair_support,
    saliency_maps,
    similarity,
)
from jaxrobust.types import Example, Outputs

SHAPE = (6, 6, 2)


class PooledNet(nn.Module):
    """conv, ReLU, mean, dense: a gradient that is known. `leaky`: it does not go on by its tap."""

    num_classes: int = 3
    leaky: bool = False

    @nn.compact
    def __call__(self, x, *, train, keys=None, axis_name=None):
        linear = Conv(4, name="conv")(x)
        active = nn.relu(linear)
        features = (nn.leaky_relu(linear, 0.5) if self.leaky else active).mean(axis=(1, 2))
        return Outputs(Dense(self.num_classes, name="head")(features), features, {"conv": active})


@functools.cache
def pooled():
    model = build(PooledNet(), SHAPE)
    return model, *model.init(jax.random.key(0))


def small_face_model():
    return build(FaceCNN(num_classes=3, widths=(4, 8, 8, 8), embedding_size=8), (16, 12, 1))


def images_of(num=2, shape=SHAPE):
    return np.random.default_rng(0).uniform(size=(num, *shape)).astype(np.float32)


def enlarged(maps, shape):
    """Bilinear, by half pixels, the outermost values repeated."""

    def stretched(line, length):
        places = (np.arange(length) + 0.5) * len(line) / length - 0.5
        return np.interp(places, np.arange(len(line)), line)

    tall = np.apply_along_axis(stretched, 1, maps, shape[0])
    return np.apply_along_axis(stretched, 2, tall, shape[1])


@pytest.mark.parametrize("rectify", [False, True])
def test_by_hand_in_numpy(rectify):
    model, params, stats = pooled()
    images, targets = images_of(), np.array([2, 0])
    kernel, bias = (np.asarray(params["conv"][name], np.float64) for name in ("kernel", "bias"))
    active = np.zeros((2, 4, 4, 4))
    for i in range(4):
        for j in range(4):
            active[:, i, j] = np.tensordot(images[:, i : i + 3, j : j + 3], kernel, 3) + bias
    active = np.maximum(active, 0)
    # The logit is w . mean(A), so that each of 16 places has the derivative w / 16.
    weights = np.asarray(params["head"]["kernel"])[:, targets].T / 16
    expected = (active * weights[:, None, None]).sum(axis=-1)
    expected = enlarged(np.maximum(expected, 0) if rectify else expected, SHAPE)
    target_fn = class_logit(model_logits(model, params, stats, at="conv"))
    found = saliency_maps(GradCAM(rectify=rectify), target_fn, images, targets=targets)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_target_cut_in_two_serves_other_maps_alike():
    model, params, stats = pooled()
    whole = class_logit(model_logits(model, params, stats))
    cut = class_logit(model_logits(model, params, stats, at="conv"))
    assert isinstance(cut, Stages)
    images, method = images_of(), Occlusion(window=3, stride=3)
    first, second = (saliency_maps(method, fn, images, targets=[1, 2]) for fn in (whole, cut))
    np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        saliency_maps(GradCAM(), negated(cut), images), -saliency_maps(GradCAM(), cut, images), atol=1e-6
    )


def check_taps(model, names):
    """Every tap is the activation, and the head goes on from it to the logits and the embedding."""
    params, stats = model.init(jax.random.key(0))
    images = jnp.asarray(images_of(2, model.image_shape))
    example = Example(images, jnp.array([1, 0]))
    outputs = jax.jit(lambda: model.apply(params, stats, images, train=False)[0])()
    assert set(names) <= set(outputs.taps)
    for name in names:
        scores = model_logits(model, params, stats, at=name)

        def run(scores=scores):
            activations = scores.features_fn(images, example)
            slopes = jax.grad(lambda a: class_logit(scores).head_fn(a, example).sum())(activations)
            return activations, scores(images, example), slopes

        activations, logits, slopes = jax.jit(run)()
        np.testing.assert_allclose(activations, outputs.taps[name], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(logits, outputs.logits, rtol=1e-3, atol=1e-4 * np.abs(logits).max())
        assert np.abs(slopes).max() > 0, name


def test_face_cnn_goes_on_from_each_of_its_taps():
    check_taps(small_face_model(), ("conv3", "conv4"))


def test_tiny_cnn_goes_on_from_a_tap_before_a_pool():
    check_taps(build(TinyCNN(num_classes=3, widths=(4, 4), hidden=8), (8, 8, 1)), ("conv4",))


def test_a_head_written_by_hand_gives_the_same_map():
    """Behind a max-pool and with places where the activation is 0: the derivative is that of max_pool(A)."""
    model = build(TinyCNN(num_classes=3, widths=(4, 4), hidden=8), (8, 8, 1))
    params, stats = model.init(jax.random.key(0))

    def features(images, example):
        return model.apply(params, stats, images, train=False)[0].taps["conv4"]

    def head(activations, example):
        x = max_pool(activations).reshape(len(activations), -1)
        for name in ("fc1", "fc2"):
            x = nn.relu(x @ params[name]["kernel"] + params[name]["bias"])
        return x @ params["fc3"]["kernel"] + params["fc3"]["bias"]

    images, targets = images_of(3, (8, 8, 1)), np.array([2, 0, 1])
    assert (np.asarray(features(jnp.asarray(images), None)) == 0).any()
    by_hand = saliency_maps(GradCAM(), class_logit(Stages(features, head)), images, targets=targets)
    scores = model_logits(model, params, stats, at="conv4")
    found = saliency_maps(GradCAM(), class_logit(scores), images, targets=targets)
    np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-6 * np.abs(by_hand).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "names"),
    [
        (build(SmallCNN(), (28, 28, 1)), ("conv1", "conv2", "conv3", "conv4")),
        (build(SpatialMNIST(), (28, 28, 1)), ("conv2", "conv4")),
        (build(FaceCNN(), (56, 46, 1)), ("conv1", "conv2", "conv3", "conv4")),
        (build(PreActResNet18(width=8), (32, 32, 3)), ("conv1", "layer3", "layer4", "final")),
        (build(WideResNet(depth=10, widen_factor=1), (32, 32, 3)), ("conv1", "block3", "final")),
        (build(SpatialResNet(units=1), (32, 32, 3)), ("stage2", "stage3")),
        (build(MobileFaceNet(width=8, last_width=16), (32, 32, 3)), ("conv1", "blocks5", "final")),
        (build(IResNet(width=8), (32, 32, 3)), ("conv1", "layer4", "final")),
    ],
    ids=lambda value: type(value.apply.module).__name__ if hasattr(value, "apply") else "",
)
def test_every_net_goes_on_from_its_taps(model, names):
    check_taps(model, names)


@pytest.mark.slow
def test_a_tap_that_no_layer_gives_is_refused():
    model = build(SpatialResNet(units=1), (32, 32, 3))
    with pytest.raises(ValueError, match=r"cannot be run on from its tap 'final'.*Other taps: .*stage3"):
        model_logits(model, *model.init(jax.random.key(0)), at="final")


def test_a_tap_that_the_net_does_not_go_on_from_is_refused():
    model = build(PooledNet(leaky=True), SHAPE)
    params, stats = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match="cannot be run on from its tap 'conv'"):
        model_logits(model, params, stats, at="conv")


def test_a_module_is_a_place_too():
    model = small_face_model()
    params, stats = model.init(jax.random.key(0))
    images = jnp.asarray(images_of(2, (16, 12, 1)))
    before = model_logits(model, params, stats, at="norm4").features_fn(images, None)
    after = model_logits(model, params, stats, at="conv4").features_fn(images, None)
    assert before.min() < 0
    np.testing.assert_allclose(jnp.maximum(before, 0), after, atol=1e-6)


def test_pairs_are_supported_by_similarity_or_its_negative():
    model = small_face_model()
    params, stats = model.init(jax.random.key(0))
    images = images_of(4, (16, 12, 1))
    partners = model.apply(params, stats, jnp.asarray(images[2:]), train=False)[0].embedding
    embed = model_embeddings(model, params, stats, at="conv4")
    options = {"references": partners}
    same = saliency_maps(GradCAM(), similarity(embed), images[:2], **options)
    signed = saliency_maps(GradCAM(), pair_support(embed), images[:2], targets=[0, 1], **options)
    assert np.abs(same).max() > 0
    np.testing.assert_allclose(signed, np.array([1, -1])[:, None, None] * same, rtol=1e-4, atol=1e-7)


def test_names_that_are_not_there_are_refused():
    model, params, stats = pooled()
    with pytest.raises(ValueError, match=r"a tap of the model \(conv\) or a module \(conv\), got 'conv9'"):
        model_logits(model, params, stats, at="conv9")
    foreign = from_callable(lambda p, x: x.reshape(len(x), -1)[:, :3] * p, jnp.ones(3), SHAPE)
    with pytest.raises(ValueError, match="Give the two functions yourself"):
        model_logits(foreign, *foreign.init(jax.random.key(0)), at="conv")
    with pytest.raises(ValueError, match="needs a target that is cut at a layer"):
        saliency_maps(GradCAM(), class_logit(model_logits(model, params, stats)), images_of())
    flat = Stages(lambda x, ex: x.reshape(len(x), -1), lambda x, ex: x)
    with pytest.raises(ValueError, match=r"Expected activations \[b, i, j, k\]"):
        saliency_maps(GradCAM(), class_logit(flat), images_of())


def test_embeddings_are_asked_of_models_that_give_them():
    foreign = from_callable(lambda p, x: x.reshape(len(x), -1)[:, :3] * p, jnp.ones(3), SHAPE)
    embed = model_embeddings(foreign, *foreign.init(jax.random.key(0)))
    method, partners = Occlusion(window=3, stride=3), np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="Expected a model that gives an embedding"):
        saliency_maps(method, similarity(embed), images_of(), references=partners)
