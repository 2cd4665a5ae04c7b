"""Projected gradient ascent on the loss (Madry et al., arXiv:1706.06083), and FGSM as its one-step case."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax

from jaxrobust import _validate
from jaxrobust.attacks._ascent import climb
from jaxrobust.attacks._checks import check_neighbourhood
from jaxrobust.attacks._gradients import GradientFn, exact_gradient
from jaxrobust.attacks._lanes import rows_of, until_found
from jaxrobust.attacks._rows import fold_rows
from jaxrobust.attacks._starts import StartFn, identity_start, uniform_start
from jaxrobust.attacks._worst import Worst, nothing, to_result, worse_of
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.types import LATER, Array, AttackResult, Example, LossFn, Neighbourhood, ScoreFn


@dataclass(frozen=True, kw_only=True)
class PGD:
    r"""Projected gradient ascent from a random start, arXiv:1706.06083.

    $\theta_{t+1} = \Pi_N\big(\theta_t + \alpha\,d(\nabla_\theta L(f(T(x; \theta_t)), y))\big)$, with d the
    neighbourhood's steepest direction: the sign for l_inf, the unit gradient for l_2, signs of angle and
    shift for rotations.

    By default it returns the worst of all iterates and restarts, per example, the starts and the last iterate
    included, where Madry et al. return the last iterate: the worst is never weaker, and costs one forward
    pass more. Restart r draws from `fold_in(key, r)`, so the first r of R restarts are those of a run with r,
    and more restarts never help the model.

    Args:
        neighbourhood: the set of perturbations; its radius is the unit of `step_size`.
        steps: gradient steps, >= 1.
        step_size: alpha in radii, > 0: with eps = 0.3, 1/30 is 0.01 in pixels.
        restarts: independent starts, >= 1; they run one after the other in one compiled loop.
        stop_at_success: a row ends with the first restart that fools the model instead of the worst of all,
            and leaves its place in the batch to the others' restarts: the same robust accuracy, sooner.
        loss_fn: what is ascended and, among points of equal verdict, compared; larger is worse for the model.
        gradient_fn: `exact_gradient`, or a surrogate for a defence that hides its gradient (`bpda`, `eot`).
        start_fn: `uniform_start`, `identity_start` or `near_start(sigma)`.
        keep_worst: False returns the last iterate, as training by Madry et al. does. (With restarts, the
            worst of the last iterates.) `found` then costs its own forward pass, which is not compiled where
            nobody reads it.
        targeted: `Example.target` is the designated class, to which the model is to be led.

    Raises:
        ValueError: for steps or restarts below 1, a step size not above 0.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust.neighbourhoods import LInf
        >>> def score_fn(images, example):
        ...     total = images.sum(axis=(1, 2, 3))
        ...     return jnp.stack([0 * total, total - 2.5], axis=-1)
        >>> ex = Example(image=jnp.full((1, 2, 2, 1), 0.5), target=jnp.array([0]))
        >>> pgd = PGD(neighbourhood=LInf(eps=0.25), steps=10, step_size=0.25)
        >>> result = pgd(jax.random.split(jax.random.key(0), 1), score_fn, ex)
        >>> print(result.image.ravel(), result.found, result.distance)
        [0.75 0.75 0.75 0.75] [ True] [1.]
    """

    neighbourhood: Neighbourhood
    steps: int = 40
    step_size: float = 1 / 30
    restarts: int = 1
    loss_fn: LossFn = cross_entropy
    gradient_fn: GradientFn = exact_gradient
    start_fn: StartFn = uniform_start
    keep_worst: bool = True
    targeted: bool = field(default=False, metadata=LATER)
    stop_at_success: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        check_neighbourhood(self.neighbourhood)
        _validate.at_least("steps", self.steps, 1)
        _validate.positive("step_size", self.step_size, "It is in radii: 1 is the whole radius.")
        _validate.at_least("restarts", self.restarts, 1)

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; see `jaxrobust.types.Attack`."""

        def run(keys: Array, example: Example, worst: Worst) -> tuple[Worst, Worst]:
            return climb(
                keys,
                score_fn,
                example,
                worst,
                neighbourhood=self.neighbourhood,
                loss_fn=self.loss_fn,
                gradient_fn=self.gradient_fn,
                start_fn=self.start_fn,
                accumulate_fn=lambda velocity, gradient: gradient,
                steps=self.steps,
                step_size=self.step_size,
                keep_worst=self.keep_worst,
                targeted=self.targeted,
            )

        def body(restart: int, worst: Worst) -> Worst:
            worst, last = run(fold_rows(keys, restart), example, worst)
            return worst if self.keep_worst else worse_of(worst, last)

        def run_lanes(rows: Array, restarts: Array) -> Worst:
            examples = rows_of(example, rows)
            blank = nothing(self.neighbourhood, examples)
            worst, last = run(fold_rows(keys[rows], restarts), examples, blank)
            return worst if self.keep_worst else last

        worst = nothing(self.neighbourhood, example)
        if self.restarts == 1:
            worst, last = run(fold_rows(keys, 0), example, worst)
            worst = worst if self.keep_worst else last
        elif self.stop_at_success:
            worst = until_found(run_lanes, worst, example, num=self.restarts, lanes=len(keys))
        else:
            worst = jax.lax.fori_loop(0, self.restarts, body, worst)
        return to_result(self.neighbourhood, example, worst)

    def scaled(self, factor: float | Array) -> "PGD":
        """This attack with its radii multiplied by `factor`; steps are in radii and shrink along."""
        return replace(self, neighbourhood=self.neighbourhood.scaled(factor))


def fgsm(neighbourhood: Neighbourhood, **options: Any) -> PGD:
    r"""FGSM, $x' = \mathrm{clip}(x + \epsilon\,\mathrm{sign}(\nabla_x L))$ (arXiv:1412.6572).

    One step of one radius from the clean image; it returns that point, also where the loss is higher at the
    clean one.

    Args:
        neighbourhood: `LInf` for the sign method; with `L2` it is the fast gradient method.
        **options: other fields of `PGD`.

    Returns:
        A `PGD`.
    """
    defaults = {"steps": 1, "step_size": 1.0, "start_fn": identity_start, "keep_worst": False}
    return PGD(neighbourhood=neighbourhood, **{**defaults, **options})
