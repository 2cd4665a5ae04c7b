"""The layers of every net: convolution, dense, normalisations, PReLU, row-keyed dropout, pixel normalisation.

Parameters are float32 always; a layer computes in `dtype`, a name such as "bfloat16", so that modules stay
hashable and serialisable. Batch normalisation's defaults are PyTorch's, so that imported nets agree.

Initialisation: convolutions He normal, over the fan-in in plain nets and the fan-out in residual ones, as the
sources of these nets do; dense kernels uniform within 1 / sqrt(fan-in), PyTorch's default, with zero biases.
TRADES starts SmallCNN's last layer at zero; here it is not, because then every prediction is class 0 and the
gradient on the image vanishes, and the first attacks and pseudo-labels of a run would mean nothing.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.numerics.convolution import Padding, conv2d
from jaxrobust.numerics.group_norm import group_norm
from jaxrobust.types import Array

he_fan_in = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
he_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
# A uniform law within +-sqrt(3 * scale / fan_in) has variance scale / fan_in, hence the third.
dense_init = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")

TORCH_PADDING = ((1, 1), (1, 1))
"""PyTorch's `padding=1`; it differs from SAME where the stride is 2 and the size is even."""


class Conv(nn.Module):
    """A 2-D convolution `[b, h, w, c] -> [b, h', w', features]`."""

    features: int
    kernel_size: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    padding: Padding = "VALID"
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = he_fan_in
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        x = conv2d(x, kernel, strides=self.strides, padding=self.padding)
        if not self.use_bias:
            return x
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        return x + bias.astype(self.dtype)


class Dense(nn.Module):
    """A dense layer `[b, d] -> [b, features]`."""

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", dense_init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias.astype(self.dtype)


class BatchNorm(nn.Module):
    r"""Batch normalisation over `[b, h, w]` (arXiv 1502.03167), synchronised over `axis_name`.

    `y = scale * (x - mean) / sqrt(var + eps) + bias`; in train mode mean and (biased) var are the global
    batch's, in eval mode the running ones, `running <- (1 - momentum) * running + momentum * batch`, where
    the running variance takes the unbiased estimate, as PyTorch does. Statistics are float32 in every dtype.
    """

    momentum: float = 0.1
    eps: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array, *, train: bool, axis_name: str | None = None) -> Array:
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (features,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (features,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (features,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (features,), jnp.float32)
        x = x.astype(jnp.float32)
        if train:
            batch_mean, batch_var, count = _batch_statistics(x, axis_name)
            if not self.is_initializing():
                unbiased = batch_var * (count / max(count - 1, 1))
                mean.value = (1 - self.momentum) * mean.value + self.momentum * batch_mean
                var.value = (1 - self.momentum) * var.value + self.momentum * unbiased
        else:
            batch_mean, batch_var = mean.value, var.value
        y = (x - batch_mean) * (jax.lax.rsqrt(batch_var + self.eps) * scale) + bias
        return y.astype(self.dtype)


def _batch_statistics(x: Array, axis_name: str | None) -> tuple[Array, Array, int]:
    """Mean and biased variance per channel over the global batch, and how many values went into each."""
    axes, count = (0, 1, 2), x.shape[0] * x.shape[1] * x.shape[2]
    mean = x.mean(axes)
    if axis_name is not None:
        mean = jax.lax.pmean(mean, axis_name)
        count *= jax.lax.axis_size(axis_name)
    # Two passes: E[x^2] - E[x]^2 loses all digits where the mean is large beside the deviation.
    var = jnp.square(x - mean).mean(axes)
    return mean, var if axis_name is None else jax.lax.pmean(var, axis_name), count


class GroupNorm(nn.Module):
    """Group normalisation over an image's pixels and a group's channels (arXiv 1803.08494).

    The same in train and eval mode and for any batch:
    `y = scale * (x - mean) / sqrt(var + eps) + bias`, in float32. There are gcd(channels, groups) groups; a
    single pixel has one, which is layer normalisation: small groups would fix the length of every piece of an
    embedding.
    """

    groups: int = 32
    eps: float = 1e-5
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        features = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (features,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (features,), jnp.float32)
        groups = math.gcd(features, self.groups) if x.shape[1] * x.shape[2] > 1 else 1
        return group_norm(x.astype(jnp.float32), scale, bias, groups, self.eps).astype(self.dtype)


NORMS = {"batch": BatchNorm, "group": GroupNorm}


def norm(
    kind: str, x: Array, *, name: str, dtype: str, train: bool, axis_name: str | None, groups: int = 32
) -> Array:
    """The normalisation of `NORMS`, called inside a compact method, of images `[b, h, w, c]` or vectors."""
    if x.ndim == 2:
        images = x[:, None, None]
        return norm(kind, images, name=name, dtype=dtype, train=train, axis_name=axis_name, groups=groups)[
            :, 0, 0
        ]
    if kind == "batch":
        return BatchNorm(dtype=dtype, name=name)(x, train=train, axis_name=axis_name)
    return GroupNorm(groups, dtype=dtype, name=name)(x)


class PReLU(nn.Module):
    """`x` where it is positive, `slope * x` elsewhere; one slope per channel, 0.25 at first (1502.01852)."""

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],), jnp.float32)
        x = x.astype(self.dtype)
        return jnp.where(x < 0, slope.astype(self.dtype) * x, x)


def dropout(x: Array, rate: float, *, train: bool, keys: Array | None, layer: int) -> Array:
    """Dropout (inverted) of `x` `[b, ...]` whose row i depends on `keys[i]` and the layer's number only."""
    if not train or rate == 0.0:
        return x
    if keys is None:
        raise ValueError(
            f"Expected keys [b] in train mode for dropout={rate}, got keys=None. "
            "Pass one key per row, or train=False."
        )
    if keys.shape != x.shape[:1]:
        raise ValueError(f"Expected one key per row, keys of shape {x.shape[:1]}, got {keys.shape}.")
    sub_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, layer)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(sub_keys)
    return jnp.where(kept, x / (1.0 - rate), 0.0).astype(x.dtype)


def normalise(x: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """`(x - mean) / std` per channel in float32; empty tuples leave `x` alone."""
    x = x.astype(jnp.float32)
    return (x - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32) if mean else x


def standardise(x: Array) -> Array:
    """Each image `[h, w, c]` to mean 0 and deviation 1: `(x - mean) / max(deviation, 1 / sqrt(h w c))`.

    The floor is that of `tf.image.per_image_standardization`; it is taken under the root, so that a constant
    image has a finite gradient.
    """
    x = x.astype(jnp.float32)
    axes = (1, 2, 3)
    centred = x - x.mean(axes, keepdims=True)
    variance = jnp.square(centred).mean(axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.maximum(variance, 1.0 / math.prod(x.shape[1:])))


def leaky_relu(x: Array, slope: float) -> Array:
    """`max(x, slope * x)` for a slope in [0, 1]."""
    return jnp.where(x < 0, slope * x, x)
