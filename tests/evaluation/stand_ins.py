"""Attacks whose answers are known."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxrobust.types import AttackResult

OVERSHOOT = 0.01


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """The nearest adversarial image in l2 of a linear model of two classes with logits (-z, z), `OVERSHOOT`
    in z beyond the boundary; a stand-in minimum-norm attack.

    It fails on images whose first pixel is below `fails_below`.
    """

    minimum_norm: ClassVar[bool] = True

    neighbourhood: Any
    fails_below: float = 0.0
    targeted: bool = False

    def __call__(self, keys, score_fn, example):
        def margin(x):
            logits = score_fn(x, example)
            own = jnp.take_along_axis(logits, example.target[:, None], axis=1)[:, 0]
            return 2 * own - logits.sum(axis=-1)

        gradient = jax.grad(lambda x: margin(x).sum())(example.image)
        square = (gradient**2).sum(axis=(1, 2, 3))
        # Beyond the boundary by more than rounding.
        step = (margin(example.image) + 2 * OVERSHOOT) / square
        image = example.image - step[:, None, None, None] * gradient
        found = example.image[:, 0, 0, 0] >= self.fails_below
        image = jnp.where(found[:, None, None, None], image, example.image)
        distance = jax.vmap(self.neighbourhood.distance)(example, image - example.image)
        return AttackResult(image, image - example.image, found, distance)

    def scaled(self, factor):
        return replace(self, neighbourhood=self.neighbourhood.scaled(factor))
