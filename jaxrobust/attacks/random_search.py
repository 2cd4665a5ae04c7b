"""The worst of k random perturbations (RandAdv and worst-of-k of Engstrom et al., arXiv:1712.02779)."""

from dataclasses import dataclass, field, replace

import jax

from jaxrobust import _validate
from jaxrobust.attacks._checks import check_neighbourhood
from jaxrobust.attacks._rows import fold_rows
from jaxrobust.attacks._search import search
from jaxrobust.attacks._worst import to_result
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.types import LATER, Array, AttackResult, Example, LossFn, Neighbourhood, ScoreFn, Theta


@dataclass(frozen=True, kw_only=True)
class RandomSearch:
    r"""The worst of k independent draws from the neighbourhood (worst-of-k, RandAdv).

    $\theta^* = \arg\max_{i \le k} L(f(T(x; \theta_i)), y)$.

    A misclassified draw beats any correct one. The clean image is not among the draws, as in
    arXiv:1712.02779, so accuracy under it can exceed clean accuracy. Draw i comes from `fold_in(key, i)`:
    more draws never help the model.

    Args:
        neighbourhood: what is drawn from.
        num: k >= 1.
        loss_fn: what is compared; larger is worse for the model.
        chunk: draws scored at once, >= 1; changes time and memory, not the result.
        targeted: `Example.target` is the designated class, to which the model is to be led.

    Raises:
        ValueError: for `num` or `chunk` below 1.
    """

    neighbourhood: Neighbourhood
    num: int = 10
    loss_fn: LossFn = cross_entropy
    chunk: int = 1
    targeted: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        check_neighbourhood(self.neighbourhood)
        _validate.at_least("num", self.num, 1)
        _validate.at_least("chunk", self.chunk, 1)

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; see `jaxrobust.types.Attack`."""

        def propose(indices: Array) -> Theta:
            def draw(index: Array) -> Theta:
                return jax.vmap(self.neighbourhood.sample)(fold_rows(keys, index), example)

            return jax.vmap(draw, out_axes=1)(indices)

        worst = search(
            propose,
            score_fn,
            example,
            neighbourhood=self.neighbourhood,
            loss_fn=self.loss_fn,
            num=self.num,
            chunk=self.chunk,
            shared=False,
            targeted=self.targeted,
        )
        return to_result(self.neighbourhood, example, worst)

    def scaled(self, factor: float | Array) -> "RandomSearch":
        """This attack with its radii multiplied by `factor`."""
        return replace(self, neighbourhood=self.neighbourhood.scaled(factor))
