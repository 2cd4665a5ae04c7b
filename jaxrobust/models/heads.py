"""What face nets end in: a unit embedding and the logits of the people they are trained on.

A head is two values: the net's `scale`, which says how class logits are made, and the objective's loss, which
alone has a margin. `params["head"]` holds the class weights.

| head | `scale` | loss | logits |
|-|-|-|-|
| softmax | None | `losses.cross_entropy` | w_j f + b_j of the features f before normalisation |
| NormFace (arXiv 1704.06369) | s | `losses.cross_entropy` | s cos(theta_j), theta_j between f and w_j |
| CosFace | s | `margins.CosFace(s=s, m=m)` | the same |
| ArcFace | s | `margins.ArcFace(s=s, m=m)` | the same |
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.models._layers import Dense, dense_init
from jaxrobust.numerics.margins import ArcFace, CosFace
from jaxrobust.numerics.similarity import unit
from jaxrobust.types import Array, Model, Objective, Outputs


class CosineClasses(nn.Module):
    """cos(theta_j) `[b, k]` between unit rows `[b, d]` and class weights; no bias."""

    num_classes: int

    @nn.compact
    def __call__(self, embedding: Array) -> Array:
        kernel = self.param("kernel", dense_init, (embedding.shape[-1], self.num_classes), jnp.float32)
        # A margin is a matter of hundredths, as is the error of accelerators' default products near 1.
        return jnp.matmul(embedding, unit(kernel.T).T, precision=jax.lax.Precision.HIGHEST)


def identify(features: Array, num_classes: int, scale: float | None, taps: dict[str, Array]) -> Outputs:
    """Unit embedding and class logits of features `[b, d]`, in float32 whatever their dtype.

    Called inside a compact method. A zero row stays zero, with a finite gradient.
    """
    features = features.astype(jnp.float32)
    embedding = unit(features)
    if scale is None:
        return Outputs(Dense(num_classes, name="head")(features), embedding, taps)
    return Outputs(scale * CosineClasses(num_classes, name="head")(embedding), embedding, taps)


def check_head(embedding_size: int, scale: float | None) -> None:
    """Raises ValueError for an embedding or a scale out of range."""
    _validate.at_least("embedding_size", embedding_size, 2)
    if scale is not None:
        _validate.positive("scale", scale, "None gives a softmax head without normalisation.")


def check_scale(model: Model, objective: Objective) -> None:
    """Raises ValueError where a margin loss of the objective reads another scale than the net gives.

    What does not say its `scale` (a user's net, say) is not judged here; its rows are NaN where they are no
    cosines times s.

    Args:
        model: the model that is trained.
        objective: its objective, whose losses are looked at, those of its attacks too.

    Raises:
        ValueError: names both scales.

    >>> from jaxrobust.models import FaceCNN, build
    >>> from jaxrobust.objectives import Standard
    >>> model = build(FaceCNN(scale=16.0), (56, 46, 1))
    >>> check_scale(model, Standard(loss_fn=ArcFace(s=16.0)))
    >>> check_scale(model, Standard(loss_fn=ArcFace(s=64.0)))
    Traceback (most recent call last):
    ...
    ValueError: Expected ArcFace(s=16.0), the scale of FaceCNN, got s=64.0. Set both alike.
    """
    module: Any = getattr(model.apply, "module", None)
    if not hasattr(module, "scale"):
        return
    name, scale = type(module).__name__, module.scale
    for loss_fn in _margin_losses(objective):
        kind = type(loss_fn).__name__
        if scale is None:
            raise ValueError(
                f"{kind} reads cosines times s={loss_fn.s}, but {name} has scale=None, a softmax head. "
                f"Set its scale={loss_fn.s}."
            )
        if loss_fn.s != scale:
            raise ValueError(
                f"Expected {kind}(s={scale}), the scale of {name}, got s={loss_fn.s}. Set both alike."
            )


def _margin_losses(value: Any) -> Iterator[CosFace | ArcFace]:
    """All margin losses within a configuration."""
    if isinstance(value, CosFace | ArcFace):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _margin_losses(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _margin_losses(getattr(value, field.name, None))
