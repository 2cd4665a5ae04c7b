"""Attacks one after the other: the greedy composite of CN111401445A."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxrobust.attacks._checks import goals
from jaxrobust.attacks._rows import fold_rows
from jaxrobust.attacks._worst import select
from jaxrobust.attacks.autoattack import Ensemble
from jaxrobust.types import RADIUS_TOLERANCE, Array, Attack, AttackResult, Example, ScoreFn, Theta


@dataclass(frozen=True, kw_only=True)
class Sequence:
    r"""Each stage attacks the image of the stage before it, with the *original* target and its own budget.

    The composites T1 (pixels, then geometry: `PGD+`) and T2 (geometry, then pixels: `GridAdv+`) of
    CN111401445A: $x_0 = x$, $x_i = \arg\max_{x' \in N_i(x_{i-1})} L_i(f(x'), y)$. What an earlier stage found
    stays frozen, so the order matters; `distance` is the largest of the stages' own distances and `theta` the
    tuple of theirs.

    $x_{i-1}$ lies in $N_i(x_{i-1})$, but a stage need not try it (random search, a random start). So where
    $x_{i-1}$ fools the model and what stage i found does not, the stage does nothing to that row: its theta
    is the identity. (A stage of one's own that has no `neighbourhood` keeps the theta it tried.) This reads
    `found` of every stage, which costs a forward pass where a stage has `keep_worst=False`.

    A minimum-norm stage looks beyond its radius. What it finds counts only within it (up to 1e-4, rounding);
    elsewhere, as where it finds nothing, the stage does nothing to that row. It does not raise the loss of a
    row that it cannot fool, so such a stage stands best last.

    Args:
        stages: the attacks, first run first; at least one. All lead away from `Example.target`, or all are
            targeted and lead to it.

    Raises:
        ValueError: for no stages, a stage that is no attack, or targeted and untargeted stages together.

    Example:
        >>> from jaxrobust.attacks import PGD, GridSearch
        >>> from jaxrobust.neighbourhoods import ColourShift, LInf, RotationTranslation
        >>> attack = Sequence(
        ...     stages=(
        ...         PGD(neighbourhood=LInf(eps=8 / 255)),
        ...         GridSearch(neighbourhood=RotationTranslation(max_angle=30.0, max_shift=3.0)),
        ...         PGD(neighbourhood=ColourShift(hue=30.0, brightness=0.1)),
        ...     )
        ... )
        >>> attack.scaled(0.5).stages[2].neighbourhood
        ColourShift(hue=15.0, saturation=0.0, brightness=0.05, contrast=0.0, grey=0.0, per_pixel=False)
    """

    stages: tuple[Attack, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.stages, tuple) or not self.stages:
            raise ValueError(f"Expected stages to be a non-empty tuple of attacks, got {self.stages!r}.")
        for stage in self.stages:
            if isinstance(stage, type) or not isinstance(stage, Attack):
                raise ValueError(f"Expected every stage to be an attack, got {stage!r}.")
        if len(goals(self)) > 1:
            raise ValueError(
                "Expected stages that are all targeted or all untargeted, got both: they share one "
                "Example.target, which means different things to them."
            )

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; see `jaxrobust.types.Attack`."""
        results: list[AttackResult] = []
        for i, stage in enumerate(self.stages):
            result = stage(fold_rows(keys, i), score_fn, example)
            fooled = results[-1].found if results else jnp.zeros_like(result.found)
            if getattr(stage, "minimum_norm", False):
                beyond = result.distance > 1 + RADIUS_TOLERANCE
                result = _withdrawn(beyond, fooled, stage, result, example)
            if results:
                result = _withdrawn(fooled & ~result.found, fooled, stage, result, example)
            results.append(result)
            example = example._replace(image=result.image)
        nonfinite = [result.nonfinite for result in results if result.nonfinite is not None]
        return AttackResult(
            image=results[-1].image,
            theta=tuple(result.theta for result in results),
            found=results[-1].found,
            distance=jnp.stack([result.distance for result in results]).max(axis=0),
            nonfinite=jnp.stack(nonfinite).any(axis=0) if nonfinite else None,
        )

    def scaled(self, factor: float | Array) -> "Sequence":
        """Every stage with its radii multiplied by `factor`."""
        return Sequence(stages=tuple(stage.scaled(factor) for stage in self.stages))


def _withdrawn(
    rows: Array, fooled: Array, stage: Attack, result: AttackResult, example: Example
) -> AttackResult:
    """The stage's result, with the identity in these `rows`; `fooled` says of which the image fools."""
    return result._replace(
        image=select(rows, example.image, result.image),
        theta=select(rows, _identity(stage, result.theta, example), result.theta),
        found=jnp.where(rows, fooled, result.found),
        distance=jnp.where(rows, 0.0, result.distance),
    )


def _identity(stage: Attack, theta: Theta, example: Example) -> Theta:
    """The theta with which a stage changes nothing; `theta` itself where the stage does not tell."""
    if isinstance(stage, Ensemble):
        return jax.tree.map(jnp.zeros_like, theta)  # its theta is the offset
    if isinstance(stage, Sequence):
        return tuple(_identity(part, own, example) for part, own in zip(stage.stages, theta))
    neighbourhood = getattr(stage, "neighbourhood", None)
    return theta if neighbourhood is None else jax.vmap(neighbourhood.init)(example)
