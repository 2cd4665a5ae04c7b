"""Regularisers of source, adversarial and target embeddings: values `(s, a, t) -> [b]`, by name."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.numerics.projections import l2_norm
from jaxrobust.types import Array

RegulariserFn = Callable[[Array, Array, Array], Array]
"""`regulariser_fn(source [b, d], adversarial [b, d], target [b, d]) -> [b]` of unit embeddings, unreduced."""


@dataclass(frozen=True, kw_only=True)
class TripletCos:
    r"""The adversarial face is nearer to its source than to its target, and near to it at all.

    .. math:: R = [m + \cos(a, t) - \cos(a, s)]_+ + (1 - \cos(a, s))

    CN116665282A says of which samples the regulariser is made, not how; this one is ours.

    Args:
        margin: m in [0, 2].

    Raises:
        ValueError: for a margin out of range.

    >>> s, t = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    >>> TripletCos(margin=0.25)(s, s, t).tolist(), TripletCos(margin=0.25)(s, t, t).tolist()
    ([0.0], [2.25])
    """

    margin: float = 0.3

    def __post_init__(self) -> None:
        _check(self.margin)

    def __call__(self, source: Array, adversarial: Array, target: Array) -> Array:
        """`[b]` of unit embeddings `[b, d]`."""
        kept, won = _dot(adversarial, source), _dot(adversarial, target)
        return jax.nn.relu(self.margin + won - kept) + (1 - kept)


@dataclass(frozen=True, kw_only=True)
class MTER:
    r"""The triplet loss of distances, after Zhong and Deng, ICCV 2019 (margin-based triplet regularisation).

    .. math:: R = [\|a - s\| - \|a - t\| + m]_+

    Theirs mines triplets in the batch and has the adversarial image as one of three roles; here the triplet
    is given: the adversarial embedding is the anchor. The gradient of a norm at 0 is taken to be 0.

    Args:
        margin: m in [0, 2].

    Raises:
        ValueError: for a margin out of range.

    >>> s, t = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    >>> MTER(margin=0.25)(s, s, t).tolist()
    [0.0]
    """

    margin: float = 0.2

    def __post_init__(self) -> None:
        _check(self.margin)

    def __call__(self, source: Array, adversarial: Array, target: Array) -> Array:
        """`[b]` of unit embeddings `[b, d]`."""
        length = jax.vmap(l2_norm)
        return jax.nn.relu(length(adversarial - source) - length(adversarial - target) + self.margin)


@dataclass(frozen=True, kw_only=True)
class Push:
    r"""The adversarial face comes no nearer to its target than the source was, by more than a margin.

    .. math:: R = [\cos(a, t) - \cos(s, t) - m]_+

    Ours. It says nothing of a face that moves elsewhere: dodging is left to the loss.

    Args:
        margin: m in [0, 2].

    Raises:
        ValueError: for a margin out of range.

    >>> s, t = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    >>> Push(margin=0.25)(s, t, t).tolist()
    [0.75]
    """

    margin: float = 0.3

    def __post_init__(self) -> None:
        _check(self.margin)

    def __call__(self, source: Array, adversarial: Array, target: Array) -> Array:
        """`[b]` of unit embeddings `[b, d]`."""
        return jax.nn.relu(_dot(adversarial, target) - _dot(source, target) - self.margin)


REGULARISERS = {"triplet_cos": TripletCos, "mter": MTER, "push": Push}


def _check(margin: float) -> None:
    _validate.within("margin", margin, 0.0, 2.0, "Cosines differ by 2 at most, as do unit embeddings.")


def _dot(first: Array, second: Array) -> Array:
    return jnp.sum(first * second, axis=-1)
