"""Group normalisation whose gradient makes two passes over the images."""

import functools

import jax
import jax.numpy as jnp

from jaxrobust.types import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def group_norm(x: Array, scale: Array, bias: Array, groups: int, eps: float) -> Array:
    r"""Normalises every image over its pixels and the channels of a group (arXiv 1803.08494, eqs. 1-2).

    `y = scale * (x - mean) / sqrt(var + eps) + bias`, with the biased variance.

    The gradient is written out: on CPU autodiff's reads the images once for each of its sums and makes all
    that leads to them anew each time. With z = (x - mean) / sqrt(var + eps) and h = scale * g it is

    `dx = (h - mean(h) - z * mean(h * z)) / sqrt(var + eps)`

    The means come from the sums of g and g * z over pixels, which are the gradients of bias and scale too.

    Args:
        x: `[b, h, w, c]`.
        scale, bias: `[c]`.
        groups: a divisor of c.
        eps: under the root.

    Returns:
        `[b, h, w, c]`. Reverse mode only, like `conv2d`; also like it, under `shard_map(check_vma=True)`
        `x`, `scale` and `bias` must all vary over the same axes (`lax.pcast`).

    >>> y = group_norm(jnp.arange(8.0).reshape(1, 2, 2, 2), jnp.ones(2), jnp.zeros(2), 1, 0.0)
    >>> round(float(y.mean()), 6), round(float(y.std()), 6)
    (0.0, 1.0)
    """
    return _forward(x, scale, bias, groups, eps)[0]


def _forward(x, scale, bias, groups, eps):
    mean = _group_mean(x.mean((1, 2)), groups)
    # Two passes: E[x^2] - E[x]^2 loses all digits where the mean is large beside the deviation.
    inverse = jax.lax.rsqrt(_group_mean(jnp.square(x - mean).mean((1, 2)), groups) + eps)
    return (x - mean) * (inverse * scale) + bias, (x, scale, mean, inverse)


def _backward(groups, eps, residuals, g):
    x, scale, mean, inverse = residuals
    pixels = x.shape[1] * x.shape[2]
    sums = g.sum((1, 2))
    products = (g * (x - mean)).sum((1, 2)) * inverse[:, 0, 0]
    along = _group_mean(products * scale / pixels, groups) * jnp.square(inverse)
    dx = g * (inverse * scale) - inverse * _group_mean(sums * scale / pixels, groups) - (x - mean) * along
    return dx, products.sum(0), sums.sum(0)


def _group_mean(values: Array, groups: int) -> Array:
    """Means of `[b, c]` over the channels of a group, for each of them: `[b, 1, 1, c]`."""
    means = values.reshape(values.shape[0], groups, -1).mean(-1)
    return jnp.repeat(means, values.shape[1] // groups, axis=-1)[:, None, None]


group_norm.defvjp(_forward, _backward)
