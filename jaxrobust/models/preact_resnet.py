"""PreActResNet-18, the usual small net of adversarial training on CIFAR-10."""

from dataclasses import field
from functools import partial
from typing import ClassVar

import flax.linen as nn

from jaxrobust import _validate
from jaxrobust.models._layers import TORCH_PADDING, BatchNorm, Conv, he_fan_out, normalise
from jaxrobust.models._plain import classify
from jaxrobust.numerics.pooling import global_avg_pool
from jaxrobust.types import LATER, Array, Outputs


class _Block(nn.Module):
    """BN, ReLU, conv, BN, ReLU, conv, plus the shortcut, a 1x1 convolution where the shape changes."""

    features: int
    stride: int
    activated_shortcut: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool, axis_name: str | None) -> Array:
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        strides = (self.stride, self.stride)
        y = BatchNorm(dtype=self.dtype, name="bn1")(x, train=train, axis_name=axis_name)
        y = nn.relu(y)
        shortcut = x
        if self.stride != 1 or x.shape[-1] != self.features:
            source = y if self.activated_shortcut else x
            shortcut = conv(self.features, (1, 1), strides, "VALID", name="shortcut_0")(source)
        y = conv(self.features, (3, 3), strides, TORCH_PADDING, name="conv1")(y)
        y = BatchNorm(dtype=self.dtype, name="bn2")(y, train=train, axis_name=axis_name)
        y = conv(self.features, padding=TORCH_PADDING, name="conv2")(nn.relu(y))
        return y + shortcut


class PreActResNet18(nn.Module):
    """Four stages of two pre-activation blocks, widths 64, 128, 256, 512; 11.17M parameters.

    The units are those of arXiv 1603.05027. Public nets of this name differ in two points, which the fields
    name. The defaults are the paper's and those of Rice et al. (arXiv 2002.11569) in RobustBench; its
    Wong2020Fast and Andriushchenko2020Understanding have both False.

    Attributes:
        num_classes: k.
        dtype: the compute dtype by name; parameters and logits are float32 always.
        mean, std: normalisation per channel, inside the net; empty for none.
        width: filters of the first stage.
        activated_shortcut: whether the 1x1 shortcuts read the activated input of their block, or the raw one.
        final_norm: whether BatchNorm and ReLU come before the pooling.
        remat: whether train mode keeps only what enters each block, see `with_remat`.

    Its taps are `conv1`, `layer1` to `layer4` and `final`, the activation that is pooled (Grad-CAM's).
    """

    num_classes: int = 10
    dtype: str = "float32"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    width: int = 64
    activated_shortcut: bool = True
    final_norm: bool = True
    remat: bool = field(default=False, metadata=LATER)

    native_shape: ClassVar[tuple[int, int, int]] = (32, 32, 3)
    min_size: ClassVar[int] = 8

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raises ValueError for fields out of range."""
        _validate.at_least("width", self.width, 1)

    def torch_prefix(self, layer: str) -> str:
        """The name of a layer in RobustBench's state dicts."""
        return layer.replace("_", ".")

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, keys: Array | None = None, axis_name: str | None = None
    ) -> Outputs:
        """`x` `[b, h, w, c]` in [0, 1] to Outputs; BatchNorm averages over `axis_name` in train mode."""
        x = normalise(x, self.mean, self.std)
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        x = conv(self.width, padding=TORCH_PADDING, name="conv1")(x)
        taps = {"conv1": x}
        block_class = nn.remat(_Block, static_argnums=(2, 3)) if self.remat and train else _Block
        for stage in range(4):
            for i in range(2):
                block = block_class(
                    self.width * 2**stage,
                    stride=2 if stage > 0 and i == 0 else 1,
                    activated_shortcut=self.activated_shortcut,
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{i}",
                )
                x = block(x, train, axis_name)
            taps[f"layer{stage + 1}"] = x
        if self.final_norm:
            x = nn.relu(BatchNorm(dtype=self.dtype, name="bn")(x, train=train, axis_name=axis_name))
        taps["final"] = x
        return classify(global_avg_pool(x), self.num_classes, "linear", taps)
