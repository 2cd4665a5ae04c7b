"""What a saliency map and its target are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import jax

from jaxrobust.types import Array, Example

TargetFn: TypeAlias = Callable[[Array, Example], Array]
"""`target_fn(images [b, h, w, c], example) -> [b]`: what is explained, a logit or a similarity, row by row.

`example` has what a row needs beside its image: the class, the partner's embedding."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Stages:
    """A score or target function cut in two at a layer; called, it is the whole function, as for other maps.

    A pytree, so that arrays in its functions, where they are partials, are found.

    Attributes:
        features_fn: `(images [b, h, w, c], example) -> activations [b, i, j, k]`.
        head_fn: `(activations, example) ->` what the whole function gives.
    """

    features_fn: Callable[[Array, Example], Array]
    head_fn: Callable[[Array, Example], Array]

    def __call__(self, images: Array, example: Example) -> Array:
        return self.head_fn(self.features_fn(images, example), example)


@runtime_checkable
class SaliencyMap(Protocol):
    """A frozen, hashable dataclass: where an image supports a target. A batch of 1 gives the row of a batch.

    Optional: a class attribute `random = True`, of maps that draw from `keys`.
    """

    def __call__(
        self,
        keys: Array,
        target_fn: TargetFn,
        example: Example,
        *,
        baseline: float | Array = 0.0,
        chunk: int | None = None,
    ) -> Array:
        """The maps of a batch: every leaf of `example` has the leading axis `b`. Pure, for use under jit.

        Args:
            keys: typed keys `[b]`, one per row.
            target_fn: what is explained.
            example: images, and what `target_fn` reads beside them.
            baseline: what "absent" looks like: a level, one per channel `[c]`, an image `[h, w, c]` (the mean
                of the training images, say), or one for each row. Maps of the gradient alone do not read it.
            chunk: the most images that go through the model at once; bounds memory and changes results by
                rounding only. None: what suits the device.

        Returns:
            float32 `[b, h, w]`, signed; larger is more support of the target.
        """
        ...
