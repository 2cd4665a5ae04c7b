"""What `build` refuses, before anything is compiled, and what a built model refuses at its call."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.models import PreActResNet18, SmallCNN, SpatialResNet, TinyCNN, WideResNet, build
from jaxrobust.types import Outputs


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (SmallCNN(), (8, 8, 1), "at least 16x16 for SmallCNN, got 8x8"),
        (SmallCNN(), (28, 15, 1), "at least 16x16 for SmallCNN, got 28x15"),
        (PreActResNet18(), (4, 4, 3), "at least 8x8"),
        (SpatialResNet(), (30, 30, 3), "divisible by 4"),
        (SpatialResNet(filters=(16, 32, 16, 64)), (32, 32, 3), r"\(16, 32, 16, 64\)"),
        (SpatialResNet(units=0), (32, 32, 3), "units >= 1"),
        (SmallCNN(), (28, 28), r"image_shape=\(h, w, c\), got \(28, 28\)"),
        (SmallCNN(), (28, 28, 0), "channels >= 1"),
        (SmallCNN(), (28, 28.0, 1), "integer width"),
        (WideResNet(mean=(0.5, 0.5, 0.5), std=(1.0, 1.0, 1.0)), (32, 32, 1), "Expected 1 channels' values"),
        (SmallCNN(mean=(0.5,)), (28, 28, 1), "both or neither of mean and std"),
        (SmallCNN(mean=(0.5,), std=(0.0,)), (28, 28, 1), "std > 0"),
        (SmallCNN(mean=0.5, std=1.0), (28, 28, 1), "to be tuples"),
        (SmallCNN(num_classes=1), (28, 28, 1), "num_classes >= 2"),
        (SmallCNN(dtype="float8"), (28, 28, 1), "Unknown dtype 'float8'. Known: bfloat16, float32"),
        (SmallCNN(dropout=1.0), (28, 28, 1), "dropout <= 0.99"),
        (WideResNet(depth=33), (32, 32, 3), "The nearest are 28 and 34"),
        (WideResNet(depth=4), (32, 32, 3), "depth >= 10"),
        (WideResNet(widen_factor=0), (32, 32, 3), "widen_factor >= 1"),
        (PreActResNet18(width=0), (32, 32, 3), "width >= 1"),
        (TinyCNN, (8, 8, 1), "Expected an instance of a flax.linen module, got TinyCNN"),
        (nn.Dense(10), (8, 8, 1), "Dense has none"),
    ],
)
def test_build_refuses(module, shape, message):
    with pytest.raises(ValueError, match=message):
        build(module, shape)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 8, 9, 1), "float32", r"shape \[b, 8, 8, 1\], got \[2, 8, 9, 1\]"),
        ((8, 8, 1), "float32", r"Add a batch axis: x\[None\]"),
        ((2, 1, 8, 8), "float32", r"got \[2, 1, 8, 8\]"),
        ((2, 8, 8, 1), "uint8", "Divide 8-bit images by 255"),
    ],
)
def test_apply_refuses_wrong_images(shape, dtype, message):
    model = build(TinyCNN(), (8, 8, 1))
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        model.apply(params, stats, jnp.zeros(shape, dtype), train=False)


def test_init_depends_on_the_key_alone_and_nests_in_jit():
    model = build(TinyCNN(), (8, 8, 1))
    params, stats = model.init(jax.random.key(0))
    again, _ = jax.jit(model.init)(jax.random.key(0))
    other, _ = model.init(jax.random.key(1))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, again)
    assert np.any(params["conv1"]["kernel"] != other["conv1"]["kernel"])
    assert stats == {}


def test_a_users_linen_module_is_built_alike():
    class Linear(nn.Module):
        num_classes: int = 3

        @nn.compact
        def __call__(self, x, *, train, keys=None, axis_name=None):
            return Outputs(nn.Dense(self.num_classes)(x.reshape(len(x), -1)))

    model = build(Linear(), (4, 4, 1))
    params, stats = model.init(jax.random.key(0))
    outputs, _ = model.apply(params, stats, jnp.ones((2, 4, 4, 1)), train=True)
    assert outputs.logits.shape == (2, 3) and model.num_classes == 3
