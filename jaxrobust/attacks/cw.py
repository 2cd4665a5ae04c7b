r"""The l2 attack of Carlini and Wagner (arXiv:1608.04644).

Their loss in a fixed ball is another attack, `PGD(neighbourhood=LInf(eps=...), loss_fn=losses.margin)`: what
a table that gives C&W a radius in l_inf most likely means.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.attacks._checks import check_ball
from jaxrobust.attacks._gradients import GradientFn, exact_gradient
from jaxrobust.attacks._nearest import Nearest, candidate, nearer_of, none_yet, regions, to_result
from jaxrobust.attacks._rows import fold_rows, like_rows
from jaxrobust.attacks._worst import class_of, select
from jaxrobust.numerics.losses import margin
from jaxrobust.types import LATER, Array, AttackResult, Ball, Example, ScoreFn

_SHRINK = 0.999999  # the authors': arctanh is infinite at pixels that are exactly 0 or 1
_MAX_CONST = 1e10  # the authors'; larger ones overflow in Adam's squares
_DECAY, _SQUARE_DECAY, _ADAM_EPS = 0.9, 0.999, 1e-8


class _Bounds(NamedTuple):
    """The search for c, row by row `[b]`: the c to try, the largest that failed, the least that worked."""

    const: Array
    low: Array
    high: Array


class _Descent(NamedTuple):
    """One search: w and Adam's moments `[b, h, w, c]`; the loss at the last check, whether the row still
    runs, whether it has succeeded `[b]`; the nearest of all searches."""

    step: Array
    w: Array
    mean: Array
    square: Array
    checked: Array
    active: Array
    success: Array
    nearest: Nearest


@dataclass(frozen=True, kw_only=True)
class CarliniWagner:
    r"""The nearest adversarial image in l2 by penalised descent, arXiv:1608.04644, section V.

    $\min_w \|x'(w) - x'(w_0)\|_2^2 + c\,\max\big(0, \kappa - m(f(x'(w)))\big)$ with $x'(w) = (\tanh w + 1)/2$
    and $w_0 = \mathrm{arctanh}(0.999999\,(2x - 1))$, where the margin m is the largest other logit less that
    of the true class, or its negative where targeted. Adam descends from $w_0$ anew for every c; c starts at
    `initial_const`, is multiplied by 10 until a search succeeds, then bisected. The nearest image over all
    steps of all searches is kept. With `constants` there is no search: each of them is tried in turn, which
    can lead nearer where the first steps overshoot, so that a small c "succeeds" far away and larger ones
    that would find nearer images are never tried (docs/results/parity/NOTES.md has such a model).

    With few steps, `learning_rate` and `initial_const` decide: a pixel of exactly 0 or 1 starts at |w| = 7.25
    and a step moves w by about the learning rate, so that 200 steps of 0.01 leave it where it is (use 0.1),
    and five searches from 1e-3 end at c = 10.

    Deviations from the authors' code: every decision is made per example (theirs stops the whole batch by its
    summed loss); the clean image is tried first, so that a misclassified one has distance 0; success asks for
    a margin above rounding; after ten or more searches without a success the last goes on with the larger c
    instead of trying c = 1e10; a pixel that has not moved keeps its value, where the round trip through tanh
    would change it by 5e-7.

    Args:
        neighbourhood: `L2(eps)` (or a masked one); eps is the unit of `distance` only.
        searches: values of c that are tried, >= 1. The last of 10 or more tries the least c that worked.
        steps: Adam's steps for each, >= 1.
        learning_rate: of Adam, > 0.
        initial_const: the first c, > 0.
        constants: every c to try, > 0, in place of `searches` and `initial_const`; empty for the search.
        kappa: the margin asked for, >= 0, in logits; larger ones transfer better. A misclassified image whose
            margin is smaller is searched too, and is itself the result where nothing reaches kappa.
        abort_early: stop a row's search when, at a tenth of the steps after the other, its loss has not
            fallen below 0.9999 of what it was: the authors' rule. False is at times a little stronger.
        gradient_fn: `exact_gradient`, or a surrogate (`bpda`, `eot`).
        targeted: `Example.target` is the designated class, to which the model is to be led.

    Raises:
        ValueError: for a neighbourhood that is no l2 ball, and options out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust.neighbourhoods import L2
        >>> def score_fn(images, example):
        ...     total = images.sum(axis=(1, 2, 3))
        ...     return jnp.stack([0 * total, total - 2.4], axis=-1)
        >>> ex = Example(image=jnp.full((1, 2, 2, 1), 0.5), target=jnp.array([0]))
        >>> attack = CarliniWagner(neighbourhood=L2(eps=1.0), searches=6, steps=200)
        >>> result = attack(jax.random.split(jax.random.key(0), 1), score_fn, ex)
        >>> print(result.found, f"{float(result.distance[0]):.3f}")  # four pixels, each 0.1 off the border
        [ True] 0.200
    """

    neighbourhood: Ball
    searches: int = 9
    steps: int = 10_000
    learning_rate: float = 0.01
    initial_const: float = 1e-3
    constants: tuple[float, ...] = field(default=(), metadata=LATER)
    kappa: float = 0.0
    abort_early: bool = True
    gradient_fn: GradientFn = exact_gradient
    targeted: bool = False

    minimum_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_ball(self.neighbourhood, (2,))
        _validate.at_least("searches", self.searches, 1)
        _validate.at_least("steps", self.steps, 1)
        _validate.positive("learning_rate", self.learning_rate)
        _validate.positive("initial_const", self.initial_const, "It is multiplied by 10 until it suffices.")
        for const in self.constants:
            _validate.positive("constants", const, "Each weighs the loss against the distance.")
        _validate.non_negative("kappa", self.kappa, "It is a difference of logits.")

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; see `jaxrobust.types.Attack`."""

        def search(index: int | Array, carry: tuple[_Bounds, Nearest]) -> tuple[_Bounds, Nearest]:
            bounds, nearest = carry
            if self.constants:
                const = jnp.full_like(bounds.const, jnp.array(self.constants)[index])
                end = self._descend(fold_rows(keys, index), score_fn, example, const, needed, nearest)
                return bounds, end.nearest
            last = (self.searches >= 10) & (index == self.searches - 1)
            const = jnp.where(last & jnp.isfinite(bounds.high), bounds.high, bounds.const)
            end = self._descend(fold_rows(keys, index), score_fn, example, const, needed, nearest)
            return _next_bounds(bounds._replace(const=const), end.success), end.nearest

        logits = score_fn(example.image, example)
        clean = candidate(self.neighbourhood, example, example.image, logits, targeted=self.targeted)
        nearest = nearer_of(none_yet(example), self._judge(example, example.image, logits))
        needed = ~jnp.isfinite(nearest.length)
        rows = example.image.shape[0]
        bounds = _Bounds(
            const=jnp.full(rows, self.initial_const, jnp.float32),
            low=jnp.zeros(rows, jnp.float32),
            high=jnp.full(rows, jnp.inf, jnp.float32),
        )
        searches = len(self.constants) or self.searches
        _, nearest = jax.lax.fori_loop(0, searches, search, (like_rows(bounds, example), nearest))
        # Where kappa is out of reach, an image that is misclassified anyway stands.
        missed = ~jnp.isfinite(nearest.length)
        return to_result(
            self.neighbourhood, example, select(missed, clean, nearest)._replace(broken=nearest.broken)
        )

    def scaled(self, factor: float | Array) -> "CarliniWagner":
        """This attack with its unit of length multiplied by `factor`; it finds the same images."""
        return replace(self, neighbourhood=self.neighbourhood.scaled(factor))

    def _hinge(self, logits: Array, target: Array) -> Array:
        """max(0, kappa - m) `[b]`, of gradient 0 at the kink."""
        signed = margin(logits, target)
        gap = self.kappa - (-signed if self.targeted else signed)
        return jnp.where(gap > 0, gap, 0.0)

    def _judge(self, example: Example, images: Array, logits: Array) -> Nearest:
        """A candidate, which succeeds with the label's logit shifted by kappa."""
        label = jax.nn.one_hot(class_of(example.target), logits.shape[-1])
        shifted = logits + label * (-self.kappa if self.targeted else self.kappa)
        return candidate(self.neighbourhood, example, images, shifted, targeted=self.targeted)

    def _descend(
        self,
        keys: Array,
        score_fn: ScoreFn,
        example: Example,
        const: Array,
        needed: Array,
        nearest: Nearest,
    ) -> _Descent:
        """One search, for the rows that need it; it ends when no row is active."""
        ball = self.neighbourhood
        region = regions(ball, example)
        origin = jnp.arctanh(_SHRINK * (2 * example.image - 1))
        every = max(self.steps // 10, 1)

        def step(now: _Descent) -> _Descent:
            offset = region * (_to_image(now.w) - _to_image(origin))
            images = jnp.clip(example.image + offset, 0.0, 1.0)
            (hinges, logits), gradient = self.gradient_fn(
                fold_rows(keys, now.step), score_fn, self._hinge, images, example
            )
            losses = const * hinges + (offset**2).sum(axis=(1, 2, 3))
            found = self._judge(example, images, logits)
            found = found._replace(
                length=jnp.where(now.active, found.length, jnp.inf), broken=found.broken & now.active
            )
            active, checked = now.active, now.checked
            if self.abort_early:
                due = now.step % every == 0
                active &= ~due | (losses <= 0.9999 * checked)
                checked = jnp.where(due, losses, checked)
            # An infinite or NaN entry moves nothing, lest the row be lost for all later steps.
            gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
            gradient = region * _slope(now.w) * (_per_row(const) * gradient + 2 * offset)
            mean = _DECAY * now.mean + (1 - _DECAY) * gradient
            square = _SQUARE_DECAY * now.square + (1 - _SQUARE_DECAY) * gradient**2
            count = now.step + 1
            move = mean / (1 - _DECAY**count)
            move /= jnp.sqrt(square / (1 - _SQUARE_DECAY**count)) + _ADAM_EPS
            return _Descent(
                step=count,
                w=select(active, now.w - self.learning_rate * move, now.w),
                mean=mean,
                square=square,
                checked=checked,
                active=active,
                success=now.success | jnp.isfinite(found.length),
                nearest=nearer_of(now.nearest, found),
            )

        start = _Descent(
            step=jnp.zeros((), jnp.int32),
            w=origin,
            mean=jnp.zeros_like(origin),
            square=jnp.zeros_like(origin),
            checked=jnp.full_like(const, jnp.inf),
            active=needed,
            success=jnp.zeros_like(needed),
            nearest=nearest,
        )
        return jax.lax.while_loop(lambda now: (now.step < self.steps) & now.active.any(), step, start)


def _per_row(values: Array) -> Array:
    """`[b]` -> `[b, 1, 1, 1]`."""
    return values[:, None, None, None]


def _to_image(w: Array) -> Array:
    """(tanh w + 1) / 2, without the cancellation near 0 that would hide small moves of black pixels."""
    return jax.nn.sigmoid(2 * w)


def _slope(w: Array) -> Array:
    """The derivative of `_to_image`, exact to rounding at both ends."""
    return 2 * jax.nn.sigmoid(2 * w) * jax.nn.sigmoid(-2 * w)


def _next_bounds(bounds: _Bounds, success: Array) -> _Bounds:
    """Times 10 until the first success, then the middle."""
    low = jnp.where(success, bounds.low, jnp.maximum(bounds.low, bounds.const))
    high = jnp.where(success, jnp.minimum(bounds.high, bounds.const), bounds.high)
    middle = jnp.where(jnp.isfinite(high), (low + high) / 2, jnp.minimum(10 * bounds.const, _MAX_CONST))
    return _Bounds(const=middle, low=low, high=high)
