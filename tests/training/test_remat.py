"""Rematerialisation: the same gradients from fewer activations kept."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.data import BatchSizes, ImageSet, ResidentFeed, Split
from jaxrobust.models import PreActResNet18, SmallCNN, SpatialResNet, WideResNet, build, with_remat
from jaxrobust.neighbourhoods import LInf
from jaxrobust.numerics import losses
from jaxrobust.objectives import AT
from jaxrobust.training import OptimizerConfig, Runtime, fit
from jaxrobust.types import Model, Outputs

TINY = {
    "preact_resnet18": PreActResNet18(width=2),
    "wrn": WideResNet(depth=10, widen_factor=1, dropout=0.3),
    "spatial_resnet": SpatialResNet(filters=(2, 2, 4, 4), units=1),
}


def training_pass(model, rows):
    """The loss of a training pass as a function of the parameters, and its other arguments."""

    def loss_fn(params, stats, x, keys):
        outputs, stats = model.apply(params, stats, x, train=True, keys=keys)
        return losses.cross_entropy(outputs.logits, jnp.arange(rows) % model.num_classes).mean(), stats

    x = np.random.default_rng(0).random((rows, *model.image_shape), np.float32)
    return loss_fn, (x, jax.random.split(jax.random.key(1), rows))


@pytest.mark.parametrize(
    "name",
    [
        "spatial_resnet",
        pytest.param("preact_resnet18", marks=pytest.mark.slow),
        pytest.param("wrn", marks=pytest.mark.slow),
    ],
)
def test_gradients_and_statistics_are_equal(name):
    model = build(TINY[name], (8, 8, 3))
    params, stats = model.init(jax.random.key(0))
    chex.assert_trees_all_equal(with_remat(model).init(jax.random.key(0)), (params, stats))
    found = []
    for one in (model, with_remat(model)):
        loss_fn, arguments = training_pass(one, 4)
        found.append(jax.jit(jax.grad(loss_fn, has_aux=True))(params, stats, *arguments))
    chex.assert_trees_all_close(*found, rtol=1e-5, atol=1e-6)


def kept_bytes(model, rows):
    """What a training pass hands from its forward to its backward half, counted without running it."""
    loss_fn, arguments = training_pass(model, rows)
    params, stats = jax.eval_shape(model.init, jax.random.key(0))

    def backward(params, stats, *arguments):
        return jax.vjp(lambda params: loss_fn(params, stats, *arguments)[0], params)[1]

    leaves = jax.tree.leaves(jax.eval_shape(backward, params, stats, *arguments))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


@pytest.mark.parametrize("module", [PreActResNet18(), WideResNet(depth=16, widen_factor=2)])
def test_a_training_pass_keeps_less(module):
    model = build(module, (32, 32, 3))
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((params, stats)))
    plain, remat = (kept_bytes(one, 16) - weights for one in (model, with_remat(model)))
    assert remat < plain / 2.5


@pytest.mark.slow
def test_preact_resnet18_compiles_to_less_memory():
    """Compiled as `Runtime` does on CPU, not run."""
    model = build(PreActResNet18(), (32, 32, 3))
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    temporary = []
    for runtime, one in (
        (Runtime(num_devices=1), model),
        (Runtime(num_devices=1, remat=True), with_remat(model)),
    ):
        loss_fn, (x, keys) = training_pass(one, 16)

        def update(state, arrays, cursor, words, loss_fn=loss_fn):
            grads, stats = jax.grad(loss_fn, has_aux=True)(*state, cursor[0], cursor[1])
            return (grads, stats), {}

        program = runtime.compile(update).lower((params, stats), (), (x, keys), ())
        temporary.append(program.compile().memory_analysis().temp_size_in_bytes)
    assert temporary[1] < 0.7 * temporary[0]


@pytest.mark.slow
def test_a_run_with_remat_is_the_run_without():
    rng = np.random.default_rng(0)
    labelled = ImageSet(rng.integers(0, 256, (8, 8, 8, 3)).astype(np.uint8), np.arange(8, dtype=np.int32) % 4)
    parts = Split(labelled, labelled.images[:0], ImageSet(labelled.images[:0], labelled.labels[:0]), {})
    states = [
        fit(
            model=build(WideResNet(num_classes=4, depth=10, widen_factor=1), (8, 8, 3)),
            objective=AT(attack=PGD(neighbourhood=LInf(eps=0.03), steps=1)),
            optimizer=OptimizerConfig(learning_rate=0.05).build(2),
            feed=ResidentFeed(parts, BatchSizes(4, 0), seed=0),
            num_steps=2,
            seed=0,
            runtime=Runtime(num_devices=2, remat=remat),
            progress=False,
        )
        for remat in (False, True)
    ]
    chex.assert_trees_all_close(*jax.device_get(states), rtol=1e-4, atol=1e-5)


def foreign_apply(params, stats, x, *, train, keys=None, axis_name=None):
    return Outputs(x.reshape(len(x), -1)), stats


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (build(SmallCNN(), (28, 28, 1)), "SmallCNN"),
        (Model(None, foreign_apply, (1, 2, 1), 2), "foreign_apply"),
    ],
)
def test_nets_without_blocks_are_refused(model, name):
    with pytest.raises(ValueError, match=f"Expected a net made of blocks .* got {name}"):
        with_remat(model)
