"""Auto-PGD: gradient ascent with momentum that chooses its own step (Croce, Hein, arXiv:2003.01690)."""

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _validate
from jaxrobust.attacks._checks import check_neighbourhood
from jaxrobust.attacks._classes import likeliest_others
from jaxrobust.attacks._gradients import GradientFn, exact_gradient, led
from jaxrobust.attacks._lanes import rows_of, until_found
from jaxrobust.attacks._rows import fold_rows, like_rows
from jaxrobust.attacks._starts import StartFn, uniform_start
from jaxrobust.attacks._worst import Worst, ascended, class_of, judge, nothing, select, to_result, worse_of
from jaxrobust.numerics.losses import cross_entropy, targeted_dlr
from jaxrobust.types import Array, AttackResult, Example, LossFn, Neighbourhood, ScoreFn, Theta

_FIRST_STEP = 2.0  # eta_0, in radii
_MOMENTUM = 0.75  # alpha: the share of the new direction


class _Best(NamedTuple):
    """Row by row the point of the highest loss so far, with its gradient: where a halved step restarts."""

    theta: Theta
    gradient: Theta
    loss: Array


class _Climb(NamedTuple):
    """One climb's state, row by row.

    `theta`, `previous`: x_k and x_{k-1}; `loss`: f(x_{k-1}); `step`: eta, in radii; `increases`: how often
    the loss rose since the last checkpoint; `checked`: the best loss at that checkpoint; `halved`: whether
    eta was halved there.
    """

    theta: Theta
    previous: Theta
    loss: Array
    best: _Best
    step: Array
    increases: Array
    checked: Array
    halved: Array


