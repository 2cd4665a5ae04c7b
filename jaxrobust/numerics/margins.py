"""Losses with a margin at the label's class, for models whose logits are scaled cosines s cos(theta_j).

The margin is in the loss alone: a model's logits are without it, so that predictions, attacks and metrics
read the same numbers in training and evaluation. The loss takes the cosines back out of the logits, so its
`s` must be the model's `scale` (`models.check_scale` compares them before anything is compiled). Rows with a
cosine beyond 1 give NaN, so that another scale, or logits that are no cosines, are seen.

Targets are classes `[b]` or distributions `[b, k]`, of which each class gets its share of the margin.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.types import Array

COSINE_TOLERANCE = 2.0**-6
"""How far beyond 1 a cosine may lie: bfloat16 rounds logits by a 256th."""

_CHORD = 2.0**-16


@dataclass(frozen=True, kw_only=True)
class CosFace:
    r"""The large margin cosine loss, eq. (4) of arXiv 1801.09414, unreduced.

    .. math:: L = -\log \frac{e^{s (\cos\theta_y - m)}}
              {e^{s (\cos\theta_y - m)} + \sum_{j \ne y} e^{s \cos\theta_j}}

    Args:
        s: the scale of the logits, > 0, the model's `scale`.
        m: the margin in [0, 2], in units of the cosine; 0 gives cross-entropy.

    Raises:
        ValueError: for values out of range.

    >>> loss_fn = CosFace(s=4.0, m=0.5)
    >>> float(loss_fn(jnp.array([[4.0, 2.0]]), jnp.array([0]))[0])  # log 2: the margin takes all the lead
    0.6931471824645996
    """

    s: float = 64.0
    m: float = 0.35

    def __post_init__(self) -> None:
        _validate.positive("s", self.s)
        _validate.within("m", self.m, 0.0, 2.0, "Cosines differ by 2 at most.")

    def __call__(self, logits: Array, target: Array) -> Array:
        """float32 `[b]` from logits `[b, k]` and classes `[b]` or distributions `[b, k]`."""
        return _with_margin(logits, target, self.s, lambda cos: cos - self.m)


@dataclass(frozen=True, kw_only=True)
class ArcFace:
    r"""The additive angular margin loss, eq. (3) of arXiv 1801.07698, unreduced.

    .. math:: L = -\log \frac{e^{s \cos(\theta_y + m)}}
              {e^{s \cos(\theta_y + m)} + \sum_{j \ne y} e^{s \cos\theta_j}}

    Where theta + m > pi, cos(theta + m) would rise again with theta, and reward what is farthest off. There
    it is cos(theta) - m sin(m), as in the authors' code: falling, with a step down of cos(m) + m sin(m) - 1
    at the border. With `easy_margin` the margin holds for theta < pi / 2 only, and from there on it is
    cos(theta).

    Deviation: the slope of cos(theta + m) in cos(theta) is infinite at theta = 0. From cos(theta) = 1 - 2^-16
    (0.3 degrees) on, the chord to (1, cos m) stands for the curve, and beyond 1, where rounding leads, it
    goes on. It is exact at both ends and at most 0.0014 sin(m) above the curve between them; value and
    gradient are finite, and the gradient is that of the value. On the embedding the gradient is the slope
    times sin(theta), at most about twice what it is outside.

    Args:
        s: the scale of the logits, > 0, the model's `scale`.
        m: the margin in [0, pi / 2), in radians; 0 gives cross-entropy.
        easy_margin: see above.

    Raises:
        ValueError: for values out of range.

    >>> loss_fn = ArcFace(s=4.0, m=0.5)
    >>> lead = 4 * math.cos(0.7 + 0.5) - 2  # of the label's logit at 0.7 radians over another of 2
    >>> loss = loss_fn(jnp.array([[4 * math.cos(0.7), 2.0]]), jnp.array([0]))[0]
    >>> abs(float(loss) - math.log1p(math.exp(-lead))) < 1e-6
    True
    """

    s: float = 64.0
    m: float = 0.5
    easy_margin: bool = False

    def __post_init__(self) -> None:
        _validate.positive("s", self.s)
        _validate.within("m", self.m, 0.0, 1.57, "It is an angle in radians, below a right one.")

    def __call__(self, logits: Array, target: Array) -> Array:
        """float32 `[b]` from logits `[b, k]` and classes `[b]` or distributions `[b, k]`."""
        return _with_margin(logits, target, self.s, self._moved)

    def _moved(self, cos: Array) -> Array:
        """The cosine with the margin, of any shape; finite with finite gradients at and beyond +-1."""
        cos_m, sin_m = math.cos(self.m), math.sin(self.m)
        near = 1 - _CHORD
        # A root whose argument is kept off 0 even where it is not chosen: its derivative would be inf * 0.
        inside = jnp.where(jnp.abs(cos) < near, cos, near)
        curve = cos * cos_m - jnp.sqrt((1 - inside) * (1 + inside)) * sin_m
        slope = cos_m + sin_m * math.sqrt((1 - near) * (1 + near)) / (1 - near)
        moved = jnp.where(cos < near, curve, cos_m + slope * (cos - 1))
        if self.easy_margin:
            return jnp.where(cos > 0, moved, cos)
        return jnp.where(cos > -cos_m, moved, cos - self.m * sin_m)


def _with_margin(logits: Array, target: Array, s: float, moved: Callable[[Array], Array]) -> Array:
    """Cross-entropy after the label's cosine has been moved; NaN in rows that hold no cosines times s."""
    logits = logits.astype(jnp.float32)
    cos = logits / s
    is_class = jnp.issubdtype(jnp.result_type(target), jnp.integer)
    weights = jax.nn.one_hot(target, logits.shape[-1]) if is_class else target.astype(jnp.float32)
    values = cross_entropy(logits + weights * s * (moved(cos) - cos), target)
    return jnp.where(jnp.max(jnp.abs(cos), axis=-1) <= 1 + COSINE_TOLERANCE, values, jnp.nan)


MARGIN_LOSSES = {"cosface": CosFace, "arcface": ArcFace}
