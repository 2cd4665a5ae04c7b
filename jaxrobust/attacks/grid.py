"""Exhaustive search on a grid of poses (GridAdv of Engstrom et al., arXiv:1712.02779)."""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import jax

from jaxrobust import _validate
from jaxrobust.attacks._checks import check_neighbourhood
from jaxrobust.attacks._search import search
from jaxrobust.attacks._worst import to_result
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.types import Array, AttackResult, Example, LossFn, Neighbourhood, ScoreFn, Theta


@runtime_checkable
class Gridded(Neighbourhood, Protocol):
    """A neighbourhood of so few dimensions that a grid can cover it."""

    def grid(self, granularity: tuple[int, int, int]) -> Theta:
        """Thetas with a leading axis `[n]`."""
        ...

    def scaled(self, factor: float | Array) -> "Gridded":
        """This neighbourhood with every radius multiplied by `factor`."""
        ...


@dataclass(frozen=True, kw_only=True)
class GridSearch:
    r"""The worst point of a regular grid G of the neighbourhood (GridAdv).

    $\theta^* = \arg\max_{\theta \in G} L(f(T(x; \theta)), y)$.

    A misclassified pose beats any correct one; among equals the highest loss wins, then the first in the
    grid's order. The defaults are the 5 x 5 x 31 = 775 poses of arXiv:1712.02779, the identity among them. A
    limit of 0 in the neighbourhood leaves its axis out, which gives the rotation-only and translation-only
    forms.

    Args:
        neighbourhood: one with a grid, e.g. `RotationTranslation`.
        granularity: numbers of values along (down, right, angle), each >= 1.
        loss_fn: what is compared; larger is worse for the model.
        chunk: poses scored at once, >= 1; changes time and memory, not the result.
        targeted: `Example.target` is the designated class, to which the model is to be led.

    Raises:
        ValueError: for a neighbourhood without a grid, a granularity or a chunk below 1.
    """

    neighbourhood: Gridded
    granularity: tuple[int, int, int] = (5, 5, 31)
    loss_fn: LossFn = cross_entropy
    chunk: int = 5
    targeted: bool = False

    def __post_init__(self) -> None:
        check_neighbourhood(self.neighbourhood)
        if not isinstance(self.neighbourhood, Gridded):
            raise ValueError(
                f"Expected a neighbourhood with a grid, got {self.neighbourhood!r}. Use RotationTranslation, "
                "or RandomSearch for neighbourhoods of many dimensions."
            )
        if not isinstance(self.granularity, tuple) or len(self.granularity) != 3:
            raise ValueError(
                f"Expected granularity to be a tuple (down, right, angle), got {self.granularity!r}."
            )
        for number in self.granularity:
            _validate.at_least("granularity", number, 1, "1 leaves that motion out.")
        _validate.at_least("chunk", self.chunk, 1)

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; nothing is random, so `keys` are not read."""
        del keys
        thetas = self.neighbourhood.grid(self.granularity)

        def propose(indices: Array) -> Theta:
            return jax.tree.map(lambda leaf: leaf[indices], thetas)

        worst = search(
            propose,
            score_fn,
            example,
            neighbourhood=self.neighbourhood,
            loss_fn=self.loss_fn,
            num=jax.tree.leaves(thetas)[0].shape[0],
            chunk=self.chunk,
            shared=True,
            targeted=self.targeted,
        )
        return to_result(self.neighbourhood, example, worst)

    def scaled(self, factor: float | Array) -> "GridSearch":
        """This attack with its limits multiplied by `factor`."""
        return replace(self, neighbourhood=self.neighbourhood.scaled(factor))
