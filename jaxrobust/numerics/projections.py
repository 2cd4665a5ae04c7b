"""Norms, projections and steepest directions of the l_inf and l2 geometries; safe to differentiate at 0."""

import jax.numpy as jnp
from jax import lax

from jaxrobust.types import Array


def l2_norm(x: Array) -> Array:
    """The l2 norm of the whole array, a scalar; its gradient at 0 is 0, where plain autodiff gives NaN."""
    # Scaled to a largest value of 1: the squares of a confident model's gradients underflow.
    largest = lax.stop_gradient(linf_norm(x))
    positive = largest > 0
    square = jnp.sum((x / jnp.where(positive, largest, 1)) ** 2)
    return largest * jnp.sqrt(jnp.where(positive, square, 1))


def linf_norm(x: Array) -> Array:
    """The largest absolute value of the whole array, a scalar."""
    return jnp.max(jnp.abs(x))


def project_linf(delta: Array, eps: float | Array) -> Array:
    """argmin_d ||d - delta||_2 subject to ||d||_inf <= eps, which is clipping to [-eps, eps].

    Args:
        delta: an offset of any shape, taken as one vector; pixels.
        eps: radius in pixels, >= 0; may be traced.

    >>> project_linf(jnp.array([0.5, -0.1]), 0.25).tolist()
    [0.25, -0.10000000149011612]
    """
    return jnp.clip(delta, -eps, eps)


def project_l2(delta: Array, eps: float | Array) -> Array:
    """argmin_d ||d - delta||_2 subject to ||d||_2 <= eps: delta * min(1, eps / ||delta||).

    Args:
        delta: an offset of any shape, taken as one vector; pixels.
        eps: radius in pixels, >= 0; may be traced.

    >>> project_l2(jnp.array([3.0, 4.0]), 1.0).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    norm = l2_norm(delta)
    return delta * jnp.where(norm > eps, eps / jnp.where(norm > 0, norm, 1), 1)


def linf_direction(grad: Array) -> Array:
    """argmax_d <grad, d> subject to ||d||_inf <= 1: the sign, 0 at 0."""
    return jnp.sign(grad)


def l2_direction(grad: Array) -> Array:
    """argmax_d <grad, d> subject to ||d||_2 <= 1: grad / ||grad||, 0 at 0."""
    norm = l2_norm(grad)
    return grad / jnp.where(norm > 0, norm, 1)
