"""What is served: a model as plain values, and how the service holds it."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxrobust import _validate
from jaxrobust.types import Array, Neighbourhood, Outputs

LoadFn = Callable[[], "Served"]
"""Reads the model again from where it was read first; called in a thread of its own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """A model with what an answer needs beside it.

    Attributes:
        id: of these weights; another checkpoint has another one. Every answer names it.
        outputs_fn: `images [b, h, w, c]`, float32 in [0, 1], to `Outputs`; a pytree of its weights
            (`jax.tree_util.Partial`), so that other weights of an equal net compile nothing.
        image_shape: `(h, w, c)`; c is 1 (grey) or 3 (colour).
        class_names: one per class, all different.
        card: the model card, as JSON values.
        margin: what is cut off an image before it is resized, see `data.load_identities`; None for nothing.
        neighbourhood: in which `?stability=1` samples; None: the service answers that there is none.
        neighbourhood_words: the same in words, with units.
        threshold: the cosine from which two faces are one person's, in [-1, 1]; None for a model that only
            classifies. With one, `Outputs.embedding` must be there.
        gallery: uint8 images `[n, h, w, c]` by the name of the person, n >= 1, for `/v1/identify`.

    Raises:
        ValueError: for shapes, names, a card or a threshold that cannot be served.
    """

    id: str
    outputs_fn: Callable[[Array], Outputs]
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    card: Mapping[str, Any]
    margin: float | tuple[float, float, float, float] | None = None
    neighbourhood: Neighbourhood | None = None
    neighbourhood_words: str = ""
    threshold: float | None = None
    gallery: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.image_shape) != 3 or min(self.image_shape) < 1 or self.image_shape[2] not in (1, 3):
            raise ValueError(
                f"Expected images (h, w, c) with 1 (grey) or 3 (colour) channels, got {self.image_shape}: "
                "uploads are grey or colour. Serve a model of such images."
            )
        if not self.class_names or len(set(self.class_names)) < len(self.class_names):
            raise ValueError("Expected a name for each class, all different; rename classes that share one.")
        try:
            json.dumps(dict(self.card), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"The card cannot be written as JSON: {error}. Give null for NaN.") from None
        if self.threshold is not None:
            _validate.within("threshold", self.threshold, -1, 1, "It is a cosine.")
        elif self.gallery:
            raise ValueError("A gallery is for a model that verifies faces; give a threshold, or leave it.")
        for name, images in self.gallery.items():
            if images.dtype != np.uint8 or images.shape[1:] != self.image_shape or not len(images):
                raise ValueError(
                    f"Expected uint8 images [n, {', '.join(map(str, self.image_shape))}] of {name!r} in the "
                    f"gallery, got {images.dtype} {list(images.shape)}."
                )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How much the service takes on.

    Args:
        max_batch: images in one pass of the model, and in one `/v1/recognise:batch`.
        max_wait_ms: how long an image waits for others to share a pass, in milliseconds.
        max_queue: images accepted and not answered yet; beyond it, 429.
        max_bytes: of a request's body.
        max_bytes_in_flight: of all bodies that are being read or decoded; beyond it, 429, of one address
            beyond half of it. None: 8 bodies of the largest size.
        max_pixels: of an uploaded image, by its header, before anything is decoded.
        decode_seconds: the longest that decoding one image may take.
        read_seconds: the longest that a client may take to send a body.
        decode_threads: images decoded at once.
        stability_samples: draws of the neighbourhood for `?stability=1`.
        seed: of those draws, together with the image's own pixels: equal images get equal answers.
        drain_seconds: how long `/readyz` says no after SIGTERM before the server stops to accept, so that a
            balancer can turn away.

    Raises:
        ValueError: for a number out of range.
    """

    max_batch: int = 32
    max_wait_ms: float = 2.0
    max_queue: int = 256
    max_bytes: int = 10 * 2**20
    max_bytes_in_flight: int | None = None
    max_pixels: int = 25_000_000
    decode_seconds: float = 5.0
    read_seconds: float = 30.0
    decode_threads: int = 2
    stability_samples: int = 16
    seed: int = 0
    drain_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_bytes", "max_pixels", "decode_threads", "stability_samples"):
            _validate.at_least(name, getattr(self, name), 1)
        for name in ("max_wait_ms", "drain_seconds"):
            _validate.non_negative(name, getattr(self, name))
        for name in ("decode_seconds", "read_seconds"):
            _validate.positive(name, getattr(self, name))
        _validate.at_least("seed", self.seed, 0)
        _validate.at_least("max_queue", self.max_queue, self.max_batch, "A full batch must fit the queue.")
        if self.max_bytes_in_flight is not None:
            least = "The largest body must fit into one address's half."
            _validate.at_least("max_bytes_in_flight", self.max_bytes_in_flight, 2 * self.max_bytes, least)

    @property
    def bytes_in_flight(self) -> int:
        """`max_bytes_in_flight`, resolved."""
        return 8 * self.max_bytes if self.max_bytes_in_flight is None else self.max_bytes_in_flight

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The shapes that are compiled: 1, then steps of about four up to `max_batch`.

        >>> Settings(max_batch=32).batch_sizes, Settings(max_batch=1).batch_sizes
        ((1, 2, 8, 32), (1,))
        """
        steps = range(math.ceil(math.log(self.max_batch, 4)) + 1)
        return tuple(sorted({-(-self.max_batch // 4**step) for step in steps} | {1}))
