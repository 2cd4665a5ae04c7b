"""The worst of k random perturbations (RandAdv and worst-of-k of Engstrom et al., arXiv:1712.02779)."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax

from jaxrobust import _validate
from jaxrobust.attacks._checks import check_neighbourhood
from jaxrobust.attacks._lanes import rows_of
from jaxrobust.attacks._rows import fold_rows
from jaxrobust.attacks._search import search, search_first
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
        stop_at_success: a row ends with its first misclassified draw instead of its worst, and leaves its
            place in the batch to the others: the same robust accuracy, in a fraction of the passes where the
            model is often fooled.
        targeted: `Example.target` is the designated class, to which the model is to be led.

    Raises:
        ValueError: for `num` or `chunk` below 1.
    """

    neighbourhood: Neighbourhood
    num: int = 10
    loss_fn: LossFn = cross_entropy
    chunk: int = 1
    targeted: bool = field(default=False, metadata=LATER)
    stop_at_success: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        check_neighbourhood(self.neighbourhood)
        _validate.at_least("num", self.num, 1)
        _validate.at_least("chunk", self.chunk, 1)

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; see `jaxrobust.types.Attack`."""

        options: dict[str, Any] = {
            "neighbourhood": self.neighbourhood,
            "loss_fn": self.loss_fn,
            "num": self.num,
            "chunk": self.chunk,
            "targeted": self.targeted,
        }

        def draw(rows_keys: Array, examples: Example, index: Array) -> Theta:
            return jax.vmap(self.neighbourhood.sample)(fold_rows(rows_keys, index), examples)

        if self.stop_at_success:
            worst = search_first(
                lambda rows, indices: draw(keys[rows], rows_of(example, rows), indices),
                score_fn,
                example,
                **options,
            )
        else:
            propose_fn = jax.vmap(lambda index: draw(keys, example, index), out_axes=1)
            worst = search(propose_fn, score_fn, example, shared=False, **options)
        return to_result(self.neighbourhood, example, worst)

    def scaled(self, factor: float | Array) -> "RandomSearch":
        """This attack with its radii multiplied by `factor`."""
        return replace(self, neighbourhood=self.neighbourhood.scaled(factor))
