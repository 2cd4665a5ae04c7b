"""The Jacobian-based saliency map attack (Papernot et al., arXiv:1511.07528)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.attacks import _resets
from jaxrobust.attacks._checks import check_ball
from jaxrobust.attacks._classes import likeliest_others
from jaxrobust.attacks._gradients import GradientFn, exact_gradient
from jaxrobust.attacks._nearest import (
    Nearest,
    candidate,
    lengths,
    nearer_of,
    none_yet,
    regions,
    surely_fools,
    to_result,
)
from jaxrobust.attacks._pairs import best_pair
from jaxrobust.attacks._rows import fold_rows, like_rows
from jaxrobust.attacks._shrinking import until_all_done
from jaxrobust.attacks._worst import ascended, class_of, select
from jaxrobust.numerics.losses import margin
from jaxrobust.types import Array, AttackResult, Ball, Example, LossFn, ScoreFn

TargetFn: TypeAlias = Callable[[Array, Array], Array]
"""`target_fn(logits [b, k], label [b]) -> classes [b, n]`: what to aim at, in this order, row by row."""

# Apart from the steps' numbers.
_PRUNING = 2**32 - 1


def every_class(logits: Array, label: Array) -> Array:
    """All classes but the label's, the likeliest first: `[b, k - 1]`."""
    return likeliest_others(logits, label, logits.shape[-1] - 1)


def runner_up(logits: Array, label: Array) -> Array:
    """The likeliest class but the label's: `[b, 1]`."""
    return every_class(logits, label)[:, :1]


@dataclass(frozen=True, kw_only=True)
class MostLikely:
    """The `num` likeliest classes but the label's: `[b, min(num, k - 1)]`.

    Args:
        num: how many classes to aim at, >= 1.

    Raises:
        ValueError: for num below 1.
    """

    num: int

    def __post_init__(self) -> None:
        _validate.at_least("num", self.num, 1)

    def __call__(self, logits: Array, label: Array) -> Array:
        """The first `num` of `every_class`."""
        return every_class(logits, label)[:, : self.num]


def target_logit(logits: Array, target: Array) -> Array:
    """Z_t `[b]`, whose gradient is the paper's alpha, feature by feature."""
    return jnp.where(_is(target, logits), logits, 0.0).sum(axis=-1)


def sum_of_others(logits: Array, target: Array) -> Array:
    """sum_{j != t} Z_j `[b]`, whose gradient is the paper's beta; masked classes (-inf) count as 0."""
    return jnp.where(_is(target, logits) | jnp.isinf(logits), 0.0, logits).sum(axis=-1)


def relative_logit(logits: Array, target: Array) -> Array:
    """Z_t less the mean logit `[b]`: it also grows where the target's logit stays and the others fall."""
    return target_logit(logits, target) - _mean(logits)


def relative_others(logits: Array, target: Array) -> Array:
    """log sum_{j != t} exp(Z_j), less the mean logit `[b]`: other classes by their share of the softmax."""
    return jax.nn.logsumexp(jnp.where(_is(target, logits), -jnp.inf, logits), axis=-1) - _mean(logits)


def _mean(logits: Array) -> Array:
    """The mean over the classes that are not masked."""
    masked = jnp.isinf(logits)
    return jnp.where(masked, 0.0, logits).sum(axis=-1) / jnp.maximum((~masked).sum(axis=-1), 1)


def _is(target: Array, logits: Array) -> Array:
    return jax.nn.one_hot(target, logits.shape[-1], dtype=bool)


class _State(NamedTuple):
    """Row by row: the image on its way to its `turn`-th target, `domain` `[b, d]`, steps taken, the best."""

    image: Array
    domain: Array
    turn: Array
    steps: Array
    nearest: Nearest


