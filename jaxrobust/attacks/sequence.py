"""Attacks one after the other: the greedy composite of CN111401445A."""

from dataclasses import dataclass

import jax.numpy as jnp

from jaxrobust.attacks._rows import fold_rows
from jaxrobust.types import Array, Attack, AttackResult, Example, ScoreFn


@dataclass(frozen=True, kw_only=True)
class Sequence:
    r"""Each stage attacks the image of the stage before it, with the *original* target and its own budget.

    The composites T1 (pixels, then geometry: `PGD+`) and T2 (geometry, then pixels: `GridAdv+`) of
    CN111401445A: $x_0 = x$, $x_i = \arg\max_{x' \in N_i(x_{i-1})} L_i(f(x'), y)$. What an earlier stage found
    stays frozen, so the order matters; `distance` is the largest of the stages' own distances and `theta` the
    tuple of theirs.

    Args:
        stages: the attacks, first run first; at least one.

    Raises:
        ValueError: for no stages, or a stage that is no attack.
    """

    stages: tuple[Attack, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.stages, tuple) or not self.stages:
            raise ValueError(f"Expected stages to be a non-empty tuple of attacks, got {self.stages!r}.")
        for stage in self.stages:
            if isinstance(stage, type) or not isinstance(stage, Attack):
                raise ValueError(f"Expected every stage to be an attack, got {stage!r}.")

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; see `jaxrobust.types.Attack`."""
        results = []
        for i, stage in enumerate(self.stages):
            results.append(stage(fold_rows(keys, i), score_fn, example))
            example = example._replace(image=results[-1].image)
        return AttackResult(
            image=results[-1].image,
            theta=tuple(result.theta for result in results),
            found=results[-1].found,
            distance=jnp.stack([result.distance for result in results]).max(axis=0),
        )

    def scaled(self, factor: float | Array) -> "Sequence":
        """Every stage with its radii multiplied by `factor`."""
        return Sequence(stages=tuple(stage.scaled(factor) for stage in self.stages))
