"""Norms, projections and steepest directions of the l_inf and l2 geometries; safe to differentiate at 0."""

import jax.numpy as jnp

from jaxrobust.types import Array


def l2_norm(x: Array) -> Array:
    """The l2 norm of the whole array, a scalar; its gradient at 0 is 0, where plain autodiff gives NaN."""
    square = jnp.sum(x * x)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def linf_norm(x: Array) -> Array:
    """The largest absolute value of the whole array, a scalar."""
    return jnp.max(jnp.abs(x))


def project_linf(delta: Array, eps: float | Array) -> Array:
    """argmin_d ||d - delta||_2 subject to ||d||_inf <= eps, which is clipping to [-eps, eps]."""
    return jnp.clip(delta, -eps, eps)


def project_l2(delta: Array, eps: float | Array) -> Array:
    """argmin_d ||d - delta||_2 subject to ||d||_2 <= eps: delta * min(1, eps / ||delta||)."""
    norm = l2_norm(delta)
    return delta * jnp.where(norm > eps, eps / jnp.where(norm > 0, norm, 1), 1)


def linf_direction(grad: Array) -> Array:
    """argmax_d <grad, d> subject to ||d||_inf <= 1: the sign, 0 at 0."""
    return jnp.sign(grad)


def l2_direction(grad: Array) -> Array:
    """argmax_d <grad, d> subject to ||d||_2 <= 1: grad / ||grad||, 0 at 0."""
    norm = l2_norm(grad)
    return grad / jnp.where(norm > 0, norm, 1)
