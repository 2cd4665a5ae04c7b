"""Wide residual nets, the CIFAR-10 nets of the pixel experiments."""

from dataclasses import field
from functools import partial
from typing import ClassVar

import flax.linen as nn

from jaxrobust import _validate
from jaxrobust.models._layers import TORCH_PADDING, BatchNorm, Conv, dropout, he_fan_out, normalise
from jaxrobust.models._plain import classify
from jaxrobust.numerics.pooling import global_avg_pool
from jaxrobust.types import LATER, Array, Outputs


class _Block(nn.Module):
    """BN, ReLU, conv, BN, ReLU, dropout, conv, plus the shortcut (a 1x1 convolution where widths differ)."""

    features: int
    stride: int
    dropout: float
    index: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool, keys: Array | None, axis_name: str | None) -> Array:
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        strides = (self.stride, self.stride)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x, train=train, axis_name=axis_name))
        shortcut = x
        if x.shape[-1] != self.features:
            shortcut = conv(self.features, (1, 1), strides, "VALID", name="convShortcut")(y)
        y = conv(self.features, (3, 3), strides, TORCH_PADDING, name="conv1")(y)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="bn2")(y, train=train, axis_name=axis_name))
        y = dropout(y, self.dropout, train=train, keys=keys, layer=self.index)
        return conv(self.features, padding=TORCH_PADDING, name="conv2")(y) + shortcut


class WideResNet(nn.Module):
    """WRN-depth-k (arXiv 1605.07146): three stages of (depth - 4) / 6 blocks, widths 16 k, 32 k, 64 k.

    WRN-34-10 (46.16M parameters) is the CIFAR-10 net of TRADES and of SRT; WRN-28-10 has 36.48M.

    Attributes:
        num_classes: the number of classes.
        dtype: the compute dtype by name; parameters and logits are float32 always.
        mean, std: normalisation per channel, inside the net; empty for none, as TRADES.
        depth: 6 n + 4.
        widen_factor: k.
        dropout: the rate inside each block, in [0, 1), by row keys; 0 as in TRADES.
        remat: whether train mode keeps only what enters each block, see `with_remat`.

    Its taps are `conv1`, `block1` to `block3` and `final`, the activation that is pooled (Grad-CAM's).
    """

    num_classes: int = 10
    dtype: str = "float32"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    depth: int = 34
    widen_factor: int = 10
    dropout: float = 0.0
    remat: bool = field(default=False, metadata=LATER)

    native_shape: ClassVar[tuple[int, int, int]] = (32, 32, 3)
    min_size: ClassVar[int] = 4
    # TRADES builds a stage that its forward pass never uses; its weights are in public files.
    torch_ignored: ClassVar[tuple[str, ...]] = ("sub_block1.",)

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raises ValueError for fields out of range."""
        _validate.at_least("depth", self.depth, 10)
        if (self.depth - 4) % 6:
            low = self.depth - (self.depth - 4) % 6
            raise ValueError(
                f"Expected depth = 6 n + 4, got depth={self.depth}. The nearest are {low} and {low + 6}."
            )
        _validate.at_least("widen_factor", self.widen_factor, 1)
        _validate.within("dropout", self.dropout, 0.0, 0.99)

    def torch_prefix(self, layer: str) -> str:
        """The name of a layer in TRADES' and RobustBench's state dicts."""
        return layer.replace("_", ".")

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, keys: Array | None = None, axis_name: str | None = None
    ) -> Outputs:
        """`x` `[b, h, w, c]` in [0, 1] to Outputs; train mode needs `keys` `[b]` where dropout > 0."""
        x = normalise(x, self.mean, self.std)
        conv = partial(Conv, use_bias=False, kernel_init=he_fan_out, dtype=self.dtype)
        x = conv(16, padding=TORCH_PADDING, name="conv1")(x)
        taps = {"conv1": x}
        per_stage = (self.depth - 4) // 6
        block_class = nn.remat(_Block, static_argnums=(2, 4)) if self.remat and train else _Block
        for stage in range(3):
            for i in range(per_stage):
                block = block_class(
                    16 * 2**stage * self.widen_factor,
                    stride=2 if stage > 0 and i == 0 else 1,
                    dropout=self.dropout,
                    index=stage * per_stage + i,
                    dtype=self.dtype,
                    name=f"block{stage + 1}_layer_{i}",
                )
                x = block(x, train, keys, axis_name)
            taps[f"block{stage + 1}"] = x
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x, train=train, axis_name=axis_name))
        taps["final"] = x
        return classify(global_avg_pool(x), self.num_classes, "fc", taps)
