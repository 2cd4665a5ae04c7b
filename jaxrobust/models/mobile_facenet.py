"""MobileFaceNet, the small net of face verification."""

import re
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.models._layers import NORMS, TORCH_PADDING, Conv, PReLU, he_fan_in, he_fan_out, norm, normalise
from jaxrobust.models.heads import check_head, identify
from jaxrobust.numerics.depthwise import depthwise_conv2d
from jaxrobust.types import Array, Outputs

BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
"""Table 1 of arXiv 1804.07573: expansion factor t, channels c, repetitions n, stride s of the first."""


class _Depthwise(nn.Module):
    """A 3x3 convolution of each channel by itself, padded by 1."""

    stride: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # Its fan-in is 9; the fan-out of the others would be counted over all channels.
        kernel = self.param("kernel", he_fan_in, (3, 3, 1, x.shape[-1]), jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        return depthwise_conv2d(x, kernel, strides=(self.stride, self.stride))


class _GlobalDepthwise(nn.Module):
    """GDConv, G_m = sum_{i, j} K_{i, j, m} F_{i, j, m} (eq. (2)): `[b, h, w, c]` to `[b, c]`."""

    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", he_fan_in, (*x.shape[1:3], 1, x.shape[3]), jnp.float32)
        return jnp.sum(x.astype(self.dtype) * kernel[:, :, 0].astype(self.dtype), axis=(1, 2))


class _Bottleneck(nn.Module):
    """1x1 up, 3x3 depthwise, linear 1x1 down; the input is added where the shapes agree."""

    features: int
    stride: int
    expansion: int
    norm: str
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool, axis_name: str | None) -> Array:
        pointwise = partial(
            Conv, kernel_size=(1, 1), use_bias=False, kernel_init=he_fan_out, dtype=self.dtype
        )
        normed = partial(norm, self.norm, dtype=self.dtype, train=train, axis_name=axis_name)
        y = normed(pointwise(x.shape[-1] * self.expansion, name="conv_0")(x), name="conv_1")
        y = PReLU(self.dtype, name="conv_2")(y)
        y = normed(_Depthwise(self.stride, self.dtype, name="conv_3")(y), name="conv_4")
        y = PReLU(self.dtype, name="conv_5")(y)
        y = normed(pointwise(self.features, name="conv_6")(y), name="conv_7")
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class _Layer(nn.Module):
    """A layer of table 1 outside the bottlenecks: `inner`, normalisation, PReLU unless it is linear."""

    inner: nn.Module
    norm: str
    dtype: str
    linear: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool, axis_name: str | None) -> Array:
        x = norm(self.norm, self.inner(x), name="bn", dtype=self.dtype, train=train, axis_name=axis_name)
        return x if self.linear else PReLU(self.dtype, name="prelu")(x)


class MobileFaceNet(nn.Module):
    """Table 1 of arXiv 1804.07573: MobileNetV2's bottlenecks, PReLU, and a global depthwise convolution.

    Where other nets average, each channel weighs the places of its last activation by a filter as large as
    it. On `[112, 112, 3]` it has 1,003,136 parameters without the head; the paper's 0.99M are those without
    the 7,552 slopes of PReLU.

    Attributes:
        num_classes: the people it is trained on.
        dtype: the compute dtype by name; parameters, embedding and logits are float32 always.
        mean, std: normalisation per channel, inside the net; the paper divides by 128 where we take 127.5.
        scale: s of the head's logits s cos(theta_j); None for a softmax head, see `models.heads`.
        embedding_size: d.
        norm: "batch", the paper's, or "group".
        bottlenecks: (t, c, n, s) of each group of bottlenecks.
        width: channels of the first two layers.
        last_width: channels of the last activation.
        remat: whether train mode keeps only what enters each bottleneck, see `with_remat`.

    Its embedding `[b, d]` has unit length. Its taps are `conv1`, `blocks1` to `blocks5` and `final`, the
    activation that GDConv reads (Grad-CAM's).
    """

    num_classes: int = 10
    dtype: str = "float32"
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    scale: float | None = 64.0
    embedding_size: int = 128
    norm: str = "batch"
    bottlenecks: tuple[tuple[int, int, int, int], ...] = BOTTLENECKS
    width: int = 64
    last_width: int = 512
    remat: bool = False

    native_shape: ClassVar[tuple[int, int, int]] = (112, 112, 3)
    min_size: ClassVar[int] = 16
    # Files of backbones have no class weights.
    torch_absent: ClassVar[tuple[str, ...]] = ("head",)

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raises ValueError for fields out of range."""
        check_head(self.embedding_size, self.scale)
        _validate.member("norm", self.norm, NORMS)
        _validate.at_least("width", self.width, 1)
        _validate.at_least("last_width", self.last_width, 1)
        for row in self.bottlenecks:
            if len(row) != 4 or min(row) < 1:
                raise ValueError(f"Expected bottlenecks of (t, c, n, s), all >= 1, got {row}.")

    def torch_prefix(self, layer: str) -> str:
        """The name of a layer in the state dicts of MobileFaceNet_Pytorch and what followed it."""
        return "conv" if layer == "inner" else re.sub(r"_(\d)", r".\1", layer)

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, keys: Array | None = None, axis_name: str | None = None
    ) -> Outputs:
        """`x` `[b, h, w, c]` in [0, 1] to Outputs; BatchNorm averages over `axis_name` in train mode."""
        x = normalise(x, self.mean, self.std)
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype, parent=None)
        layer = partial(_Layer, norm=self.norm, dtype=self.dtype)
        x = layer(conv(self.width, (3, 3), (2, 2), TORCH_PADDING), name="conv1")(x, train, axis_name)
        taps = {"conv1": x}
        x = layer(_Depthwise(1, self.dtype, parent=None), name="dw_conv1")(x, train, axis_name)
        block_class = nn.remat(_Bottleneck, static_argnums=(2, 3)) if self.remat and train else _Bottleneck
        count = 0
        for group, (expansion, features, repetitions, stride) in enumerate(self.bottlenecks, start=1):
            for i in range(repetitions):
                block = block_class(
                    features,
                    stride=stride if i == 0 else 1,
                    expansion=expansion,
                    norm=self.norm,
                    dtype=self.dtype,
                    name=f"blocks_{count}",
                )
                x = block(x, train, axis_name)
                count += 1
            taps[f"blocks{group}"] = x
        x = layer(conv(self.last_width, (1, 1)), name="conv2")(x, train, axis_name)
        taps["final"] = x
        x = layer(_GlobalDepthwise(self.dtype, parent=None), linear=True, name="linear7")(x, train, axis_name)
        pointwise = conv(self.embedding_size, (1, 1))
        x = layer(pointwise, linear=True, name="linear1")(x[:, None, None], train, axis_name)[:, 0, 0]
        return identify(x, self.num_classes, self.scale, taps)
