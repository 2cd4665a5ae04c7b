"""The momentum iterative fast gradient sign method (Dong et al., arXiv:1710.06081)."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.attacks._ascent import climb
from jaxrobust.attacks._checks import check_neighbourhood
from jaxrobust.attacks._gradients import GradientFn, exact_gradient
from jaxrobust.attacks._starts import StartFn, identity_start
from jaxrobust.attacks._worst import nothing, to_result
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.types import LATER, Array, AttackResult, Example, LossFn, Neighbourhood, ScoreFn, Theta


@dataclass(frozen=True, kw_only=True)
class MIFGSM:
    r"""Gradient ascent along an accumulated direction, arXiv:1710.06081, eqs. (6) and (7).

    $g_{t+1} = \mu\,g_t + \nabla_x L / \|\nabla_x L\|_1$, $x_{t+1} = \mathrm{clip}(x_t +
    \alpha\,\mathrm{sign}(g_{t+1}))$, from the clean image, with $\alpha = \epsilon / T$. The norm is taken
    per example; a zero gradient adds nothing.

    Deviations from the paper: it returns the worst iterate, the clean image included (`keep_worst=False`: the
    last, as in the paper); in another neighbourhood the gradient is that of its theta, and the direction its
    steepest. In `L2` that is $\alpha\,g_{t+1} / \|g_{t+1}\|_2$, the paper's own l_2 form.

    Args:
        neighbourhood: the set of perturbations; its radius is the unit of `step_size`.
        steps: T >= 1.
        decay: mu >= 0; 0 is the iterative FGSM.
        step_size: alpha in radii, > 0; None is 1 / steps.
        loss_fn: what is ascended and compared; larger is worse for the model.
        gradient_fn: `exact_gradient`, or a surrogate (`bpda`, `eot`).
        start_fn: `identity_start` as in the paper, `uniform_start` or `near_start(sigma)`.
        keep_worst: False returns the last iterate.
        targeted: `Example.target` is the designated class, to which the model is to be led.

    Raises:
        ValueError: for steps below 1, a negative decay, a step size not above 0.
    """

    neighbourhood: Neighbourhood
    steps: int = 10
    decay: float = 1.0
    step_size: float | None = None
    loss_fn: LossFn = cross_entropy
    gradient_fn: GradientFn = exact_gradient
    start_fn: StartFn = identity_start
    keep_worst: bool = True
    targeted: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        check_neighbourhood(self.neighbourhood)
        _validate.at_least("steps", self.steps, 1)
        _validate.non_negative("decay", self.decay)
        if self.step_size is not None:
            _validate.positive("step_size", self.step_size, "It is in radii; None is 1 / steps.")

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; see `jaxrobust.types.Attack`."""

        def accumulate(velocity: Theta, gradient: Theta) -> Theta:
            norm = sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(gradient))
            scale = jnp.where(norm > 0, norm, 1.0)
            return jax.tree.map(lambda v, g: self.decay * v + g / scale, velocity, gradient)

        worst, last = climb(
            keys,
            score_fn,
            example,
            nothing(self.neighbourhood, example),
            neighbourhood=self.neighbourhood,
            loss_fn=self.loss_fn,
            gradient_fn=self.gradient_fn,
            start_fn=self.start_fn,
            accumulate_fn=accumulate,
            steps=self.steps,
            step_size=1 / self.steps if self.step_size is None else self.step_size,
            keep_worst=self.keep_worst,
            targeted=self.targeted,
        )
        return to_result(self.neighbourhood, example, worst if self.keep_worst else last)

    def scaled(self, factor: float | Array) -> "MIFGSM":
        """This attack with its radii multiplied by `factor`; steps are in radii and shrink along."""
        return replace(self, neighbourhood=self.neighbourhood.scaled(factor))