@dataclass(frozen=True, kw_only=True)
class JSMA:
    r"""Two features after the other to their extreme, chosen by the Jacobian: JSMA, arXiv:1511.07528.

    Towards the target class t it changes, by theta, the pair of features that solves Eq. 10,

    $\arg\max_{p \ne q} -\alpha \beta$ with $\alpha = \sum_{i = p, q} \partial F_t / \partial x_i > 0$ and
    $\beta = \sum_{i = p, q} \partial F_{other} / \partial x_i < 0$,

    until the model is fooled, no pair is admissible, or floor(d * upsilon / 2) pairs are changed (for
    theta < 0 both signs are reversed, Eq. 9). A feature is one channel of one pixel; one that was changed, or
    that is saturated, is not considered. The search over all pairs is exact; among equals the first wins.

    It looks for few changes, not for any within `eps`: see `AttackResult`. Where no target leads to success
    the clean image comes back with `found = False`.

    An untargeted attack aims at the classes of `target_fn` in turn and keeps the fewest changes. It ends a
    run as soon as the prediction is wrong, whatever it is, or when it cannot end with fewer than the best.

    Deviations from the paper; `papernot` is the attack without them:
    1. $F_{other}$ is the log-sum-exp of the other logits and not their sum: each other class counts by its
       share of the softmax, so that classes far below do not rule the choice. Both F are taken relative to
       the mean logit: a shift common to all logits changes no prediction, so it should change no choice, and
       a class whose logit is constant stops nothing.
    2. Derivatives are multiplied by how far the feature can move (`by_room`): a bright pixel that moves by
       0.05 has a small effect, however large its derivative.
    3. When done, changes that the best image can do without are undone (`prune`), which also mends that
       pairs overshoot an odd count.

    Args:
        neighbourhood: `L0`, perhaps within `Masked`; its radius is only the unit of `distance`, and whether
            it counts pixels or features is what "fewest" means.
        upsilon: the share of features that may change, in [0, 1]; the paper's is 0.145.
        theta: what is added to a feature, in [-1, 1] and not 0; clipped to [0, 1].
        target_fn: what an untargeted attack aims at: `every_class`, `runner_up` or `MostLikely(num=...)`.
        gain_fn: $F_t$ as `gain_fn(logits [b, k], target [b]) -> [b]`, which is to rise: `relative_logit`, or
            the paper's `target_logit`.
        others_fn: $F_{other}$, likewise, which is to fall: `relative_others`, or the paper's `sum_of_others`.
        by_room: see the second deviation above.
        prune: see the third.
        gradient_fn: `exact_gradient`, or a surrogate for a defence that hides its gradient (`bpda`, `eot`).
        chunk: features tried against all others at once, >= 1; changes time and memory, not the result.
        targeted: `Example.target` is the designated class; `target_fn` is not called.

    Raises:
        ValueError: for another ball than L0, an upsilon or theta out of range, a chunk below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust.neighbourhoods import L0
        >>> def score_fn(images, example):
        ...     total = images.reshape(-1, 6) @ jnp.array([1.0, 3.0, -2.0, 2.0, 1.0, 0.0])
        ...     return jnp.stack([0 * total, total - 4.5], axis=-1)
        >>> ex = Example(image=jnp.zeros((1, 2, 3, 1)), target=jnp.array([0]))
        >>> jsma = JSMA(neighbourhood=L0(eps=1), upsilon=1.0)
        >>> result = jsma(jax.random.split(jax.random.key(0), 1), score_fn, ex)
        >>> print(result.image.ravel(), result.found, result.distance)
        [0. 1. 0. 1. 0. 0.] [ True] [2.]
    """

    minimum_norm: ClassVar[bool] = True

    neighbourhood: Ball
    upsilon: float = 0.145
    theta: float = 1.0
    target_fn: TargetFn = every_class
    gain_fn: LossFn = relative_logit
    others_fn: LossFn = relative_others
    by_room: bool = True
    prune: bool = True
    gradient_fn: GradientFn = exact_gradient
    chunk: int = 8
    targeted: bool = False

    def __post_init__(self) -> None:
        check_ball(self.neighbourhood, (0,))
        _validate.within("upsilon", self.upsilon, 0.0, 1.0, "It is the share of features that may change.")
        _validate.within("theta", self.theta, -1.0, 1.0, "Pixels are in [0, 1].")
        if self.theta == 0:
            raise ValueError("Expected theta != 0, got theta=0. Use 1 to increase features, -1 to decrease.")
        _validate.at_least("chunk", self.chunk, 1)

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; see `jaxrobust.types.Attack`."""
        targets = self._targets(score_fn, example)
        num = targets.shape[1]

        def step(rows: tuple[Array, Example, Array], state: _State, i: Array) -> _State:
            keys, example, targets = rows
            target = jnp.take_along_axis(targets, jnp.minimum(state.turn, num - 1)[:, None], axis=1)[:, 0]
            return self._step(fold_rows(keys, i), score_fn, example, target, state)

        rows, start = (keys, example, targets), self._start(example)
        nearest = until_all_done(step, lambda state: state.turn < num, rows, start).nearest
        if self.prune:
            nearest = self._pruned(fold_rows(keys, _PRUNING), score_fn, example, nearest)
        return to_result(self.neighbourhood, example, nearest)

    def scaled(self, factor: float | Array) -> "JSMA":
        """This attack with its unit of length multiplied by `factor`; it finds the same images."""
        return replace(self, neighbourhood=self.neighbourhood.scaled(factor))

    def _targets(self, score_fn: ScoreFn, example: Example) -> Array:
        """The classes to aim at `[b, n]`."""
        label = class_of(example.target).astype(jnp.int32)
        if self.targeted:
            return label[:, None]
        return self.target_fn(score_fn(example.image, example), label)

    def _start(self, example: Example) -> _State:
        """Every row at its clean image, aiming at its first target."""
        rows = example.image.shape[0]
        zero = like_rows(jnp.zeros(rows, jnp.int32), example)
        return _State(example.image, self._domain(example), zero, zero, none_yet(example))

    def _domain(self, example: Example) -> Array:
        """Features that may change: in the region, and not saturated."""
        inside = regions(self.neighbourhood, example) > 0
        room = example.image < 1 if self.theta > 0 else example.image > 0
        return (inside & room).reshape(room.shape[0], -1)

    def _step(self, keys: Array, score_fn: ScoreFn, example: Example, target: Array, state: _State) -> _State:
        """Judges each row's image, then changes one pair more, or goes on to its next target."""
        ball, image = self.neighbourhood, state.image
        rows, d = state.domain.shape
        aimed = example._replace(target=target)
        # The two forward passes are one program's equal parts: XLA computes them once.
        (_, logits), alpha = self.gradient_fn(keys, score_fn, self.gain_fn, image, aimed)
        _, beta = self.gradient_fn(keys, score_fn, self.others_fn, image, aimed)
        nearest = nearer_of(state.nearest, candidate(ball, example, image, logits, targeted=self.targeted))
        fooled = surely_fools(logits, example.target, targeted=self.targeted)

        moved = jnp.clip(image + self.theta, 0.0, 1.0)
        room = jnp.abs(moved - image) if self.by_room else 1.0
        sign = 1.0 if self.theta > 0 else -1.0
        effects = [(sign * room * g).reshape(rows, d).astype(jnp.float32) for g in (alpha, beta)]
        pair = jax.vmap(partial(best_pair, chunk=self.chunk))(effects[0], effects[1], state.domain)
        features = jnp.arange(d)
        chosen = (features == pair.first[:, None]) | (features == pair.second[:, None])
        moved = jnp.where(chosen.reshape(image.shape), moved, image)
        # Changes only grow in number, so a row that has no fewer than its best cannot come below it.
        fewer = lengths(ball, example, moved) < nearest.length
        further = ~fooled & (pair.score > 0) & (state.steps < self._max_steps(d)) & fewer

        # Nothing but the clean image is nearer than one change.
        turn = jnp.where(nearest.length <= 1, jnp.iinfo(jnp.int32).max, state.turn + 1)
        going = _State(moved, state.domain & ~chosen, state.turn, state.steps + 1, nearest)
        anew = self._start(example)._replace(turn=turn, nearest=nearest)
        return select(further, going, anew)

    def _max_steps(self, d: int) -> int:
        """Pairs that fit in the share upsilon of d features."""
        return int(d * self.upsilon / 2)

    def _pruned(self, keys: Array, score_fn: ScoreFn, example: Example, nearest: Nearest) -> Nearest:
        """The nearest without the changes it can do without, those of least effect (to first order) first."""
        loss_fn = ascended(margin, self.targeted)
        image, found = nearest.image, jnp.isfinite(nearest.length)
        _, gradient = self.gradient_fn(keys, score_fn, loss_fn, image, example)
        size = _resets.group(self.neighbourhood, image.shape[-1])
        effects = _resets.to_units(gradient * (image - example.image), size).sum(axis=-1)
        pruned, broken = _resets.reset_all(
            score_fn,
            example,
            image,
            jax.vmap(_resets.ascending_order)(effects),
            found,
            group=size,
            targeted=self.targeted,
        )
        length = jnp.where(found, lengths(self.neighbourhood, example, pruned), jnp.inf)
        return Nearest(pruned, length, nearest.broken | broken)


def papernot(neighbourhood: Ball, **options: Any) -> JSMA:
    r"""JSMA as arXiv:1511.07528 has it: sums of logits, no regard to how far a feature can move, no pruning.

    Args:
        neighbourhood: `L0`, perhaps within `Masked`.
        **options: other fields of `JSMA`.

    Returns:
        A `JSMA`.
    """
    plain = {"gain_fn": target_logit, "others_fn": sum_of_others, "by_room": False, "prune": False}
    return JSMA(neighbourhood=neighbourhood, **{**plain, **options})
