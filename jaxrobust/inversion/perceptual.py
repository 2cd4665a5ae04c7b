"""A perceptual distance: how differently another network sees two images."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxrobust import _validate
from jaxrobust.types import Array, Model, PyTree

_EPS = 1e-10


def perceptual_distance(
    model: Model, params: PyTree, stats: PyTree, layers: tuple[str, ...] | None = None
) -> Any:
    r"""LPIPS (Zhang et al., CVPR 2018, eq. (1)) by a network of one's own, with all weights 1.

    .. math:: d(x, x') = \frac{1}{|L|} \sum_l \frac{1}{H_l W_l} \sum_{h, w} \|\hat y_{hw} - \hat y'_{hw}\|_2^2

    y_l are the activations of layer l, each place's channels scaled to length 1. The paper adds learnt
    weights and networks trained on ImageNet, and sums over layers; here nothing is learnt, and layers are
    averaged so that the distance lies in [0, 4] (of ReLUs in [0, 2]). For an audit the network must be
    independent: neither the victim nor trained with it.

    Args:
        model, params, stats: the network, in eval mode.
        layers: names of its taps; None for all.

    Returns:
        `(images, images) -> [b]`, a pytree of the network's arrays: for `Inversion(perceptual_fn=...)` and
        for `evaluation.reconstruction`.

    Raises:
        ValueError: for a tap that is not there, or that is no map of activations.

    >>> from jaxrobust.models import TinyCNN, build
    >>> model = build(TinyCNN(), (8, 8, 1))
    >>> distance = perceptual_distance(model, *model.init(jax.random.key(0)), ("conv1", "conv3"))
    >>> x = jax.random.uniform(jax.random.key(1), (2, 8, 8, 1))
    >>> distance(x, x).tolist(), bool((distance(x, 1 - x) > 0).all())
    ([0.0, 0.0], True)
    """
    images = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
    found = jax.eval_shape(lambda p, s, x: model.apply(p, s, x, train=False)[0], params, stats, images)
    taps = found.taps or {}
    names = tuple(taps) if layers is None else tuple(layers)
    if not names:
        raise ValueError("The model offers no taps (Outputs.taps), or layers is empty; name at least one.")
    for name in names:
        shape = _validate.member("tap", name, taps).shape
        if len(shape) != 4:
            raise ValueError(f"Expected a map [b, h, w, c] of activations, but {name!r} is {list(shape)}.")
    return Partial(_Distance(model, names), params, stats)


@dataclass(frozen=True)
class _Distance:
    """The distance as a function of the network's arrays and two batches of images."""

    model: Model
    layers: tuple[str, ...]

    def __call__(self, params: PyTree, stats: PyTree, first: Array, second: Array) -> Array:
        # Two passes: of a loss's two images one is mostly a constant, which needs no backward pass.
        one, other = (
            self.model.apply(params, stats, images, train=False)[0].taps for images in (first, second)
        )
        assert one is not None and other is not None
        total = jnp.zeros(first.shape[0], jnp.float32)
        for name in self.layers:
            difference = _unit_channels(one[name]) - _unit_channels(other[name])
            total += jnp.square(difference).sum(-1).mean((1, 2))
        return total / len(self.layers)


def _unit_channels(x: Array) -> Array:
    """Each place's channels at length 1; all zeros stay zeros, with a finite gradient."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + _EPS)
