"""What an attacker gets of an image: which layer of the model, and how it is protected."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxrobust import _validate
from jaxrobust.inversion._types import FeaturesFn, Protection
from jaxrobust.numerics import callables
from jaxrobust.numerics import compile as compiler
from jaxrobust.numerics.chunks import in_chunks
from jaxrobust.types import Array, Model, Outputs, PyTree

EMBEDDING, LOGITS = "embedding", "logits"


@dataclass(frozen=True, kw_only=True)
class Features:
    """A threat model of inversion: a layer's output, and what is done to it before anybody sees it.

    Args:
        layer: `embedding`, `logits`, or a tap of the model's, such as the last convolution `conv4` of
            `FaceCNN`.
        protections: applied one after the other.

    Raises:
        ValueError: for what is no protection.

    >>> from jaxrobust.inversion import Quantised, Truncated
    >>> Features(protections=(Truncated(keep=32), Quantised(bits=4))).layer
    'embedding'
    """

    layer: str = EMBEDDING
    protections: tuple[Protection, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str):
            raise ValueError(f"Expected layer to be a name such as 'embedding', got {self.layer!r}.")
        check_protections(self.protections)

    def read(self, outputs: Outputs) -> Array:
        """The layer's values `[b, ...]`, float32; ValueError for a layer that the model has not."""
        layers = {LOGITS: outputs.logits, **(outputs.taps or {})}
        if outputs.embedding is not None:
            layers[EMBEDDING] = outputs.embedding
        return _validate.member("layer", self.layer, layers).astype(jnp.float32)


def victim_features(
    features: Features,
    model: Model,
    params: PyTree,
    stats: PyTree,
    *,
    fitted_to: Any = None,
    batch_size: int = 64,
) -> FeaturesFn:
    """The features of a library model, in eval mode, as a function of images.

    Args:
        features: layer and protections.
        model, params, stats: the victim; its arrays are arguments of what is compiled with the function.
        fitted_to: images `[n, h, w, c]`, float in [0, 1], for protections that are fitted (`Principal`): of
            the owner of the model, or the attacker's. None where there is none.
        batch_size: images per call while fitting.

    Returns:
        A `FeaturesFn`, a pytree of its arrays.

    Raises:
        ValueError: for a layer that the model has not, protections that do not fit it, fitted ones without
            images, and a model that draws at random in eval mode.

    >>> from jaxrobust.models import TinyCNN, build
    >>> model = build(TinyCNN(), (8, 8, 1))
    >>> fn = victim_features(Features(layer="logits"), model, *model.init(jax.random.key(0)))
    >>> fn(jnp.ones((2, 8, 8, 1))).shape
    (2, 10)
    """
    if model.random:
        raise ValueError(
            "The model draws at random in eval mode. Give a function of your own, images -> features, that "
            "averages over draws: protected(fn, protections)."
        )
    raw = Partial(_Layer(model, features), params, stats)
    shape = (1, *model.image_shape)
    return protected(raw, features.protections, shape, fitted_to=fitted_to, batch_size=batch_size)


def protected(
    fn: Any,
    protections: Sequence[Protection],
    images_shape: tuple[int, ...],
    *,
    fitted_to: Any = None,
    batch_size: int = 64,
) -> FeaturesFn:
    """Any callable `images -> features [b, ...]` behind protections.

    Args:
        fn: a plain function, or better a pytree of its arrays: `jax.tree_util.Partial(apply_fn, params)`.
        protections: one after the other; `()` for none.
        images_shape: `(b, h, w, c)` of images that it takes.
        fitted_to, batch_size: as in `victim_features`.

    Returns:
        A `FeaturesFn`.

    Raises:
        ValueError: as `victim_features`.
    """
    protections = tuple(protections)
    check_protections(protections)
    structure, arrays = callables.split(fn, "fn")
    found = jax.eval_shape(fn, jax.ShapeDtypeStruct(tuple(images_shape), jnp.float32))
    if len(found.shape) < 2 or found.shape[0] != images_shape[0]:
        raise ValueError(f"Expected features [b, ...] of {images_shape[0]} images, got {list(found.shape)}.")
    fitted = [type(one).__name__ for one in protections if one.fitted]
    if fitted and fitted_to is None:
        raise ValueError(f"{fitted[0]} is fitted to features: give images that are no secret as fitted_to=.")
    values = found if fitted_to is None else jnp.asarray(publish(fn, fitted_to, batch_size=batch_size))
    states = []
    for one in protections:
        state = one.fit(values)
        states.append(state)
        if fitted_to is None:
            values = jax.eval_shape(one, values, state, None)
        else:
            values = one(values, state, None)
    return Partial(_Published(structure, protections), arrays, tuple(states))


