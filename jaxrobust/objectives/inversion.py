"""Training of an inverse model: images from the features that a frozen model makes of them."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.numerics import callables, losses
from jaxrobust.numerics.fidelity import check_window, ssim
from jaxrobust.numerics.similarity import cosine
from jaxrobust.objectives import _rows
from jaxrobust.types import Array, Aux, Batch, Net, PyTree, RowKeys

# After the purposes of `_rows`.
_NOISE = 3
_IMAGE = "image"

FeaturesFn = Callable[..., Array]
"""`features_fn(images [b, h, w, c], keys=None) -> [b, ...]`; with keys `[b]` as published, noise and all."""
ImageDistanceFn = Callable[[Array, Array], Array]
"""`(images, images) -> [b]`, smaller is nearer."""


@dataclass(frozen=True, kw_only=True)
class Inversion:
    r"""Minimises the reconstruction error of a decoder g on images x whose features are e (CN111539382A).

    .. math:: |x - \hat x|_1 + \lambda_1 (1 - \mathrm{SSIM}(x, \hat x)) + \lambda_2\, d(x, \hat x)
              + \lambda_3 (1 - \cos(f(\hat x), e)), \quad \hat x = g(e)

    The claims ask for a model that turns features into images; the loss is ours. |.|_1 is the mean over
    pixels, d a perceptual distance, f the frozen model that is inverted. It is trained on both streams of a
    batch: no label is read, faces without names serve an attacker as well.

    The net that is trained is the decoder alone; its "images" are features `[b, h', w', c']`. The frozen
    networks are values: callables that are pytrees of their arrays, which lie in the objective's state, as a
    teacher's would. So they are no parameters, and no optimizer sees them; they are arguments of the compiled
    step, travel with every runtime and are in the checkpoints, so that a resumed run goes on with the victim
    it began with. (A model that composes both, images in and images out, would carry the victim in its
    `stats`, where averages of weights touch it.)

    e is drawn anew at every step where noise protects it; f(x_hat) is without noise, and behind the other
    protections, through which gradients go.

    Args:
        features_fn: f with its protections, see `FeaturesFn` and `inversion.victim_features`.
        ssim_weight: lambda_1 >= 0. A weight of 0 leaves its term out, here and below.
        perceptual_weight: lambda_2 >= 0.
        feature_weight: lambda_3 >= 0; 0 makes no pass through f but that for e.
        perceptual_fn: d, by a network other than f: `inversion.perceptual_distance`; needed by lambda_2.
        window: of the SSIM, in pixels.

    Raises:
        ValueError: weights below 0, a perceptual weight without a distance, what is not callable. At the
            first call: a net that is no decoder of these features, or of images of another shape.

    >>> Inversion(features_fn=lambda images, keys=None: images.mean((1, 2))).feature_weight
    0.0
    """

    features_fn: FeaturesFn
    ssim_weight: float = 1.0
    perceptual_weight: float = 0.0
    feature_weight: float = 0.0
    perceptual_fn: ImageDistanceFn | None = None
    window: int = 11

    def __post_init__(self) -> None:
        callables.split(self.features_fn, "features_fn")
        for name in ("ssim_weight", "perceptual_weight", "feature_weight"):
            _validate.non_negative(name, getattr(self, name), "0 leaves the term out.")
        _validate.at_least("window", self.window, 1)
        if self.perceptual_fn is not None:
            callables.split(self.perceptual_fn, "perceptual_fn")
        elif self.perceptual_weight:
            raise ValueError(
                f"Expected perceptual_fn with perceptual_weight={self.perceptual_weight}: a distance by "
                "another network, such as inversion.perceptual_distance(...). Or use weight 0."
            )

    def init(self, params: PyTree) -> PyTree:
        """The arrays of the frozen networks."""
        # Copies: the state is donated step by step, the caller's arrays are not.
        found = [jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), arrays) for _, arrays in self._parts()]
        return tuple(found)

    def __call__(self, keys: RowKeys, net: Net, batch: Batch, obj_state: PyTree) -> tuple[Array, Aux]:
        """The loss; metrics `loss`, `pixel_loss` and, with their weights, `ssim`, `perceptual_loss`,
        `feature_cosine`.
        """
        frozen = [
            callables.merge(structure, _varying(arrays, net.axis_name))
            for (structure, _), arrays in zip(self._parts(), obj_state, strict=True)
        ]
        features_fn, perceptual_fn = frozen[0], frozen[-1]
        images = jnp.concatenate([batch.image, batch.unlabelled])
        row_keys = jnp.concatenate([keys.labelled, keys.unlabelled])
        features = jax.lax.stop_gradient(features_fn(images, _rows.keys_for(row_keys, _NOISE)))
        outputs, after = net.train(_as_map(features, net), _rows.keys_for(row_keys, _rows.CLEAN))
        found = _image_of(outputs.taps, images)

        pixel = losses.mean(jnp.abs(found - images).mean((1, 2, 3)))
        loss, metrics = pixel, {"pixel_loss": pixel}
        if self.ssim_weight:
            check_window(images.shape[1:], self.window, 1.5)
            metrics["ssim"] = losses.mean(ssim(images, found, window=self.window))
            loss = loss + self.ssim_weight * (1 - metrics["ssim"])
        if self.perceptual_weight:
            metrics["perceptual_loss"] = losses.mean(perceptual_fn(found, images))
            loss = loss + self.perceptual_weight * metrics["perceptual_loss"]
        if self.feature_weight:
            own = features_fn(found)
            metrics["feature_cosine"] = losses.mean(cosine(_flat(own), _flat(features)))
            loss = loss + self.feature_weight * (1 - metrics["feature_cosine"])
        metrics["loss"] = loss
        return loss, Aux(after.stats, obj_state, metrics)

    def _parts(self) -> list[tuple[callables.Structure, tuple[Array, ...]]]:
        """The victim, and the perceptual distance where it has a weight."""
        parts = [callables.split(self.features_fn, "features_fn")]
        if self.perceptual_fn is not None and self.perceptual_weight:
            parts.append(callables.split(self.perceptual_fn, "perceptual_fn"))
        return parts


def _varying(arrays: PyTree, axis_name: str | None) -> PyTree:
    """Marks replicated arrays as per-device, as the step does with parameters.

    Or `shard_map` would sum the gradients of a frozen kernel over the devices, in some branches of a
    convolution and not in others, and refuse.
    """
    if axis_name is None:
        return arrays
    return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axis_name, to="varying"), arrays)


def _flat(features: Array) -> Array:
    return features.reshape(features.shape[0], -1)


def _as_map(features: Array, net: Net) -> Array:
    """Features `[b, ...]` in the shape that the decoder takes; ValueError for another number of them."""
    shape = net.model.image_shape
    own = features.shape[1:]
    fits = own == shape or (len(own) == 1 and (1, 1, *own) == shape)
    if not fits:
        wanted = own if len(own) == 3 else (1, 1, _flat(features).shape[1])
        raise ValueError(
            f"The features of an image are {list(own)}, but the decoder takes {list(shape)}. Build it for "
            f"them: build(Decoder(...), {tuple(wanted)})."
        )
    return features.reshape(features.shape[0], *shape).astype(jnp.float32)


def _image_of(taps: dict[str, Array] | None, images: Array) -> Array:
    """The decoder's image; ValueError where there is none, or of another shape."""
    found = (taps or {}).get(_IMAGE)
    if found is None:
        raise ValueError(
            "Expected a decoder, whose Outputs.taps have 'image', got a net without one. Use models.Decoder."
        )
    if found.shape != images.shape:
        raise ValueError(
            f"The decoder makes images {list(found.shape[1:])}, the data has {list(images.shape[1:])}. Set "
            f"its image_shape={tuple(images.shape[1:])}."
        )
    return found
