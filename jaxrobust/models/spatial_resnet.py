"""The CIFAR-10 residual net of the geometry experiments."""

from dataclasses import field
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.models._layers import BatchNorm, Conv, he_fan_out, leaky_relu, standardise
from jaxrobust.models._plain import classify
from jaxrobust.numerics.pooling import global_avg_pool
from jaxrobust.types import LATER, Array, Outputs

SLOPE = 0.1
BN_EPS = 1e-3  # TensorFlow's default, which the source leaves alone


class _Unit(nn.Module):
    """A pre-activation unit; its shortcut is an average pool and zero channels, without parameters."""

    features: int
    stride: int
    activate_shortcut: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool, axis_name: str | None) -> Array:
        conv = partial(Conv, self.features, padding="SAME", use_bias=False, kernel_init=he_fan_out)

        def activated(x: Array, name: str) -> Array:
            norm = BatchNorm(eps=BN_EPS, dtype=self.dtype, name=name)
            return leaky_relu(norm(x, train=train, axis_name=axis_name), SLOPE)

        y = activated(x, "bn1")
        shortcut = _shortcut(y if self.activate_shortcut else x, self.features, self.stride)
        y = conv(strides=(self.stride, self.stride), dtype=self.dtype, name="conv1")(y)
        return conv(dtype=self.dtype, name="conv2")(activated(y, "bn2")) + shortcut


def _shortcut(x: Array, features: int, stride: int) -> Array:
    """Averages over stride x stride windows, and as many zero channels on both sides as `features` asks."""
    if stride > 1:
        b, h, w, c = x.shape
        x = x.reshape(b, h // stride, stride, w // stride, stride, c).mean((2, 4))
    lacking = features - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (lacking // 2, lacking - lacking // 2)))


class SpatialResNet(nn.Module):
    """Pre-activation ResNet, three stages of 5 units, filters 16, 16, 32, 64, leaky ReLU 0.1.

    The net (arXiv 1603.05027, as in Engstrom et al., arXiv 1712.02779) that SRT's source trains against
    rotations and translations of CIFAR-10; it standardises each image. Shortcuts pool and pad with zeros. The
    momentum of the running statistics and the eps of 1e-3 are the source's.

    Attributes:
        num_classes: k.
        dtype: the compute dtype by name; parameters and logits are float32 always.
        standardise: whether each image is brought to mean 0 and deviation 1 first.
        filters: of the first convolution and of the three stages.
        units: units per stage.
        remat: whether train mode keeps only what enters each block, see `with_remat`.

    Its taps are `init_conv`, `stage1` to `stage3` and `final`, the activation that is pooled (Grad-CAM's).
    """

    num_classes: int = 10
    dtype: str = "float32"
    standardise: bool = True
    filters: tuple[int, int, int, int] = (16, 16, 32, 64)
    units: int = 5
    remat: bool = field(default=False, metadata=LATER)

    native_shape: ClassVar[tuple[int, int, int]] = (32, 32, 3)
    min_size: ClassVar[int] = 4

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raises ValueError for fields out of range, and for sizes that the shortcuts cannot halve twice."""
        _validate.at_least("units", self.units, 1)
        if any(b < a for a, b in zip(self.filters, self.filters[1:])):
            raise ValueError(
                f"Expected filters that never decrease (shortcuts only add channels), got {self.filters}."
            )
        if image_shape[0] % 4 or image_shape[1] % 4:
            raise ValueError(
                f"Expected a height and width divisible by 4 for SpatialResNet, got {image_shape}: "
                "its shortcuts halve them twice. Pad or resize the images."
            )

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, keys: Array | None = None, axis_name: str | None = None
    ) -> Outputs:
        """`x` `[b, h, w, c]` in [0, 1] to Outputs; BatchNorm averages over `axis_name` in train mode."""
        x = standardise(x) if self.standardise else x
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        x = conv(self.filters[0], padding="SAME", name="init_conv")(x)
        taps = {"init_conv": x}
        unit_class = nn.remat(_Unit, static_argnums=(2, 3)) if self.remat and train else _Unit
        for stage, width in enumerate(self.filters[1:], start=1):
            for i in range(self.units):
                unit = unit_class(
                    width,
                    stride=2 if stage > 1 and i == 0 else 1,
                    activate_shortcut=stage == 1 and i == 0,
                    dtype=self.dtype,
                    name=f"unit_{stage}_{i}",
                )
                x = unit(x, train, axis_name)
            taps[f"stage{stage}"] = x
        x = BatchNorm(eps=BN_EPS, dtype=self.dtype, name="final_bn")(x, train=train, axis_name=axis_name)
        taps["final"] = x = leaky_relu(x, SLOPE)
        return classify(global_avg_pool(x), self.num_classes, "logit", taps)
