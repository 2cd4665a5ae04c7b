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


@jax.custom_vjp
def add_offset(image: Array, theta: Array) -> Array:
    """`clip(image + theta, 0, 1)`, whose derivative in theta is the one-sided one of an ascent.

    Where the result is at the border of the box and the cotangent points outwards, theta gets 0: growing it
    does nothing. Sparse steps, which go to the few largest entries of a gradient, would otherwise be spent on
    pixels that cannot move. The image gets the whole cotangent. (Forward mode is not defined.)
    """
    return jnp.clip(image + theta, 0.0, 1.0)


def _add_offset_fwd(image: Array, theta: Array) -> tuple[Array, Array]:
    result = add_offset(image, theta)
    return result, result


def _add_offset_bwd(result: Array, cotangent: Array) -> tuple[Array, Array]:
    outwards = ((result >= 1) & (cotangent > 0)) | ((result <= 0) & (cotangent < 0))
    return cotangent, jnp.where(outwards, 0.0, cotangent)


add_offset.defvjp(_add_offset_fwd, _add_offset_bwd)


def in_radii(length: Array, radius: float | Array) -> Array:
    """`length / radius`; with a zero radius 0 for a zero length and infinity for any other, never NaN."""
    positive = jnp.asarray(radius) > 0
    ratio = length / jnp.where(positive, radius, 1.0)
    return jnp.where(positive | (length == 0), ratio, jnp.inf)
