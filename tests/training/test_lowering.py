"""The train step and the attack lower for TPU and CUDA on a machine that has neither."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxrobust.attacks import PGD
from jaxrobust.data import Cursor
from jaxrobust.models import MODELS, PreActResNet18, Precision, WideResNet, build, with_precision
from jaxrobust.neighbourhoods import LInf, RotationTranslation
from jaxrobust.objectives import SRT, TRADES
from jaxrobust.training import OptimizerConfig, init_state, make_train_step, make_update
from jaxrobust.types import Batch, Example
from tests.common.tiny import tiny_feed, tiny_model, tiny_objective

PLATFORMS = pytest.mark.parametrize("platform", ["tpu", "cuda"])


def step_and_arguments(model, objective, rows=4):
    optimizer = OptimizerConfig(learning_rate=0.1, weight_decay=5e-4).build(10)
    state = jax.eval_shape(lambda key: init_state(key, model, objective, optimizer), jax.random.key(0))
    images = jax.ShapeDtypeStruct((rows, *model.image_shape), jnp.float32)
    batch = Batch(images, jax.ShapeDtypeStruct((rows,), jnp.int32), images)
    step = make_train_step(model, objective, optimizer, num_steps=10)
    return step, (state, batch, jax.eval_shape(lambda: jax.random.key(0)))


@PLATFORMS
@pytest.mark.parametrize("name", ["small_cnn", pytest.param("preact_resnet18", marks=pytest.mark.slow)])
def test_srt_step(platform, name):
    shape = {"small_cnn": (28, 28, 1), "preact_resnet18": (32, 32, 3)}[name]
    objective = SRT(attack=PGD(neighbourhood=LInf(eps=0.3), steps=2), warmup=0.4)
    step, arguments = step_and_arguments(build(MODELS[name](), shape), objective)
    exported = export.export(jax.jit(step), platforms=[platform])(*arguments)
    assert exported.platforms == (platform,)


@pytest.mark.parametrize("name", [pytest.param("preact_resnet18", marks=pytest.mark.slow), "wrn"])
def test_bfloat16_steps_convolve_in_bfloat16_forward_and_backward(name):
    """Small versions of the nets that are trained in bfloat16; weights go in and come out in float32."""
    module = {"preact_resnet18": PreActResNet18(width=4), "wrn": WideResNet(depth=10, widen_factor=1)}[name]
    model = with_precision(build(module, (8, 8, 3)), Precision.BF16)
    objective = TRADES(attack=PGD(neighbourhood=LInf(eps=0.03), steps=2))
    step, arguments = step_and_arguments(model, objective)
    exported = export.export(jax.jit(step), platforms=["cuda"])(*arguments)
    convolutions = [line for line in exported.mlir_module().splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) > 20
    assert all(re.search(r"xbf16>\) -> tensor<[0-9x]+xbf16>", line) for line in convolutions)
    assert not any(aval.dtype == jnp.bfloat16 for aval in (*exported.in_avals, *exported.out_avals))


@pytest.mark.parametrize(("platform", "convolutions"), [("tpu", True), ("cuda", True), ("cpu", False)])
def test_accelerators_get_xlas_own_convolution(platform, convolutions):
    """The tiny net's one convolution reads grey images: on CPU it is arithmetic, forward and backward."""
    step, arguments = step_and_arguments(tiny_model(), tiny_objective())
    exported = export.export(jax.jit(step), platforms=[platform])(*arguments)
    assert ("stablehlo.convolution" in exported.mlir_module()) == convolutions


@PLATFORMS
def test_geometric_attack(platform):
    attack = PGD(neighbourhood=RotationTranslation(max_angle=30.0, max_shift=3.0), steps=2)
    model = tiny_model()
    params, stats = jax.eval_shape(model.init, jax.random.key(0))

    def run(params, stats, keys, example):
        return attack(keys, lambda x, _: model.apply(params, stats, x, train=False)[0].logits, example)

    example = Example(
        jax.ShapeDtypeStruct((4, *model.image_shape), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32)
    )
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 4))
    exported = export.export(jax.jit(run), platforms=[platform])(params, stats, keys, example)
    assert exported.platforms == (platform,)


@PLATFORMS
def test_sharded_update_with_its_feed(platform):
    model, objective, feed = tiny_model(), tiny_objective(), tiny_feed()
    optimizer = OptimizerConfig().build(10)
    state = jax.eval_shape(lambda key: init_state(key, model, objective, optimizer), jax.random.key(0))
    step = make_train_step(model, objective, optimizer, num_steps=10, axis_name="batch")
    mesh = Mesh(np.array(jax.devices()[:4]), ("batch",), axis_types=(AxisType.Auto,))
    update = jax.shard_map(
        make_update(feed, step, "batch"), mesh=mesh, in_specs=(P(), P(), P("batch"), P()), out_specs=P()
    )
    cursor = feed.cursor(0)
    assert isinstance(cursor, Cursor)
    words = jax.random.key_data(jax.random.key(0))
    exported = export.export(jax.jit(update), platforms=[platform])(state, feed.arrays, cursor, words)
    assert exported.nr_devices == 4 and "all_reduce" in exported.mlir_module()
