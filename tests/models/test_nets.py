"""Every net of the registry: shapes, counts, layers, independence of rows, and devices against one device."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.models import (
    MODELS,
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
    num_params,
)

# Small variants on small images; a net added to MODELS needs a row here.
CASES = {
    "small_cnn": (SmallCNN(widths=(4, 8), hidden=16), (16, 18, 1)),
    "tiny_cnn": (TinyCNN(dropout=0.3), (8, 8, 1)),
    "spatial_mnist": (SpatialMNIST(widths=(4, 8)), (8, 10, 1)),
    "spatial_resnet": (SpatialResNet(filters=(4, 4, 8, 12), units=2), (8, 12, 3)),
    "preact_resnet18": (PreActResNet18(width=4, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3)), (8, 9, 3)),
    "wrn": (WideResNet(depth=10, widen_factor=1, dropout=0.3), (8, 8, 3)),
    "face_cnn": (FaceCNN(widths=(8, 8, 8, 8), embedding_size=6, scale=4.0, dropout=0.3), (16, 12, 1)),
    # By groups: a bias that batch normalisation follows has no gradient.
    "mobile_facenet": (
        MobileFaceNet(
            bottlenecks=((1, 4, 1, 2), (2, 6, 2, 2)),
            width=4,
            last_width=8,
            embedding_size=4,
            norm="group",
            scale=4.0,
        ),
        (16, 17, 3),
    ),
    "iresnet": (IResNet(depth=18, width=8, embedding_size=8, norm="group", scale=4.0), (32, 33, 3)),
}
SLOW = {"mobile_facenet", "iresnet", "preact_resnet18"}
FACES = {"face_cnn", "mobile_facenet", "iresnet"}
MODULES = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CASES]
)


def images(shape, b=4, seed=0):
    return jnp.asarray(np.random.default_rng(seed).random((b, *shape)), jnp.float32)


def keys(b=4):
    return jax.random.split(jax.random.key(5), b)


@functools.cache
def made(name):
    """The model, its parameters, and statistics away from 0 and 1."""
    model = build(*CASES[name])
    params, stats = model.init(jax.random.key(0))
    return model, params, jax.tree.map(lambda a: a + 0.1, stats)


@functools.partial(jax.jit, static_argnums=0, static_argnames=("train", "axis_name"))
def apply(model, params, stats, x, train=False, keys=None, axis_name=None):
    return model.apply(params, stats, x, train=train, keys=keys, axis_name=axis_name)


def test_every_net_has_a_row():
    assert CASES.keys() == MODELS.keys()
    assert all(type(CASES[name][0]) is cls for name, cls in MODELS.items())


@pytest.mark.parametrize(
    ("module", "count"),
    [
        (SmallCNN(), 312_202),
        (SpatialMNIST(), 96_362),
        (PreActResNet18(), 11_172_170),
        (PreActResNet18(final_norm=False), 11_171_146),
        (WideResNet(), 46_160_474),
        (WideResNet(depth=28), 36_479_194),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else type(value).__name__,
)
def test_parameter_counts_are_the_published(module, count):
    assert num_params(build(module, module.native_shape)) == count


def test_small_cnn_layer_by_layer():
    params, stats = jax.eval_shape(build(SmallCNN(), (28, 28, 1)).init, jax.random.key(0))
    assert stats == {}
    assert {layer: leaves["kernel"].shape for layer, leaves in params.items()} == {
        "conv1": (3, 3, 1, 32),
        "conv2": (3, 3, 32, 32),
        "conv3": (3, 3, 32, 64),
        "conv4": (3, 3, 64, 64),
        "fc1": (1024, 200),
        "fc2": (200, 200),
        "fc3": (200, 10),
    }
    model = build(SmallCNN(), (28, 28, 1))
    outputs, _ = jax.eval_shape(
        lambda params: model.apply(params, {}, jnp.zeros((2, 28, 28, 1)), train=False), params
    )
    # Without padding: 28 - 2 - 2, halved, - 2 - 2, halved to the 4 x 4 x 64 that fc1 reads.
    assert {name: tap.shape[1:] for name, tap in outputs.taps.items()} == {
        "conv1": (26, 26, 32),
        "conv2": (24, 24, 32),
        "conv3": (10, 10, 64),
        "conv4": (8, 8, 64),
    }


def test_spatial_nets_are_the_sources():
    params, _ = jax.eval_shape(build(SpatialMNIST(), (28, 28, 1)).init, jax.random.key(0))
    assert params["logit"]["kernel"].shape == (3136, 10)
    params, _ = jax.eval_shape(build(SpatialResNet(), (32, 32, 3)).init, jax.random.key(0))
    widths = [params[f"unit_{s}_{i}"]["conv2"]["kernel"].shape[-1] for s in (1, 2, 3) for i in range(5)]
    assert widths == [16] * 5 + [32] * 5 + [64] * 5
    # 31 convolutions, 31 normalisations and a dense layer; shortcuts have no parameters.
    assert len(jax.tree.leaves(params)) == 31 + 2 * 31 + 2
    assert params["init_conv"]["kernel"].shape == (3, 3, 3, 16)


@MODULES
def test_shapes_and_dtypes(name):
    model, params, stats = made(name)
    outputs, after = apply(model, params, stats, images(model.image_shape))
    assert outputs.logits.shape == (4, 10) and outputs.logits.dtype == jnp.float32
    assert outputs.embedding.ndim == 2 and outputs.embedding.dtype == jnp.float32
    assert outputs.taps and all(tap.ndim == 4 for tap in outputs.taps.values())
    jax.tree.map(np.testing.assert_array_equal, after, stats)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", [name for name in CASES if name not in FACES])
def test_embedding_is_the_input_of_the_last_layer(name):
    model, params, stats = made(name)
    outputs, _ = apply(model, params, stats, images(model.image_shape))
    last = next(params[n] for n in ("fc3", "logit", "linear", "fc") if n in params)
    np.testing.assert_allclose(
        outputs.embedding @ last["kernel"] + last["bias"], outputs.logits, rtol=1e-4, atol=1e-5
    )


@MODULES
def test_eval_mode_rows_are_independent(name):
    model, params, stats = made(name)
    x = images(model.image_shape)
    together = apply(model, params, stats, x)[0].logits
    for i in range(2):
        alone = apply(model, params, stats, x[i : i + 1])[0].logits
        np.testing.assert_allclose(alone[0], together[i], atol=1e-5)


@pytest.mark.parametrize("name", ["small_cnn", "tiny_cnn", "face_cnn"])
def test_train_mode_rows_depend_on_their_own_key(name):
    model, params, stats = made(name)
    x = images(model.image_shape)

    def train(x, keys):
        return apply(model, params, stats, x, train=True, keys=keys)[0].logits

    together = train(x, keys())
    for i in range(4):
        np.testing.assert_allclose(train(x[i : i + 1], keys()[i : i + 1])[0], together[i], atol=1e-5)
    swapped = train(x, keys()[::-1])
    assert np.abs(swapped - together).max() > 1e-3
    with pytest.raises(ValueError, match="got keys=None"):
        train(x, None)


@pytest.mark.parametrize(
    "name", ["spatial_resnet", *(pytest.param(n, marks=pytest.mark.slow) for n in ("preact_resnet18", "wrn"))]
)
def test_pmap_over_four_devices_equals_jit(name):
    model, params, stats = made(name)
    x, rows = images(model.image_shape, 8), keys(8)

    def train(params, stats, x, keys, axis_name="d"):
        outputs, stats = model.apply(params, stats, x, train=True, keys=keys, axis_name=axis_name)
        return outputs.logits, stats

    logits, after = jax.jit(functools.partial(train, axis_name=None))(params, stats, x, rows)
    mapped = jax.pmap(train, axis_name="d", in_axes=(None, None, 0, 0), out_axes=(0, None))
    shards = x.reshape(4, 2, *x.shape[1:]), rows.reshape(4, 2)
    mapped_logits, mapped_after = mapped(params, stats, *shards)
    np.testing.assert_allclose(mapped_logits.reshape(8, 10), logits, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), mapped_after, after)
    changed = jax.tree.map(lambda a, b: np.abs(a - b).max() > 1e-4, after, stats)
    assert all(jax.tree.leaves(changed))


@MODULES
def test_bfloat16_gives_float32_logits_near_float32s(name):
    module, shape = CASES[name]
    model, params, stats = made(name)
    half = build(module.clone(dtype="bfloat16"), shape)
    x = images(shape)
    expected = apply(model, params, stats, x)[0].logits
    outputs, _ = apply(half, params, stats, x)
    assert outputs.logits.dtype == jnp.float32
    assert {tap.dtype for tap in outputs.taps.values()} == {jnp.dtype("bfloat16")}
    error = np.abs(outputs.logits - expected).max()
    assert 0 < error < 0.1 * np.abs(expected).max() + 0.02
    assert jax.tree.map(lambda a: a.dtype, jax.eval_shape(half.init, jax.random.key(0))) == jax.tree.map(
        lambda a: a.dtype, (params, stats)
    )


@pytest.mark.parametrize("name", ["small_cnn", "tiny_cnn", "preact_resnet18", "wrn"])
def test_normalisation_is_inside(name):
    module, shape = CASES[name]
    mean, std = (0.3,) * shape[2], (0.25,) * shape[2]
    inside, plain = (build(module.clone(mean=m, std=s), shape) for m, s in ((mean, std), ((), ())))
    _, params, stats = made(name)
    x = images(shape)
    np.testing.assert_allclose(
        apply(inside, params, stats, x)[0].logits,
        apply(plain, params, stats, (x - 0.3) / 0.25)[0].logits,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", ["spatial_mnist", "spatial_resnet"])
def test_standardisation_forgets_brightness_and_contrast(name):
    model, params, stats = made(name)
    x = images(model.image_shape)
    bright = apply(model, params, stats, 0.3 + 0.5 * x)[0].logits
    np.testing.assert_allclose(bright, apply(model, params, stats, x)[0].logits, atol=1e-4)


@MODULES
def test_gradients_are_finite_and_reach_every_parameter(name):
    model, params, stats = made(name)
    x = images(model.image_shape)

    def loss(params, x):
        logits = model.apply(params, stats, x, train=True, keys=keys())[0].logits
        return -jax.nn.log_softmax(logits)[:, 3].mean()

    grads, image_grads = jax.jit(jax.grad(loss, (0, 1)))(params, x)
    assert np.isfinite(image_grads).all() and np.abs(image_grads).max() > 0
    for path, leaf in jax.tree.leaves_with_path(grads):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


def test_gathering_taps_costs_nothing_when_unused():
    """What is not asked of the outputs is dead code."""
    model, params, _ = made("tiny_cnn")
    x = images(model.image_shape)

    def work(fn):
        outputs = jax.jit(lambda params, x: fn(model.apply(params, {}, x, train=False)[0]))
        cost = outputs.lower(params, x).compile().cost_analysis()
        return cost["flops"], cost["bytes accessed"]

    all_flops, all_bytes = work(lambda outputs: outputs)
    flops, size = work(lambda outputs: outputs.logits)
    early_flops, _ = work(lambda outputs: outputs.taps["conv1"])
    assert early_flops < flops <= all_flops and size < all_bytes


def test_modules_are_configurations():
    """Equal fields make equal, hashable modules and equal models, which trace once; fields survive JSON."""
    assert hash(WideResNet(depth=28)) == hash(WideResNet(depth=28))
    model, same, other = (build(m, (8, 8, 3)) for m in (TinyCNN(), TinyCNN(), TinyCNN(hidden=8)))
    assert model == same and hash(model) == hash(same) and model != other
    traces = []

    @jax.jit(static_argnums=0)
    def logits(model, params, x):
        traces.append(model)
        return model.apply(params, {}, x, train=False)[0].logits

    params, _ = model.init(jax.random.key(0))
    for m in (model, same):
        logits(m, params, images((8, 8, 3)))
    assert len(traces) == 1
    for module, _ in CASES.values():
        names = {field.name for field in dataclasses.fields(module)} - {"parent", "name"}
        read = json.loads(json.dumps({name: getattr(module, name) for name in names}))
        assert type(module)(**{name: tuples(value) for name, value in read.items()}) == module


def tuples(value):
    """What JSON made lists of, as tuples again."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value
