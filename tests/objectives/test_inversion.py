"""Training of an inverse model: its loss by hand, what a weight of 0 leaves out, the victim's rest, runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxrobust.data import Augment, BatchSizes, ResidentFeed
from jaxrobust.inversion import Features, Noisy, perceptual_distance, victim_features
from jaxrobust.models import Decoder, TinyCNN, build
from jaxrobust.numerics.fidelity import ssim
from jaxrobust.objectives import Inversion
from jaxrobust.training import Checkpoints, OptimizerConfig, Runtime, Wrapper, fit
from jaxrobust.types import Net, RowKeys
from tests.common.objectives_table import DISTANCE_FN, FEATURES_FN, PIXELS, batch
from tests.common.tiny import SHAPE, tiny_split

PARAMS = PIXELS.init(jax.random.key(1))[0]


def run(objective, b, model=PIXELS, params=PARAMS, stats=None):
    keys = [
        jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(stream), jnp.arange(images.shape[0]))
        for stream, images in enumerate((b.image, b.unlabelled))
    ]
    net = Net(model, params, {} if stats is None else stats, jnp.float32(0.5))
    return objective(RowKeys(*keys), net, b, objective.init(params))


def plain_pixels(params, stats, x, *, train, keys=None, axis_name=None):
    return PIXELS.apply(params, stats, x, train=False)


def noiseless(kernel, images, keys=None):
    return images.reshape(images.shape[0], -1) @ kernel


PLAIN = PIXELS._replace(apply=plain_pixels)
NOISELESS = Partial(noiseless, FEATURES_FN.args[0])


def test_loss_by_hand_over_both_streams():
    b = batch()
    weights = {"ssim_weight": 0.7, "perceptual_weight": 0.3, "feature_weight": 0.1}
    objective = Inversion(features_fn=NOISELESS, perceptual_fn=DISTANCE_FN, window=1, **weights)
    loss, aux = run(objective, b, PLAIN)
    x = np.concatenate([b.image, b.unlabelled]).astype(np.float64).reshape(12, 4)
    kernel = np.asarray(FEATURES_FN.args[0], np.float64)
    e = x @ kernel
    found = 1 / (1 + np.exp(-e @ np.asarray(PARAMS["kernel"], np.float64)))
    # Windows of one pixel have no variance: SSIM is its luminance term.
    similar = ((2 * x * found + 1e-4) / (x**2 + found**2 + 1e-4)).mean()
    perceived = np.abs((found - x) @ kernel[:, ::-1]).mean()
    own = found @ kernel
    cosine = ((own * e).sum(1) / np.linalg.norm(own, axis=1) / np.linalg.norm(e, axis=1)).mean()
    pixel = np.abs(x - found).mean()
    expected = pixel + 0.7 * (1 - similar) + 0.3 * perceived + 0.1 * (1 - cosine)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name, value in {
        "pixel_loss": pixel,
        "ssim": similar,
        "perceptual_loss": perceived,
        "feature_cosine": cosine,
        "loss": expected,
    }.items():
        np.testing.assert_allclose(aux.metrics[name], value, rtol=1e-5)


def test_no_label_is_read():
    b = batch()
    objective = Inversion(features_fn=FEATURES_FN, window=1)
    assert float(run(objective, b)[0]) == float(run(objective, b._replace(label=b.label + 1))[0])


def test_a_weight_of_0_leaves_its_pass_out():
    passes = {"features": 0, "distance": 0}

    def features(images, keys=None):
        passes["features"] += 1
        return images.reshape(images.shape[0], -1)[:, :3]

    def distance(first, second):
        passes["distance"] += 1
        return jnp.abs(first - second).mean((1, 2, 3))

    for weight, expected in ((0.0, {"features": 1, "distance": 0}), (0.1, {"features": 2, "distance": 1})):
        passes.update(features=0, distance=0)
        objective = Inversion(
            features_fn=features,
            perceptual_fn=distance,
            perceptual_weight=weight,
            feature_weight=weight,
            ssim_weight=0.0,
        )
        _, aux = run(objective, batch())
        assert passes == expected
        assert ("feature_cosine" in aux.metrics) == ("perceptual_loss" in aux.metrics) == (weight > 0)
        assert "ssim" not in aux.metrics


def test_noise_is_in_what_the_decoder_sees_and_not_in_what_is_compared():
    seen = []

    def features(images, keys=None):
        seen.append(keys is not None)
        return images.reshape(images.shape[0], -1)[:, :3]

    run(Inversion(features_fn=features, feature_weight=1.0, ssim_weight=0.0), batch())
    assert seen == [True, False]


# From here on with nets: a small victim, and a decoder of its embedding.
DECODER = build(Decoder(image_shape=SHAPE, width=4, groups=2), (1, 1, 64))


@pytest.fixture(scope="module")
def objective():
    model = build(TinyCNN(dropout=0.0), SHAPE)
    params, stats = model.init(jax.random.key(3))
    return Inversion(
        features_fn=victim_features(Features(protections=(Noisy(ratio=0.1),)), model, params, stats),
        perceptual_fn=perceptual_distance(model, *model.init(jax.random.key(4)), ("conv1",)),
        perceptual_weight=0.1,
        feature_weight=0.1,
        window=3,
    )


def trained(objective, num_steps, **options):
    return fit(
        model=options.pop("model", DECODER),
        objective=objective,
        optimizer=OptimizerConfig(name=options.pop("optimizer", "adam"), learning_rate=5e-3).build(10),
        feed=ResidentFeed(tiny_split(), BatchSizes(4, 8), seed=3, augment=Augment(flip=True)),
        num_steps=num_steps,
        seed=1,
        progress=False,
        log_every=5,
        **{"runtime": Runtime(wrapper=Wrapper.JIT, num_devices=1), **options},
    )


def leaves(state):
    return jax.tree.leaves(jax.device_get(state))


def test_the_victim_stays_as_it_is_and_no_optimizer_knows_it(objective):
    before = [np.array(leaf) for arrays in objective.init(None) for leaf in jax.tree.leaves(arrays)]
    state = trained(objective, 3)
    after = leaves(state.obj_state)
    assert len(after) == len(before) > 10
    for one, other in zip(before, after):
        np.testing.assert_array_equal(one, other)
    # Adam: two moments of every parameter of the decoder, and counters.
    own = sum(leaf.size for leaf in leaves(state.params))
    assert own <= sum(leaf.size for leaf in leaves(state.opt_state)) - own <= own + 4
    # The arrays that the caller gave were not donated.
    np.testing.assert_array_equal(before[0], objective.init(None)[0][0])


def test_a_run_that_goes_on_ends_like_one_that_did_not_stop(objective, tmp_path):
    whole = trained(objective, 6)
    folder = {"directory": tmp_path, "keep": 1}
    trained(objective, 3, checkpoints=Checkpoints(**folder))
    resumed = trained(objective, 6, checkpoints=Checkpoints(**folder))
    for one, other in zip(leaves(whole), leaves(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("wrapper", [Wrapper.SHARD_MAP, pytest.param(Wrapper.PMAP, marks=pytest.mark.slow)])
def test_four_devices_make_the_run_of_one(objective, wrapper):
    # Adam would divide the rounding of small gradients by their size.
    one = trained(objective, 2, optimizer="sgd")
    four = trained(objective, 2, optimizer="sgd", runtime=Runtime(wrapper=wrapper, num_devices=4))
    for a, b in zip(leaves(one.params), leaves(four.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_feature_map_is_inverted_as_it_is():
    model = build(TinyCNN(dropout=0.0), SHAPE)
    features_fn = victim_features(Features(layer="conv2"), model, *model.init(jax.random.key(3)))
    shape = jax.eval_shape(features_fn, jnp.zeros((1, *SHAPE))).shape[1:]
    decoder = build(Decoder(image_shape=SHAPE, width=4, groups=2), shape)
    state = trained(Inversion(features_fn=features_fn, window=3), 1, model=decoder)
    assert shape[0] > 1 and state.params["seed"]["kernel"].shape[:2] == (1, 1)


def flat(images, keys=None):
    return images.reshape(images.shape[0], -1)


def test_a_decoder_learns_the_inverse_of_an_embedding_that_is_the_image():
    decoder = build(Decoder(image_shape=SHAPE, width=8, groups=2), (1, 1, 36))
    images = tiny_split().unlabelled.astype(np.float32) / 255

    def similarity(state):
        out = decoder.apply(state.params, {}, images.reshape(-1, 1, 1, 36), train=False)[0]
        return float(ssim(images, out.taps["image"], window=3).mean())

    objective = Inversion(features_fn=flat, window=3)
    early, late = (similarity(trained(objective, steps, model=decoder)) for steps in (1, 120))
    assert late > early + 0.2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ssim_weight": -1.0}, "ssim_weight >= 0"),
        ({"perceptual_weight": 0.1}, "perceptual_fn with perceptual_weight=0.1"),
        ({"features_fn": 3}, "features_fn to be a callable"),
        ({"window": 0}, "window >= 1"),
    ],
)
def test_bad_fields(options, said):
    with pytest.raises(ValueError, match=said):
        Inversion(**{"features_fn": flat, **options})


def test_a_decoder_that_does_not_fit_is_refused():
    b = batch()
    with pytest.raises(ValueError, match=r"are \[4\], but the decoder takes \[1, 1, 3\]. Build it for them"):
        run(Inversion(features_fn=flat), b)
    objective = Inversion(features_fn=FEATURES_FN)
    with pytest.raises(ValueError, match="window=11 pixels, got 2x2"):
        run(objective, b)
    wide = build(Decoder(image_shape=(8, 8, 1), width=2), (1, 1, 3))
    with pytest.raises(ValueError, match=r"makes images \[8, 8, 1\], the data has \[2, 2, 1\]"):
        run(objective, b, wide, *wide.init(jax.random.key(0)))
    classifier = build(TinyCNN(), (4, 4, 1))._replace(image_shape=(1, 1, 3), apply=no_image)
    with pytest.raises(ValueError, match="Expected a decoder, whose Outputs"):
        run(objective, b, classifier)


def no_image(params, stats, x, *, train, keys=None, axis_name=None):
    outputs, stats = PIXELS.apply(params, stats, x, train=False)
    return outputs._replace(taps=None), stats
