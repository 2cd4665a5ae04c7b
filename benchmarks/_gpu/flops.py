"""How many floating-point operations a net needs, counted from shapes, and how many a chip can make."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models import build
from jaxrobust.models._layers import Conv, Dense
from jaxrobust.numerics.convolution import _pads
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.types import Array, Model, PyTree

# Dense bf16 with float32 accumulation, in TFLOP/s, from the vendors' data sheets (boost clock, no sparsity).
# The longest name that the device's kind contains is the chip's.
PEAKS: Mapping[str, float] = {
    "A10": 125.0,
    "A10G": 70.0,
    "A100": 312.0,
    "A30": 165.0,
    "B200": 2250.0,
    "GH200": 989.4,
    "H100": 989.4,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H200": 989.4,
    "L4": 121.0,
    "L40": 181.0,
    "L40S": 362.0,
    "RTX 4090": 165.2,
    "RTX 6000 Ada": 364.2,
    "TPU v4": 275.0,
    "TPU v5": 459.0,
    "TPU v5 lite": 197.0,
    "TPU v6 lite": 918.0,
}


class Layer(NamedTuple):
    """A layer's operations for one image, 2 per multiplication with its addition.

    `needed` leaves out products with the zeros of a padding; `padded` has them, as most counters do.
    """

    needed: int
    padded: int


def peak_of(device_kind: str) -> float | None:
    """The peak of a chip by JAX's name for it, in TFLOP/s; None where it is not known.

    >>> peak_of("NVIDIA H100 80GB HBM3"), peak_of("NVIDIA A100-SXM4-80GB"), peak_of("NVIDIA L40S")
    (989.4, 312.0, 362.0)
    >>> peak_of("cpu") is None
    True
    """
    words = device_kind.replace("-", " ").split()

    def is_in(name: str) -> bool:
        parts = name.split()
        return any(words[at : at + len(parts)] == parts for at in range(len(words)))

    found = [name for name in PEAKS if is_in(name)]
    return PEAKS[max(found, key=len)] if found else None


def layers(module: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """The convolutions and dense layers of a net, in the order in which an image meets them."""
    found = []

    def count(call: Any, args: Any, options: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **options)
        if context.method_name == "__call__" and isinstance(context.module, Conv):
            found.append(_convolution(context.module, args[0].shape, result.shape))
        elif context.method_name == "__call__" and isinstance(context.module, Dense):
            operations = 2 * args[0].shape[-1] * result.shape[-1]
            found.append(Layer(operations, operations))
        return result

    model = build(module, image_shape)
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    with nn.intercept_methods(count):
        jax.eval_shape(lambda p, s, x: model.apply(p, s, x, train=False)[0], params, stats, image)
    return found


def _convolution(layer: Conv, before: tuple[int, ...], after: tuple[int, ...]) -> Layer:
    channels = 2 * before[3] * layer.features
    needed = padded = channels
    pads = _pads(before[1:3], layer.kernel_size, layer.strides, layer.padding)
    for size, out, taps, stride, (low, _) in zip(
        before[1:3], after[1:3], layer.kernel_size, layer.strides, pads, strict=True
    ):
        padded *= out * taps
        needed *= sum(0 <= stride * at + tap - low < size for at in range(out) for tap in range(taps))
    return Layer(needed, padded)


class Passes(NamedTuple):
    """Operations for one image: of a forward pass, of the gradient of an image, of the gradient of weights.

    A backward pass makes each layer's product once for its input and once for its weights; weights of an
    attacked net have no gradient, and the image of a training step has none.
    """

    forward: int
    image_gradient: int
    weight_gradient: int


def passes(module: nn.Module, image_shape: tuple[int, int, int], *, padded: bool = False) -> Passes:
    """The operations of the passes of a net.

    >>> from jaxrobust.models import PreActResNet18
    >>> passes(PreActResNet18(), (32, 32, 3), padded=True).forward / 1e9  # 0.555 billion multiplications
    1.11084544
    """
    counts = [layer.padded if padded else layer.needed for layer in layers(module, image_shape)]
    forward = sum(counts)
    return Passes(forward, 2 * forward, 3 * forward - counts[0])


def compilers_count(model: Model, platform: str, rows: int = 2) -> Passes | None:
    """The same of XLA's cost analysis, before optimisation: it adds what is no product, such as BatchNorm.

    Of a program for `platform`, made by the default device's client; None where that one does not count, as
    those of plugins (CUDA's) do not.
    """
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((rows, *model.image_shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((rows,), jnp.int32)
    keys = jax.random.split(jax.random.key(0), rows)

    def loss(params: PyTree, stats: PyTree, x: Array, labels: Array, train: bool) -> Array:
        outputs, _ = model.apply(params, stats, x, train=train, keys=keys)
        return cross_entropy(outputs.logits, labels).mean()

    def operations(fn: Any, train: bool) -> int | None:
        traced = jax.jit(fn, static_argnums=4).trace(params, stats, images, labels, train)
        try:
            analysis = traced.lower(lowering_platforms=(platform,)).cost_analysis() or {}
        except (NotImplementedError, jax.errors.JaxRuntimeError):
            return None
        return round(analysis["flops"] / rows) if analysis.get("flops") else None

    forward = operations(loss, False)
    image = operations(jax.grad(loss, argnums=2), False)
    weights = operations(jax.grad(loss), True)
    if forward is None or image is None or weights is None:
        return None
    return Passes(forward, image, weights)
