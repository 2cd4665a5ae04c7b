"""Face nets: parameter counts, heads, weights from PyTorch's names, devices; what is refused.

What holds of every net is in `test_nets`. The full sizes are traced, not computed, but for one slow pass.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.models import (
    FaceCNN,
    IResNet,
    MobileFaceNet,
    TinyCNN,
    build,
    check_scale,
    load_state_dict,
    num_params,
    with_remat,
)
from jaxrobust.models._layers import GroupNorm, PReLU
from jaxrobust.neighbourhoods import LInf
from jaxrobust.numerics.margins import ArcFace, CosFace
from jaxrobust.objectives import AT, Standard
from jaxrobust.training import OptimizerConfig, make_train_step

SHAPE = (16, 12, 1)
SMALL = FaceCNN(num_classes=5, widths=(8, 8, 8, 8), embedding_size=6, scale=4.0)
SMALL_IRESNET = IResNet(depth=18, width=2, embedding_size=4)
ROWS = ((1, 4, 1, 2), (2, 6, 2, 2))
SMALL_MOBILE = MobileFaceNet(bottlenecks=ROWS, width=4, last_width=8, embedding_size=4)


def images(shape=SHAPE, b=4):
    return jnp.asarray(np.random.default_rng(0).random((b, *shape)), jnp.float32)


@functools.cache
def made(module=SMALL, shape=SHAPE):
    model = build(module, shape)
    return model, *model.init(jax.random.key(0))


@functools.partial(jax.jit, static_argnums=0)
def apply(model, params, stats, x):
    return model.apply(params, stats, x, train=False)[0]


@pytest.mark.parametrize(
    ("module", "count"),
    [
        (FaceCNN(), 565_736),
        (MobileFaceNet(), 1_003_136),
        (MobileFaceNet(norm="group"), 1_003_136),
        (IResNet(depth=18), 24_025_600),
        (IResNet(depth=34), 34_139_328),
        (IResNet(), 43_590_848),
        (IResNet(depth=100), 65_156_160),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else type(value).__name__,
)
def test_parameter_counts_of_the_backbones_are_the_published(module, count):
    head = module.num_classes * module.embedding_size
    assert num_params(build(module, module.native_shape)) - head == count


def test_mobile_facenet_has_the_papers_count_without_its_slopes():
    params, _ = jax.eval_shape(build(MobileFaceNet(), (112, 112, 3)).init, jax.random.key(0))
    slopes = [leaf.size for path, leaf in jax.tree.leaves_with_path(params) if "slope" in str(path)]
    assert sum(slopes) == 7_552 and round((1_003_136 - 7_552) / 1e6, 3) == 0.996


@pytest.mark.parametrize(
    ("module", "taps"),
    [
        (FaceCNN(), {"conv1": (56, 46, 24), "conv3": (14, 11, 96), "conv4": (7, 5, 96)}),
        (
            MobileFaceNet(),
            {
                "conv1": (56, 56, 64),
                "blocks1": (28, 28, 64),
                "blocks2": (14, 14, 128),
                "blocks3": (14, 14, 128),
                "blocks4": (7, 7, 128),
                "blocks5": (7, 7, 128),
                "final": (7, 7, 512),
            },
        ),
        (IResNet(), {"conv1": (112, 112, 64), "layer1": (56, 56, 64), "final": (7, 7, 512)}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_sizes_of_the_activations_are_the_papers(module, taps):
    model = build(module, module.native_shape)
    x = jnp.zeros((2, *module.native_shape))
    outputs = jax.eval_shape(lambda key: model.apply(*model.init(key), x, train=False)[0], jax.random.key(0))
    assert {name: outputs.taps[name].shape[1:] for name in taps} == taps
    assert outputs.embedding.shape == (2, module.embedding_size)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("module", [MobileFaceNet(), IResNet(depth=18), IResNet()], ids=str)
def test_a_full_size_pass_is_finite_and_of_unit_length(module, norm):
    model, params, stats = made(module.clone(norm=norm), module.native_shape)
    outputs = apply(model, params, stats, images(module.native_shape, b=2))
    assert np.isfinite(outputs.logits).all() and np.abs(outputs.logits).max() <= 64.001
    np.testing.assert_allclose(np.linalg.norm(outputs.embedding, axis=1), 1, rtol=1e-5)


def test_logits_are_scaled_cosines_of_unit_embeddings():
    model, params, stats = made()
    outputs = apply(model, params, stats, images())
    weights = np.asarray(params["head"]["kernel"])
    cosines = outputs.embedding @ (weights / np.linalg.norm(weights, axis=0))
    np.testing.assert_allclose(np.linalg.norm(outputs.embedding, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(outputs.logits, 4.0 * cosines, atol=1e-5)
    # The length of a class's weights is nothing to it.
    longer = {**params, "head": {"kernel": params["head"]["kernel"] * jnp.arange(1.0, 6.0)}}
    np.testing.assert_allclose(apply(model, longer, stats, images()).logits, outputs.logits, atol=1e-5)


def test_a_softmax_head_reads_the_features_before_they_are_normalised():
    model, params, stats = made(SMALL.clone(scale=None))
    params = {**params, "embedding": jax.tree.map(lambda a: 10 * a, params["embedding"])}
    outputs = apply(model, params, stats, images())
    np.testing.assert_allclose(np.linalg.norm(outputs.embedding, axis=1), 1, rtol=1e-6)
    shifted = np.asarray(outputs.logits) - np.asarray(params["head"]["bias"])
    of_unit = np.asarray(outputs.embedding @ params["head"]["kernel"])
    lengths = shifted / of_unit
    np.testing.assert_allclose(lengths, lengths[:, :1] * np.ones(5), rtol=1e-3)
    assert np.ptp(lengths[:, 0]) > 1e-2


def test_a_margin_pulls_harder_and_its_gradients_are_finite_from_the_start_to_the_end():
    """At the start the embedding is anywhere; at the end it is the class's weights, to the last bit."""
    model, params, stats = made()
    x, labels = images(), jnp.array([0, 1, 2, 3])
    embedding = apply(model, params, stats, x).embedding
    learnt = {**params, "head": {"kernel": jnp.concatenate([embedding, -embedding[:1]]).T}}

    @functools.partial(jax.jit, static_argnums=0)
    def loss_and_gradients(loss_fn, params):
        def loss(params):
            return loss_fn(model.apply(params, stats, x, train=True)[0].logits, labels).mean()

        return jax.value_and_grad(loss)(params)

    for weights in (params, learnt):
        bare, _ = loss_and_gradients(CosFace(s=4.0, m=0.0), weights)
        for loss_fn in (CosFace(s=4.0, m=0.3), ArcFace(s=4.0, m=0.3)):
            value, gradients = loss_and_gradients(loss_fn, weights)
            assert np.isfinite(value) and value > bare + 0.05
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_group_norm_is_the_closed_form_and_of_a_vector_layer_norm():
    x = jnp.asarray(np.random.default_rng(1).normal(3.0, 2.0, (2, 3, 4, 6)), jnp.float32)
    y, variables = GroupNorm(groups=4).init_with_output(jax.random.key(0), x)
    assert {leaf.shape for leaf in jax.tree.leaves(variables)} == {(6,)}
    grouped = np.asarray(x).reshape(2, 12, 2, 3)  # gcd(6, 4) groups
    mean, var = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    np.testing.assert_allclose(y, ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(x.shape), atol=1e-5)
    vector = np.asarray(GroupNorm(groups=3).apply(variables, x[:, :1, :1]))[:, 0, 0]
    np.testing.assert_allclose(vector.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(vector.std(-1), 1, atol=1e-4)


def test_prelu_has_a_slope_per_channel():
    slopes = {"params": {"slope": jnp.array([0.0, 0.5])}}
    assert PReLU().apply(slopes, jnp.array([[-2.0, -2.0], [3.0, 3.0]])).tolist() == [[0, -1], [3, 3]]


def named(module, shape):
    """A made-up state dict with the names and shapes that PyTorch's nets have, values by name."""
    if isinstance(module, IResNet):
        names = {"conv1.weight": (2, 3, 3, 3), **bn("bn1", 2), "prelu.weight": (2,)}
        widths = [2, 2, 4, 8, 16]
        for stage in range(1, 5):
            for i in range(2):
                before, after = widths[stage - 1 if i == 0 else stage], widths[stage]
                at = f"layer{stage}.{i}"
                names |= bn(f"{at}.bn1", before) | bn(f"{at}.bn2", after) | bn(f"{at}.bn3", after)
                names |= {f"{at}.conv1.weight": (after, before, 3, 3), f"{at}.prelu.weight": (after,)}
                names |= {f"{at}.conv2.weight": (after, after, 3, 3)}
                if i == 0:
                    names |= {f"{at}.downsample.0.weight": (after, before, 1, 1)}
                    names |= bn(f"{at}.downsample.1", after)
        names |= bn("bn2", 16) | {"fc.weight": (4, 16 * 2 * 1), "fc.bias": (4,)} | bn("features", 4)
    else:
        names = {"conv1.conv.weight": (4, 3, 3, 3), **bn("conv1.bn", 4), "conv1.prelu.weight": (4,)}
        names |= {"dw_conv1.conv.weight": (4, 1, 3, 3), "dw_conv1.prelu.weight": (4,)} | bn("dw_conv1.bn", 4)
        for i, (before, inner, after) in enumerate([(4, 4, 4), (4, 8, 6), (6, 12, 6)]):
            at = f"blocks.{i}.conv"
            names |= {f"{at}.0.weight": (inner, before, 1, 1), f"{at}.2.weight": (inner,)}
            names |= {f"{at}.3.weight": (inner, 1, 3, 3), f"{at}.5.weight": (inner,)}
            names |= {f"{at}.6.weight": (after, inner, 1, 1)}
            names |= bn(f"{at}.1", inner) | bn(f"{at}.4", inner) | bn(f"{at}.7", after)
        names |= {"conv2.conv.weight": (8, 6, 1, 1), "conv2.prelu.weight": (8,)} | bn("conv2.bn", 8)
        names |= {"linear7.conv.weight": (8, 1, 3, 2)} | bn("linear7.bn", 8)
        names |= {"linear1.conv.weight": (4, 8, 1, 1)} | bn("linear1.bn", 4)
    rng = np.random.default_rng(0)
    return {name: rng.random(size).astype(np.float32) for name, size in names.items()}


def bn(name, width):
    return {f"{name}.{leaf}": (width,) for leaf in ("weight", "bias", "running_mean", "running_var")}


@pytest.mark.parametrize(
    ("module", "shape", "layer", "ours"),
    [
        (SMALL_IRESNET, (18, 16, 3), "layer2.0.downsample.0.weight", ("layer2_0", "downsample_0", "kernel")),
        (SMALL_MOBILE, (18, 16, 3), "blocks.1.conv.3.weight", ("blocks_1", "conv_3", "kernel")),
    ],
    ids=["iresnet", "mobile_facenet"],
)
def test_weights_of_public_nets_find_their_places(module, shape, layer, ours, tmp_path):
    state = named(module, shape)
    np.savez(tmp_path / "net.npz", **state)
    params, stats = load_state_dict(tmp_path / "net.npz", module, image_shape=shape)
    expected = jax.eval_shape(build(module, shape).init, jax.random.key(0))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), (params, stats)) == jax.tree.map(
        lambda a: (a.shape, a.dtype), expected
    )
    kernel = functools.reduce(lambda tree, name: tree[name], ours, params)
    np.testing.assert_array_equal(kernel, state[layer].transpose(2, 3, 1, 0))
    assert not np.any(params["head"]["kernel"])
    del state["bn2.bias" if isinstance(module, IResNet) else "conv2.prelu.weight"]
    np.savez(tmp_path / "torn.npz", **state)
    with pytest.raises(ValueError, match=r"missing: (bn2\.bias|conv2\.prelu\.weight)\."):
        load_state_dict(tmp_path / "torn.npz", module, image_shape=shape)


