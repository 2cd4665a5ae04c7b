"""A model's logits and embeddings as functions, equal for equal models, so that runs of a net share programs.

Not a `functools.partial` inside: two of those are never equal, and each would compile its own programs.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax

from jaxrobust.numerics.compile import jit
from jaxrobust.types import Array, Model, PyTree


@dataclass(frozen=True)
class Logits:
    """`(params, stats, images [b, h, w, c]) -> logits [b, k]` of a model, in eval mode."""

    model: Model

    def __call__(self, params: PyTree, stats: PyTree, images: Array) -> Array:
        """Float32 logits."""
        return self.model.apply(params, stats, images, train=False)[0].logits


@dataclass(frozen=True)
class Embedding:
    """`(params, stats, images [b, h, w, c]) -> embeddings [b, d]` of a model, in eval mode, compiled."""

    model: Model

    def __call__(self, params: PyTree, stats: PyTree, images: Array) -> Array:
        """Float32 embeddings."""
        return _compiled()(self.model, params, stats, images)


def logits_fn(model: Model, params: PyTree, stats: PyTree) -> Any:
    """`images [b, h, w, c] -> logits [b, k]`, a pytree of its weights."""
    return jax.tree_util.Partial(Logits(model), params, stats)


def embedding_fn(model: Model, params: PyTree, stats: PyTree) -> Any:
    """`images [b, h, w, c] -> embeddings [b, d]`, a pytree of its weights."""
    return jax.tree_util.Partial(Embedding(model), params, stats)


def _model_embedding(model: Model, params: PyTree, stats: PyTree, images: Array) -> Array:
    found = model.apply(params, stats, images, train=False)[0].embedding
    if found is None:
        raise ValueError("The model gives no embedding (Outputs.embedding), and verifies nobody.")
    return found


# Made at first use: reading the backend at import would come before jax.distributed.initialize.
@functools.cache
def _compiled() -> Any:
    return jit(_model_embedding, static_argnums=0)
