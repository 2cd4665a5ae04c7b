"""The fast adaptive boundary attack (Croce & Hein, arXiv:1907.02044): inwards along the boundary."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.attacks._checks import check_ball
from jaxrobust.attacks._classes import likeliest_others
from jaxrobust.attacks._gradients import GradientFn, exact_gradient, led
from jaxrobust.attacks._nearest import (
    SURE_MARGIN,
    Nearest,
    candidate,
    largest,
    nearer_of,
    none_yet,
    regions,
    to_result,
)
from jaxrobust.attacks._rows import fold_rows, like_rows
from jaxrobust.attacks._worst import class_of, select
from jaxrobust.numerics.hyperplanes import to_hyperplane
from jaxrobust.numerics.losses import margin
from jaxrobust.numerics.projections import l2_norm
from jaxrobust.types import Array, AttackResult, Ball, Example, ScoreFn

_SEARCH_STEPS = 12  # the last bisection leaves 1/4096 of the norm
# How far beyond the boundary the plane lies, in the size of the two logits: where a success is sure. On the
# boundary itself a row would stand still for ever, neither fooled nor with a way to go.
_BEYOND = 2 * SURE_MARGIN


DifferenceFn: TypeAlias = Callable[[Array, Array], Array]
"""`fn(upper [b], lower [b])` -> the gradients `[b, h, w, c]` of z_upper - z_lower in the image."""


class _Plane(NamedTuple):
    """A boundary linearised at x, g + <w, x' - x> = 0, row by row.

    `weight`: w, 0 where there is none; `gap`: g; `distance` of x, unless the box is in the way.
    """

    weight: Array
    gap: Array
    distance: Array


@dataclass(frozen=True, kw_only=True)
class FAB:
    r"""FAB, arXiv:1907.02044, Alg. 1: steps along linearised decision boundaries, drawn to the clean image.

    The boundary between the label c and a class s, linearised at $x_i$, is the plane $\pi_s: (z_s - z_c)(x_i)
    + \langle \nabla(z_s - z_c)(x_i), x - x_i\rangle = 0$. With s the class of the nearest plane, $|z_s - z_c|
    / \|\nabla(z_s - z_c)\|_q$, and the shortest ways inside the box $\delta_i = P_\pi(x_i) - x_i$ and
    $\delta_0 = P_\pi(x) - x$,

    $x_{i+1} = P_{box}\big((1 - \alpha)(x_i + \eta\,\delta_i) + \alpha(x + \eta\,\delta_0)\big)$, $\alpha =
    \min(\|\delta_i\|_p / (\|\delta_i\|_p + \|\delta_0\|_p), \alpha_{max})$ (eqs. 8 to 10).

    Where $x_{i+1}$ fools the model it is kept if it is the nearest so far, and the search goes on from $(1 -
    \beta)\,x + \beta\,x_{i+1}$. At the end the segment from the nearest to the clean image is bisected.

    With `num_targets` > 0 it is FAB-T of arXiv:2003.01690: one search for each of the classes that are
    likeliest for the clean image, the true one excepted, with the plane to that class alone and so one
    gradient per step instead of k - 1. The first search starts at the clean image, restarts at random points
    within half of the norm found so far (at most half of eps).

    Deviations from the paper: the plane lies beyond the boundary by 2e-5 of the largest logit, twice what
    makes a success sure, for a point that came to lie on the boundary would neither fool the model nor move
    again. The points from which a gradient is taken count as candidates as well, as their logits are known.
    The last search bisects 12 times, where the paper takes 3 steps of a secant method. Restarts lie uniformly
    in the ball, not on its border. The projections are found by Newton's method, which ends exactly, instead
    of sorting (l_2, l_inf). `targeted` is ours: the plane is that between the designated class and the
    largest other logit, or, with `num_targets`, each of the likeliest in turn.

    Args:
        neighbourhood: a ball of norm inf, 2 or 1, or a masked one: the norm that is minimised and where the
            image may change. Its radius is the unit of `distance` and limits the restarts, nothing else.
        steps: gradients (one per class in the untargeted form) per search, >= 1; two forward passes each.
        restarts: searches per target, >= 1.
        num_targets: classes that FAB-T goes through, at most the number of classes less 1 (a larger number is
            taken as that); 0 is the untargeted form over all classes.
        alpha_max: the largest pull to the clean image, in [0, 1].
        eta: the overshoot over the plane, >= 1.
        beta: the share of the offset that the backward step keeps, in (0, 1].
        chunk: classes whose gradients the untargeted form takes at once, >= 1; changes time and memory, not
            the result.
        gradient_fn: `exact_gradient`, or a surrogate for a defence that hides its gradient (`bpda`, `eot`),
            which costs a forward pass more for each gradient. Its logits judge the points from which a
            gradient is taken, the model's own the others.
        targeted: `Example.target` is the designated class, to which the model is to be led.

    Raises:
        ValueError: for another neighbourhood, or numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust.neighbourhoods import L2
        >>> def score_fn(images, example):
        ...     total = images.sum(axis=(1, 2, 3))
        ...     return jnp.stack([0 * total, total - 2.5], axis=-1)
        >>> ex = Example(image=jnp.full((1, 2, 2, 1), 0.5), target=jnp.array([0]))
        >>> fab = FAB(neighbourhood=L2(eps=1.0), steps=10)
        >>> result = fab(jax.random.split(jax.random.key(0), 1), score_fn, ex)
        >>> print(result.found, result.distance.round(3))  # the plane is 0.5 / ||1|| = 0.25 away
        [ True] [0.25]
    """

    minimum_norm: ClassVar[bool] = True

    neighbourhood: Ball
    steps: int = 100
    restarts: int = 1
    num_targets: int = 0
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    chunk: int = 3
    gradient_fn: GradientFn = exact_gradient
    targeted: bool = False

    def __post_init__(self) -> None:
        check_ball(self.neighbourhood, (1, 2, math.inf))
        _validate.at_least("steps", self.steps, 1)
        _validate.at_least("restarts", self.restarts, 1)
        _validate.at_least("num_targets", self.num_targets, 0)
        _validate.within("alpha_max", self.alpha_max, 0.0, 1.0, "It is a share of the step.")
        _validate.within("eta", self.eta, 1.0, math.inf, "1 steps onto the plane, not over it.")
        _validate.positive("beta", self.beta, "It is the share of the offset that is kept.")
        _validate.within("beta", self.beta, 0.0, 1.0, "It is the share of the offset that is kept.")
        _validate.at_least("chunk", self.chunk, 1)

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; see `jaxrobust.types.Attack`."""
        clean = score_fn(example.image, example)
        nearest = nearer_of(none_yet(example), self._candidate(example, example.image, clean))
        others = likeliest_others(clean, example.target, self.num_targets or 1)

        def search(i: int | Array, nearest: Nearest) -> Nearest:
            start_keys, step_keys = fold_rows(fold_rows(keys, i), 0), fold_rows(fold_rows(keys, i), 1)
            first = i < others.shape[1]
            images = example.image
            if self.restarts > 1:
                images = jnp.where(first, images, self._random_starts(start_keys, example, nearest))

            def step(j: int, state: tuple[Array, Nearest]) -> tuple[Array, Nearest]:
                towards = others[:, i % others.shape[1]]
                return self._step(fold_rows(step_keys, j), score_fn, example, towards, *state)

            return jax.lax.fori_loop(0, self.steps, step, (images, nearest))[1]

        nearest = jax.lax.fori_loop(0, self.restarts * others.shape[1], search, nearest)
        return to_result(self.neighbourhood, example, self._bisected(score_fn, example, nearest))

    def scaled(self, factor: float | Array) -> "FAB":
        """This attack with its unit of length multiplied by `factor`, and the limit of its restarts."""
        return replace(self, neighbourhood=self.neighbourhood.scaled(factor))

    def _candidate(self, example: Example, images: Array, logits: Array) -> Nearest:
        return candidate(self.neighbourhood, example, images, logits, targeted=self.targeted)

    def _random_starts(self, keys: Array, example: Example, nearest: Nearest) -> Array:
        """Random images within half of the norm found so far, at most half of eps."""

        def start(key: Array, ex: Example, length: Array) -> Array:
            eps = jnp.asarray(self.neighbourhood.eps)
            share = jnp.where(length < eps, length / jnp.where(eps > 0, eps, 1.0), 1.0)
            ball = self.neighbourhood.scaled(share / 2)
            return ball.apply(ex, ball.sample(key, ex))

        return jax.vmap(start)(keys, example, nearest.length)

    def _step(
        self,
        keys: Array,
        score_fn: ScoreFn,
        example: Example,
        towards: Array,
        images: Array,
        nearest: Nearest,
    ) -> tuple[Array, Nearest]:
        """From x_i to x_{i+1}, and back towards the clean image where that fools the model."""
        logits, gradient_fn = self._gradients(keys, score_fn, images, example)
        plane = self._plane(logits, gradient_fn, example, towards)
        nearest = nearer_of(nearest, self._candidate(example, images, logits))
        images = jax.vmap(self._move)(example, images, plane)
        reached = self._candidate(example, images, score_fn(images, example))
        back = example.image + self.beta * (images - example.image)
        return select(jnp.isfinite(reached.length), back, images), nearer_of(nearest, reached)

    def _gradients(
        self, keys: Array, score_fn: ScoreFn, images: Array, example: Example
    ) -> tuple[Array, DifferenceFn]:
        """The logits, and what gives the gradients of their differences."""
        if self.gradient_fn is exact_gradient:
            # One forward pass for all classes, which a gradient function of one loss cannot give.
            logits, pullback = jax.vjp(lambda x: score_fn(x, example), images)

            def exact(upper: Array, lower: Array) -> Array:
                ends = (jax.nn.one_hot(end, logits.shape[-1], dtype=logits.dtype) for end in (upper, lower))
                return pullback(next(ends) - next(ends))[0]

            return logits, exact

        def surrogate(upper: Array, lower: Array) -> Array:
            plain_fn, aimed = led(score_fn, example, (upper, lower))
            return self.gradient_fn(keys, plain_fn, _difference, images, aimed)[1]

        (_, logits), _ = self.gradient_fn(keys, score_fn, margin, images, example)
        return logits, surrogate

    def _plane(self, logits: Array, gradient_fn: DifferenceFn, example: Example, towards: Array) -> _Plane:
        """The plane to step to: to one class, or the nearest of all."""
        label, num_classes = class_of(example.target), logits.shape[-1]
        region = regions(self.neighbourhood, example)

        def plane(upper: Array, lower: Array) -> _Plane:
            gradient = gradient_fn(upper, lower).astype(jnp.float32)
            weight = region * jnp.where(jnp.isfinite(gradient), gradient, 0.0)
            ends = (_entry(logits, end).astype(jnp.float32) for end in (upper, lower))
            above, below = ends
            gap = above - below - _BEYOND * largest(above, below)
            size = jax.vmap(self._dual_length)(weight)
            distance = jnp.where(size > 0, jnp.abs(gap) / jnp.where(size > 0, size, 1.0), jnp.inf)
            # A class that is masked, or whose logit does not depend on the image, is nowhere.
            there = jnp.isfinite(distance)
            return _Plane(select(there, weight, 0 * weight), gap, jnp.where(there, distance, jnp.inf))

        if self.num_targets:
            return plane(*((label, towards) if self.targeted else (towards, label)))
        if self.targeted:
            own = jax.nn.one_hot(label, num_classes, dtype=bool)
            return plane(label, jnp.argmax(jnp.where(own, -jnp.inf, logits), axis=-1))

        chunk = min(self.chunk, num_classes - 1)

        def nearer(i: int | Array, best: _Plane) -> _Plane:
            # The last chunk repeats the last class, which changes nothing: ties keep what is there.
            offsets = 1 + jnp.minimum(i * chunk + jnp.arange(chunk), num_classes - 2)
            planes = jax.vmap(plane, (0, None))((label + offsets[:, None]) % num_classes, label)
            at = jnp.argmin(planes.distance, axis=0), jnp.arange(len(label))
            new = jax.tree.map(lambda leaf: leaf[at], planes)
            return select(new.distance < best.distance, new, best)

        nowhere = jnp.full(len(label), jnp.inf, jnp.float32)
        none = like_rows(_Plane(jnp.zeros_like(example.image), 0 * nowhere, nowhere), example)
        return jax.lax.fori_loop(0, -(-(num_classes - 1) // chunk), nearer, none)

    def _dual_length(self, weight: Array) -> Array:
        """||w||_q with 1/p + 1/q = 1."""
        largest = jnp.abs(weight).max()
        if self.neighbourhood.norm == 2:
            return l2_norm(weight)
        return largest if self.neighbourhood.norm == 1 else jnp.abs(weight).sum()

    def _move(self, ex: Example, image: Array, plane: _Plane) -> Array:
        """x_{i+1} of one row."""
        ball, region = self.neighbourhood, self.neighbourhood.region(ex)

        def shortest(origin: Array, gap: Array) -> Array:
            room = -region * origin, region * (1.0 - origin)
            return to_hyperplane(plane.weight, gap, *room, ball.norm)

        gap_at_clean = plane.gap + (plane.weight * (ex.image - image)).sum()
        gaps = jnp.stack([plane.gap, gap_at_clean])
        from_here, from_clean = jax.vmap(shortest)(jnp.stack([image, ex.image]), gaps)
        here, clean = ball.length(from_here), ball.length(from_clean)
        alpha = jnp.minimum(here / jnp.where(here + clean > 0, here + clean, 1.0), self.alpha_max)
        mixed = (1 - alpha) * (image + self.eta * from_here) + alpha * (ex.image + self.eta * from_clean)
        # Rounding would change the image outside of the region.
        return jnp.where(region > 0, jnp.clip(mixed, 0.0, 1.0), ex.image)

    def _bisected(self, score_fn: ScoreFn, example: Example, nearest: Nearest) -> Nearest:
        """The nearest on the segment between the nearest so far and the clean image."""
        offset = nearest.image - example.image

        def halve(_: int, state: tuple[Array, Array, Nearest]) -> tuple[Array, Array, Nearest]:
            low, high, nearest = state
            middle = (low + high) / 2
            images = example.image + middle[:, None, None, None] * offset
            new = self._candidate(example, images, score_fn(images, example))
            fooled = jnp.isfinite(new.length)
            return jnp.where(fooled, low, middle), jnp.where(fooled, middle, high), nearer_of(nearest, new)

        ends = jnp.zeros_like(nearest.length), jnp.ones_like(nearest.length)
        return jax.lax.fori_loop(0, _SEARCH_STEPS, halve, (*like_rows(ends, example), nearest))[2]


def _difference(logits: Array, target: Any) -> Array:
    """Of two logits of each row."""
    upper, lower = target.by
    return _entry(logits, upper) - _entry(logits, lower)


def _entry(logits: Array, index: Array) -> Array:
    """`logits[i, index[i]]` for every row."""
    return jnp.take_along_axis(logits, index[:, None], axis=-1)[:, 0]