def test_the_flattened_activation_is_reordered(tmp_path):
    """PyTorch's fc reads (c, h, w), ours (h, w, c)."""
    state = named(SMALL_IRESNET, (18, 16, 3))
    np.savez(tmp_path / "net.npz", **state)
    params, _ = load_state_dict(tmp_path / "net.npz", SMALL_IRESNET, image_shape=(18, 16, 3))
    theirs = state["fc.weight"].reshape(4, 16, 2, 1)
    np.testing.assert_array_equal(params["fc"]["kernel"].reshape(2, 1, 16, 4), theirs.transpose(2, 3, 1, 0))


@pytest.mark.slow
@pytest.mark.parametrize("module", [SMALL_IRESNET, SMALL_MOBILE], ids=["iresnet", "mobile_facenet"])
def test_remat_changes_no_gradient(module):
    model, params, stats = made(module, (16, 16, 3))
    x = images((16, 16, 3))

    def gradients(model):
        def loss(params):
            return model.apply(params, stats, x, train=True)[0].logits[:, 0].sum()

        return jax.jit(jax.grad(loss))(params)

    plain, remat = gradients(model), gradients(with_remat(model))
    # To rounding, which is that of the largest number in the sums.
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(plain))

    def same(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-5 * largest)

    jax.tree.map(same, plain, remat)