@dataclass(frozen=True, kw_only=True)
class APGD:
    r"""Auto-PGD, arXiv:2003.01690, Alg. 1: projected ascent with momentum and a step size that halves itself.

    $z = \Pi(\theta_k + \eta\,d(\nabla L(\theta_k)))$, $\theta_{k+1} = \Pi(\theta_k + \alpha(z - \theta_k) +
    (1 - \alpha)(\theta_k - \theta_{k-1}))$, with d the neighbourhood's steepest direction, $\alpha = 0.75$ (1
    at the first step) and $\eta = 2$ radii at first. At the checkpoints $w_j = \lceil p_j N \rceil$, $p_1 =
    0.22$, $p_{j+1} = p_j + \max(p_j - p_{j-1} - 0.03, 0.06)$, eta is halved and the row goes back to its best
    point, if the loss rose in at most a share rho of the steps since the last checkpoint, or if neither eta
    nor the best loss has changed there. Each row has its own step size.

    With `num_targets` > 0 it is APGD-T: the targeted loss of eq. (7) is ascended towards each of the classes
    that are likeliest for the clean image, the true one excepted, one climb each. Restarts and targets look
    only at the rows that are not fooled yet, and end when there are none; climb r draws from `fold_in(key,
    r)`, so that more restarts never help the model. What is returned is the worst of all points scored:
    misclassified if there is one, else that of the highest `loss_fn`.

    Deviations from the paper: a checkpoint is looked at as soon as x_{w_j} is scored, as in the authors' code
    (Alg. 1 takes one step more, which a restart throws away); equality counts as too few increases, as
    there. The random start is uniform in the neighbourhood, where the authors' code starts on the border: in
    an image nearly all of the l_2 ball's volume is there. The l_1 ball is climbed in its steepest direction
    like any other neighbourhood, without the sparsity schedule of arXiv:2103.01208.

    Args:
        neighbourhood: the set of perturbations; the paper has `LInf` and `L2`.
        steps: N, gradients per climb, >= 1; there is one forward pass more.
        restarts: climbs per target, >= 1.
        rho: the share of increases that keeps the step size, in [0, 1].
        loss_fn: what is ascended and, among points of equal verdict, compared; `cross_entropy`, `dlr` and
            `margin` are usual. APGD-T ascends `targeted_dlr` and compares by this one.
        num_targets: classes that APGD-T goes through, at most the number of classes less 1 (a larger number
            is taken as that); 0 is the untargeted form.
        start_fn: where a climb begins.
        gradient_fn: `exact_gradient`, or a surrogate for a defence that hides its gradient (`bpda`, `eot`).
        targeted: `Example.target` is the designated class, to which the model is to be led; APGD-T then leads
            to it from each of the other classes in turn.

    Raises:
        ValueError: for steps or restarts below 1, rho outside [0, 1] or a negative `num_targets`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust.neighbourhoods import LInf
        >>> def score_fn(images, example):
        ...     total = images.sum(axis=(1, 2, 3))
        ...     return jnp.stack([0 * total, total - 2.5], axis=-1)
        >>> ex = Example(image=jnp.full((1, 2, 2, 1), 0.5), target=jnp.array([0]))
        >>> apgd = APGD(neighbourhood=LInf(eps=0.25), steps=10)
        >>> result = apgd(jax.random.split(jax.random.key(0), 1), score_fn, ex)
        >>> print(result.image.ravel(), result.found, result.distance)
        [0.75 0.75 0.75 0.75] [ True] [1.]
    """

    neighbourhood: Neighbourhood
    steps: int = 100
    restarts: int = 1
    rho: float = 0.75
    loss_fn: LossFn = cross_entropy
    num_targets: int = 0
    start_fn: StartFn = uniform_start
    gradient_fn: GradientFn = exact_gradient
    targeted: bool = False

    def __post_init__(self) -> None:
        check_neighbourhood(self.neighbourhood)
        _validate.at_least("steps", self.steps, 1)
        _validate.at_least("restarts", self.restarts, 1)
        _validate.within("rho", self.rho, 0.0, 1.0, "It is a share of the steps.")
        _validate.at_least("num_targets", self.num_targets, 0)

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; see `jaxrobust.types.Attack`."""
        others = None
        if self.num_targets:
            others = likeliest_others(score_fn(example.image, example), example.target, self.num_targets)
        num = self.restarts * (1 if others is None else others.shape[1])
        if num == 1:
            other = None if others is None else others[:, 0]
            worst = self._climb(fold_rows(keys, 0), score_fn, other, example)
            return to_result(self.neighbourhood, example, worst)

        def climb(rows: Array, climbs: Array) -> Worst:
            other = None if others is None else others[rows, climbs % others.shape[1]]
            return self._climb(fold_rows(keys[rows], climbs), score_fn, other, rows_of(example, rows))

        blank = nothing(self.neighbourhood, example)
        worst = until_found(climb, blank, example, num=num, lanes=len(keys))
        return to_result(self.neighbourhood, example, worst)

    def scaled(self, factor: float | Array) -> "APGD":
        """This attack with its radii multiplied by `factor`; steps are in radii and shrink along."""
        return replace(self, neighbourhood=self.neighbourhood.scaled(factor))

    def _towards(self, logits: Array, target: Any) -> Array:
        """The targeted DLR of rows that are led to a class each."""
        own, other = class_of(target.target), target.by
        return targeted_dlr(logits, *((other, own) if self.targeted else (own, other)))

    def _climb(self, keys: Array, score_fn: ScoreFn, other: Array | None, example: Example) -> Worst:
        """Alg. 1 from one start: the worst of the points x_0 ... x_N.

        It ascends `loss_fn`, or with an `other` class for each row the targeted DLR towards it.
        """
        ascent_fn, aimed = ascended(self.loss_fn, self.targeted), example
        if other is not None:
            ascent_fn = self._towards
            score_fn, aimed = led(score_fn, example, other)
        due = jnp.asarray(_windows(self.steps))
        start_keys, step_keys = fold_rows(keys, 0), fold_rows(keys, 1)
        compared_fn = ascended(self.loss_fn, self.targeted)

        def evaluate(k: int | Array, theta: Theta, worst: Worst) -> tuple[Array, Theta, Worst]:
            images, pullback = jax.vjp(lambda t: jax.vmap(self.neighbourhood.apply)(example, t), theta)
            (losses, logits), gradients = self.gradient_fn(
                fold_rows(step_keys, k), score_fn, ascent_fn, images, aimed
            )
            # A NaN or infinite entry moves nothing, lest the row be lost for all later steps.
            gradient = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), g, 0.0), pullback(gradients)[0])
            losses = losses.astype(jnp.float32)
            compared = compared_fn(logits, example.target) if self.num_targets else losses
            found = judge(theta, logits, compared, example.target, targeted=self.targeted)
            return jnp.where(jnp.isnan(losses), -jnp.inf, losses), gradient, worse_of(worst, found)

        def body(k: int, carry: tuple[_Climb, Worst]) -> tuple[_Climb, Worst]:
            climb, worst = carry
            loss, gradient, worst = evaluate(k, climb.theta, worst)
            climb, gradient = _adapt(climb, loss, gradient, k, due[k], self.rho)
            move = jax.vmap(self._move, (0, 0, 0, 0, 0, None))
            theta = move(
                example, climb.theta, climb.previous, gradient, climb.step, jnp.where(k == 0, 1.0, _MOMENTUM)
            )
            return climb._replace(theta=theta, previous=climb.theta), worst

        theta = jax.vmap(lambda key, ex: self.start_fn(key, self.neighbourhood, ex))(start_keys, example)
        blank = nothing(self.neighbourhood, example)
        climb, worst = jax.lax.fori_loop(0, self.steps, body, (_start(theta, example), blank))
        # Only the scores of the last point are read, so its backward pass is never compiled.
        return evaluate(self.steps, climb.theta, worst)[2]

    def _move(
        self, ex: Example, theta: Theta, previous: Theta, gradient: Theta, step: Array, alpha: Array
    ) -> Theta:
        """The next point of one row."""
        direction = self.neighbourhood.ascent(gradient)
        ahead = self.neighbourhood.project(ex, jax.tree.map(lambda t, d: t + step * d, theta, direction))
        mixed = jax.tree.map(
            lambda t, z, p: t + alpha * (z - t) + (1 - alpha) * (t - p), theta, ahead, previous
        )
        return self.neighbourhood.project(ex, mixed)


def _start(theta: Theta, example: Example) -> _Climb:
    """The state before x_0 is scored."""
    rows = example.image.shape[0]
    none = jnp.full(rows, -jnp.inf, jnp.float32)
    climb = _Climb(
        theta=theta,
        previous=theta,
        loss=-none,  # so that scoring x_0 is no increase
        best=_Best(theta, jax.tree.map(jnp.zeros_like, theta), none),
        step=jnp.full(rows, _FIRST_STEP, jnp.float32),
        increases=jnp.zeros(rows, jnp.int32),
        checked=none,
        halved=jnp.zeros(rows, bool),
    )
    return like_rows(climb, example)


def _adapt(
    climb: _Climb, loss: Array, gradient: Theta, k: int | Array, window: Array, rho: float
) -> tuple[_Climb, Theta]:
    """The state once x_k is scored, and the gradient to follow; `window` > 0 makes k a checkpoint."""
    best = select(loss > climb.best.loss, _Best(climb.theta, gradient, loss), climb.best)
    increases = climb.increases + (loss > climb.loss)
    check = window > 0
    slow = increases <= rho * window
    stuck = ~climb.halved & (best.loss <= climb.checked)
    halve = check & (slow | stuck)
    here = select(halve, best, _Best(climb.theta, gradient, loss))
    climb = climb._replace(
        theta=here.theta,
        loss=here.loss,
        best=best,
        step=jnp.where(halve, climb.step / 2, climb.step),
        increases=jnp.where(check, 0, increases),
        checked=jnp.where(check | (k == 0), best.loss, climb.checked),
        halved=jnp.where(check, halve, climb.halved),
    )
    return climb, here.gradient


def checkpoints(steps: int) -> list[int]:
    """The w_j of N = `steps`, arXiv:2003.01690, section 3.1, those before the last step.

    >>> checkpoints(100)
    [22, 41, 57, 70, 80, 87, 93, 99]
    """
    # In hundredths, as ceil(0.57 * 100) is 58 in floating point for some order of the sums.
    before, share, found = 0, 22, []
    while share < 100:
        found.append(math.ceil(share * steps / 100))
        before, share = share, share + max(share - before - 3, 6)
    return sorted({w for w in found if w < steps})


def _windows(steps: int) -> np.ndarray:
    """For every k < steps the number of steps since the last checkpoint, if k is one, else 0."""
    windows = np.zeros(steps, np.int32)
    marks = checkpoints(steps)
    windows[marks] = np.diff([0, *marks])
    return windows
