"""What every neighbourhood needs about pixels and radii."""

import jax
import jax.numpy as jnp

from jaxrobust.types import Array


@jax.custom_jvp
def to_pixels(image: Array) -> Array:
    """Clips to [0, 1]; the derivative passes straight through.

    Neighbourhoods keep `theta` inside the box, so the clip only removes rounding. The derivative of
    `jnp.clip` would halve the gradient of every pixel that is exactly 0 or 1 (and `lax.clamp` would drop it):
    most pixels of MNIST.
    """
    return jnp.clip(image, 0.0, 1.0)


@to_pixels.defjvp
def _to_pixels_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return to_pixels(*primals), tangents[0]


def in_radii(length: Array, radius: float | Array) -> Array:
    """`length / radius`; with a zero radius 0 for a zero length and infinity for any other, never NaN."""
    positive = jnp.asarray(radius) > 0
    ratio = length / jnp.where(positive, radius, 1.0)
    return jnp.where(positive | (length == 0), ratio, jnp.inf)
