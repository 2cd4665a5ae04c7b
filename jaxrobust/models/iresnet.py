"""IResNet, the residual nets of InsightFace."""

import re
from functools import partial
from typing import ClassVar

import flax.linen as nn

from jaxrobust import _validate
from jaxrobust.models._layers import (
    NORMS,
    TORCH_PADDING,
    Conv,
    Dense,
    PReLU,
    dropout,
    he_fan_out,
    norm,
    normalise,
)
from jaxrobust.models.heads import check_head, identify
from jaxrobust.types import Array, Outputs

UNITS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
"""Units of the four stages by depth."""


class _Unit(nn.Module):
    """BN, conv, BN, PReLU, conv (strided), BN, plus the input (a strided 1x1 convolution and BN)."""

    features: int
    stride: int
    norm: str
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool, axis_name: str | None) -> Array:
        conv = partial(Conv, self.features, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        normed = partial(norm, self.norm, dtype=self.dtype, train=train, axis_name=axis_name)
        strides = (self.stride, self.stride)
        y = conv(padding=TORCH_PADDING, name="conv1")(normed(x, name="bn1"))
        y = PReLU(self.dtype, name="prelu")(normed(y, name="bn2"))
        y = normed(conv(strides=strides, padding=TORCH_PADDING, name="conv2")(y), name="bn3")
        if self.stride != 1 or x.shape[-1] != self.features:
            x = normed(conv((1, 1), strides, name="downsample_0")(x), name="downsample_1")
        return y + x


class IResNet(nn.Module):
    """InsightFace's nets: improved residual units (arXiv 1801.07698, section 3.1), then BN, dropout, FC, BN.

    No pooling: the first convolution keeps the size and each of four stages halves it, so that 112x112 ends
    in 7x7, which is flattened. Without the head they have 24.03M (18), 34.14M (34), 43.59M (50) and 65.16M
    (100) parameters on `[112, 112, 3]`. Deviations from the authors' code: weights start He normal, not with
    deviation 0.1; the last normalisation's scale is trained, where theirs stays 1.

    Attributes:
        num_classes: the people it is trained on.
        dtype: the compute dtype by name; parameters, embedding and logits are float32 always.
        mean, std: normalisation per channel, inside the net, the authors'.
        scale: s of the head's logits s cos(theta_j); None for a softmax head, see `models.heads`.
        embedding_size: d.
        norm: "batch", the authors', or "group".
        depth: 18, 34, 50 or 100.
        width: filters of the first stage.
        dropout: the rate before the dense layer, in [0, 1), by row keys.
        remat: whether train mode keeps only what enters each unit, see `with_remat`.

    Its embedding `[b, d]` has unit length. Its taps are `conv1`, `layer1` to `layer4` and `final`, the
    normalised activation that is flattened (Grad-CAM's).
    """

    num_classes: int = 10
    dtype: str = "float32"
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    scale: float | None = 64.0
    embedding_size: int = 512
    norm: str = "batch"
    depth: int = 50
    width: int = 64
    dropout: float = 0.0
    remat: bool = False

    native_shape: ClassVar[tuple[int, int, int]] = (112, 112, 3)
    min_size: ClassVar[int] = 16
    # Files of backbones have no class weights.
    torch_absent: ClassVar[tuple[str, ...]] = ("head",)

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raises ValueError for fields out of range."""
        check_head(self.embedding_size, self.scale)
        _validate.member("norm", self.norm, NORMS)
        if self.depth not in UNITS:
            known = ", ".join(map(str, UNITS))
            raise ValueError(f"Expected a depth of {known}, got depth={self.depth}.")
        _validate.at_least("width", self.width, 1)
        _validate.within("dropout", self.dropout, 0.0, 0.99)

    def torch_prefix(self, layer: str) -> str:
        """The name of a layer in InsightFace's state dicts."""
        return re.sub(r"_(\d)", r".\1", layer)

    def torch_flattened(self, image_shape: tuple[int, int, int]) -> dict[str, tuple[int, int, int]]:
        """The dense layers that read a flattened activation, with its shape (h, w, c)."""
        h, w = (-(-size // 16) for size in image_shape[:2])
        return {"fc": (h, w, 8 * self.width)}

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, keys: Array | None = None, axis_name: str | None = None
    ) -> Outputs:
        """`x` `[b, h, w, c]` in [0, 1] to Outputs; train mode needs `keys` `[b]` where dropout > 0."""
        x = normalise(x, self.mean, self.std)
        normed = partial(norm, self.norm, dtype=self.dtype, train=train, axis_name=axis_name)
        stem = Conv(
            self.width,
            padding=TORCH_PADDING,
            use_bias=False,
            kernel_init=he_fan_out,
            dtype=self.dtype,
            name="conv1",
        )
        taps = {"conv1": (x := PReLU(self.dtype, name="prelu")(normed(stem(x), name="bn1")))}
        unit_class = nn.remat(_Unit, static_argnums=(2, 3)) if self.remat and train else _Unit
        for stage, units in enumerate(UNITS[self.depth]):
            for i in range(units):
                unit = unit_class(
                    self.width * 2**stage,
                    stride=2 if i == 0 else 1,
                    norm=self.norm,
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{i}",
                )
                x = unit(x, train, axis_name)
            taps[f"layer{stage + 1}"] = x
        taps["final"] = x = normed(x, name="bn2")
        x = dropout(x.reshape(x.shape[0], -1), self.dropout, train=train, keys=keys, layer=0)
        x = Dense(self.embedding_size, self.dtype, name="fc")(x)
        # In float32, so that the embedding is not rounded once more.
        x = norm(self.norm, x, name="features", dtype="float32", train=train, axis_name=axis_name)
        return identify(x, self.num_classes, self.scale, taps)