@pytest.mark.slow
@pytest.mark.parametrize("module", [SMALL_IRESNET, SMALL_MOBILE], ids=["iresnet", "mobile_facenet"])
def test_pmap_over_four_devices_equals_jit(module):
    model, params, stats = made(module, (16, 16, 3))
    x = images((16, 16, 3), b=8)

    def train(params, stats, x, axis_name="d"):
        outputs, stats = model.apply(params, stats, x, train=True, axis_name=axis_name)
        return outputs.embedding, stats

    embedding, after = jax.jit(functools.partial(train, axis_name=None))(params, stats, x)
    mapped = jax.pmap(train, axis_name="d", in_axes=(None, None, 0), out_axes=(0, None))
    mapped_embedding, mapped_after = mapped(params, stats, x.reshape(4, 2, *x.shape[1:]))
    np.testing.assert_allclose(mapped_embedding.reshape(8, -1), embedding, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), mapped_after, after)


def test_a_margin_loss_of_another_scale_is_refused_before_training():
    optimizer = OptimizerConfig(learning_rate=0.1).build(1)
    model = build(SMALL, SHAPE)
    check_scale(model, Standard(loss_fn=ArcFace(s=4.0)))
    check_scale(build(TinyCNN(), (8, 8, 1)), Standard(loss_fn=ArcFace(s=4.0)))
    hidden = AT(attack=PGD(neighbourhood=LInf(eps=0.1), loss_fn=CosFace(s=8.0)))
    for objective in (Standard(loss_fn=ArcFace(s=8.0)), hidden):
        with pytest.raises(ValueError, match=r"\(s=4\.0\), the scale of FaceCNN, got s=8\.0"):
            make_train_step(model, objective, optimizer, num_steps=1)
    with pytest.raises(ValueError, match="has scale=None, a softmax head"):
        check_scale(build(SMALL.clone(scale=None), SHAPE), Standard(loss_fn=CosFace(s=8.0)))


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (FaceCNN(scale=0.0), SHAPE, "scale > 0, got scale=0.0. None gives a softmax head"),
        (FaceCNN(embedding_size=1), SHAPE, "embedding_size >= 2"),
        (FaceCNN(norm="layer"), SHAPE, "Unknown norm 'layer'. Known: batch, group"),
        (FaceCNN(widths=(8, 8, 0, 8)), SHAPE, "widths >= 1"),
        (FaceCNN(dropout=1.0), SHAPE, "dropout <= 0.99"),
        (FaceCNN(), (7, 12, 1), "at least 8x8 for FaceCNN"),
        (IResNet(depth=51), (112, 112, 3), "a depth of 18, 34, 50, 100, got depth=51"),
        (IResNet(width=0), (112, 112, 3), "width >= 1"),
        (
            MobileFaceNet(bottlenecks=((2, 64, 5),)),
            (112, 112, 3),
            r"\(t, c, n, s\), all >= 1, got \(2, 64, 5\)",
        ),
        (MobileFaceNet(last_width=0), (112, 112, 3), "last_width >= 1"),
        (MobileFaceNet(), (112, 12, 3), "at least 16x16"),
    ],
)
def test_build_refuses(module, shape, message):
    with pytest.raises(ValueError, match=message):
        build(module, shape)