def publish(
    features_fn: FeaturesFn, images: Any, *, key: Array | None = None, batch_size: int = 64
) -> np.ndarray:
    """The features of many images, in batches of one size.

    Args:
        features_fn: see `FeaturesFn`.
        images: `[n, h, w, c]`, float in [0, 1].
        key: draws the noise, a typed key; None publishes without noise. An image's noise depends on the key
            and its own pixels, so that it is the same in any batch.
        batch_size: images per call, always exactly so many.

    Returns:
        float32 `[n, ...]`.

    Raises:
        ValueError: for features that are not finite.
    """
    structure, arrays = callables.split(features_fn, "features_fn")
    found = in_chunks(_features, (structure,), (arrays, key), np.asarray(images, np.float32), batch_size)
    wrong = np.flatnonzero(~np.isfinite(found.reshape(len(found), -1)).all(axis=1))
    if len(wrong):
        raise ValueError(
            f"Expected finite features, got NaN or infinity for {len(wrong)} of {len(found)} images, first "
            f"image {wrong[0]}. Repair the model; it takes float pixels in [0, 1]."
        )
    return found


def embedding_of(features_fn: FeaturesFn, *, key: Array | None = None) -> Callable[[Any], Array]:
    """What is published as an embedding, for `evaluation.verify`: what a mitigation costs in recognition.

    Args:
        features_fn: see `FeaturesFn`.
        key: as in `publish`. The features of both images of a pair are protected, each by its own noise.

    Returns:
        `embed_fn(images [b, h, w, c]) -> [b, d]`, compiled once for each shape; maps are flattened.
    """
    structure, arrays = callables.split(features_fn, "features_fn")

    def embed_fn(images: Any) -> Array:
        images = jnp.asarray(images, jnp.float32)
        return _compiled()(structure, arrays, key, images).reshape(images.shape[0], -1)

    return embed_fn


def content_keys(key: Array, images: Array) -> Array:
    """A key for every image `[b]`, from `key` and the image's pixels: where it lies in a batch is nothing."""
    bits = jax.lax.bitcast_convert_type(images.astype(jnp.float32), jnp.uint32).reshape(images.shape[0], -1)
    # Odd multipliers, all different, so that moved pixels count; sums wrap around.
    factors = 2 * jnp.arange(bits.shape[1], dtype=jnp.uint32) + 1
    mixed = (bits ^ (bits >> 15)) * jnp.uint32(2654435761) * factors
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.sum(mixed, axis=1, dtype=jnp.uint32))


def check_protections(protections: Any) -> None:
    """Raises ValueError unless these are protections, in a tuple."""
    if not isinstance(protections, tuple) or any(
        isinstance(one, type) or not isinstance(one, Protection) for one in protections
    ):
        raise ValueError(
            f"Expected a tuple of protections such as (Quantised(bits=4),), got {protections!r}."
        )


@dataclass(frozen=True)
class _Layer:
    """A layer of a model in eval mode."""

    model: Model
    features: Features

    def __call__(self, params: PyTree, stats: PyTree, images: Array) -> Array:
        return self.features.read(self.model.apply(params, stats, images, train=False)[0])


@dataclass(frozen=True)
class _Published:
    """A function's values behind protections, each of which draws from keys of its own."""

    structure: callables.Structure
    protections: tuple[Protection, ...]

    def __call__(self, arrays: PyTree, states: PyTree, images: Array, keys: Array | None = None) -> Array:
        values = callables.merge(self.structure, arrays)(images)
        for i, (one, state) in enumerate(zip(self.protections, states, strict=True)):
            own = None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, i)
            values = one(values, state, own)
        return values


@functools.cache
def _compiled() -> Callable[..., Array]:
    """Made on the first call: choosing compiler options starts the backend, which an import must not."""
    return compiler.jit(_features, static_argnums=0)


def _features(structure: callables.Structure, arrays: PyTree, key: Array | None, images: Array) -> Array:
    features_fn = callables.merge(structure, arrays)
    if key is None:
        return features_fn(images)
    return features_fn(images, content_keys(key, images))
