"""Exhaustive search on a grid of poses or colours (GridAdv of Engstrom et al., arXiv:1712.02779)."""

from dataclasses import dataclass, field, replace
from typing import Any

import jax

from jaxrobust import _validate
from jaxrobust.attacks._checks import check_neighbourhood
from jaxrobust.attacks._grids import Gridded, check_granularity, has_grid
from jaxrobust.attacks._lanes import rows_of
from jaxrobust.attacks._search import search, search_first
from jaxrobust.attacks._worst import to_result
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.types import LATER, Array, AttackResult, Example, LossFn, ScoreFn


@dataclass(frozen=True, kw_only=True)
class GridSearch:
    r"""The worst point of a regular grid G of the neighbourhood (GridAdv).

    $\theta^* = \arg\max_{\theta \in G} L(f(T(x; \theta)), y)$.

    A misclassified point beats any correct one; among equals the highest loss wins, then the first in the
    grid's order. The default granularity is for poses: the 5 x 5 x 31 = 775 of arXiv:1712.02779, the identity
    among them. A limit of 0 in the neighbourhood leaves its axis out, which gives the rotation-only and
    translation-only forms.

    Args:
        neighbourhood: one with a grid: `RotationTranslation`, or `ColourShift` of the whole image.
        granularity: numbers of values along the neighbourhood's `grid_axes`, each >= 1: (down, right, angle)
            of poses, (hue, saturation, brightness, contrast, grey) of colours.
        loss_fn: what is compared; larger is worse for the model.
        chunk: points scored at once, >= 1; changes time and memory, not the result.
        stop_at_success: a row ends with its first misclassified point in the grid's order instead of its
            worst, and leaves its place in the batch to the others: the same robust accuracy, in a fraction of
            the passes where the model is often fooled.
        targeted: `Example.target` is the designated class, to which the model is to be led.

    Raises:
        ValueError: for a neighbourhood without a grid, a granularity that does not fit it, a chunk below 1.

    Example:
        >>> from jaxrobust.neighbourhoods import ColourShift
        >>> shifts = ColourShift(brightness=0.2, grey=1.0)
        >>> greys = GridSearch(neighbourhood=shifts, granularity=(1, 1, 5, 1, 3))
        >>> shifts.grid_axes, shifts.grid(greys.granularity).grey.shape
        (('hue', 'saturation', 'brightness', 'contrast', 'grey'), (15,))
    """

    neighbourhood: Gridded
    granularity: tuple[int, ...] = (5, 5, 31)
    loss_fn: LossFn = cross_entropy
    chunk: int = 5
    targeted: bool = field(default=False, metadata=LATER)
    stop_at_success: bool = field(default=False, metadata=LATER)

    def __post_init__(self) -> None:
        check_neighbourhood(self.neighbourhood)
        if not has_grid(self.neighbourhood):
            raise ValueError(
                f"Expected a neighbourhood with a grid, got {self.neighbourhood!r}. Use RotationTranslation, "
                "ColourShift of the whole image, or RandomSearch for neighbourhoods of many dimensions."
            )
        check_granularity(self.granularity, self.neighbourhood.grid_axes)
        _validate.at_least("chunk", self.chunk, 1)

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; nothing is random, so `keys` are not read."""
        del keys
        thetas = self.neighbourhood.grid(self.granularity)
        options: dict[str, Any] = {
            "neighbourhood": self.neighbourhood,
            "loss_fn": self.loss_fn,
            "num": jax.tree.leaves(thetas)[0].shape[0],
            "chunk": self.chunk,
            "targeted": self.targeted,
        }
        if self.stop_at_success:
            worst = search_first(lambda rows, points: rows_of(thetas, points), score_fn, example, **options)
        else:
            worst = search(lambda points: rows_of(thetas, points), score_fn, example, shared=True, **options)
        return to_result(self.neighbourhood, example, worst)

    def scaled(self, factor: float | Array) -> "GridSearch":
        """This attack with its limits multiplied by `factor`."""
        return replace(self, neighbourhood=self.neighbourhood.scaled(factor))
