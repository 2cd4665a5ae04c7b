"""The nearest adversarial image found so far, row by row: what the minimum-norm attacks keep.

A row without one keeps its clean image. That some point was NaN is remembered, as in `_worst`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust.attacks._rows import like_rows
from jaxrobust.attacks._worst import class_of, select
from jaxrobust.types import Array, AttackResult, Ball, Example

# Logits differ by some 1e-7 of their size between programs that compute the same; a point this close to the
# boundary would be adversarial in one and not in the other.
SURE_MARGIN = 1e-5


class Nearest(NamedTuple):
    """Row by row: `image`; `length` in pixels of the ball's norm, inf where none was found; `broken` bool."""

    image: Array
    length: Array
    broken: Array


def surely_fools(logits: Array, target: Array, *, targeted: bool = False) -> Array:
    """Whether the model is fooled `[b]`, by more than the rounding of its logits; never on NaN."""
    own, other = _rivals(logits, target)
    margin = own - other if targeted else other - own
    return (margin > SURE_MARGIN * largest(own, other)) & ~jnp.isnan(logits).any(axis=-1)


def largest(first: Array, second: Array) -> Array:
    """The larger size of two logits, whose rounding it sets; infinite ones (masked classes) count 0.

    Of these two alone: a class masked by a logit like -1e9 would otherwise hide every success.
    """
    sizes = (jnp.where(jnp.isfinite(logit), jnp.abs(logit), 0.0) for logit in (first, second))
    return jnp.maximum(*sizes)


def _rivals(logits: Array, target: Array) -> tuple[Array, Array]:
    """The target's logit and the largest other one `[b]`."""
    is_target = jax.nn.one_hot(class_of(target), logits.shape[-1], dtype=bool)
    own = jnp.max(jnp.where(is_target, logits, -jnp.inf), axis=-1)
    return own, jnp.max(jnp.where(is_target, -jnp.inf, logits), axis=-1)


def lengths(ball: Ball, example: Example, images: Array) -> Array:
    """||x' - x|| of every row `[b]`, in the ball's norm."""
    return jax.vmap(ball.length)(images - example.image)


def regions(ball: Ball, example: Example) -> Array:
    """`[b, h, w, 1]`: 1 where the ball lets the image change."""
    return jax.vmap(ball.region)(example)


def none_yet(example: Example) -> Nearest:
    """The state before any candidate: the clean image at infinity."""
    rows = example.image.shape[0]
    blank = Nearest(example.image, jnp.full(rows, jnp.inf, jnp.float32), jnp.zeros(rows, bool))
    return like_rows(blank, example)


def nearer_of(old: Nearest, new: Nearest) -> Nearest:
    """Row by row the nearer; a tie keeps `old`."""
    return select(new.length < old.length, new, old)._replace(broken=old.broken | new.broken)


def candidate(
    ball: Ball, example: Example, images: Array, logits: Array, *, targeted: bool = False
) -> Nearest:
    """Images with their logits as a `Nearest`: at infinity where they do not fool the model."""
    fooled = surely_fools(logits, example.target, targeted=targeted)
    length = jnp.where(fooled, lengths(ball, example, images), jnp.inf)
    return Nearest(images, length, jnp.isnan(logits).any(axis=-1))


def to_result(ball: Ball, example: Example, nearest: Nearest) -> AttackResult:
    """The nearest adversarial, or the clean image with `found = False` and distance 0."""
    found = jnp.isfinite(nearest.length)
    image = select(found, nearest.image, example.image)
    theta = image - example.image
    distance = jax.vmap(ball.distance)(example, theta)
    return AttackResult(image=image, theta=theta, found=found, distance=distance, nonfinite=nearest.broken)
