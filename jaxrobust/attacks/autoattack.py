"""Several attacks on each image, the worst of them; AutoAttack (arXiv:2003.01690) is one such."""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.attacks._checks import check_ball, goals
from jaxrobust.attacks._rows import fold_rows, like_rows
from jaxrobust.attacks._worst import Worst, ascended, judge, select, worse_of
from jaxrobust.attacks.apgd import APGD
from jaxrobust.attacks.fab import FAB
from jaxrobust.attacks.square import Square
from jaxrobust.numerics.losses import cross_entropy, margin
from jaxrobust.types import RADIUS_TOLERANCE, Array, Attack, AttackResult, Ball, Example, LossFn, ScoreFn


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    r"""Each member attacks the original image, until one fools the model: arXiv:2003.01690, section 5.

    A row is *over* once a member has found a point that fools the model at a distance of at most 1 (up to
    1e-4, rounding): it keeps that member's point, and later members change nothing there. So a minimum-norm
    member counts only within its radius. A row that nobody fools keeps the worst of the members' points by
    `loss_fn` (of a minimum-norm member that failed: the clean image), the first of equals.

    Member i draws from `fold_rows(keys, i)` and sees nothing of the others. Hence an evaluation may run
    `attacks[0]`, `attacks[1]`, ... one after the other over the rows not over yet, with these keys, and finds
    the same. A batch whose rows are all over skips the remaining members.

    `theta` is the offset `image - x`, whatever the members' own parameters are; `distance` is the member's
    own, in its radii. A point at which the model answered NaN is remembered where a member met it that was
    still needed.

    Args:
        attacks: the members, first run first, at least one; ensembles and sequences among them as you like.
        loss_fn: ranks the points of rows that nobody fools, one forward pass a member; larger is worse for
            the model.
        targeted: `Example.target` is the designated class, to which the model is to be led. True makes every
            member targeted; members that all are make it True.

    Raises:
        ValueError: for no members, a member that is no attack, or targeted and untargeted ones together.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust.attacks import fgsm
        >>> from jaxrobust.neighbourhoods import L2, LInf
        >>> def score_fn(images, example):
        ...     total = images.sum(axis=(1, 2, 3))
        ...     return jnp.stack([0 * total, total - 2.5], axis=-1)
        >>> ex = Example(image=jnp.array([0.5, 0.2])[:, None, None, None] * jnp.ones((2, 2, 2, 1)),
        ...              target=jnp.array([0, 0]))
        >>> both = Ensemble(attacks=(fgsm(L2(eps=0.1)), fgsm(LInf(eps=0.25))))
        >>> result = both(jax.random.split(jax.random.key(0), 2), score_fn, ex)
        >>> print(result.found, result.image[:, 0, 0, 0])
        [ True False] [0.75 0.45]
    """

    attacks: tuple[Attack, ...]
    loss_fn: LossFn = margin
    targeted: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.attacks, tuple) or not self.attacks:
            raise ValueError(f"Expected attacks to be a non-empty tuple of attacks, got {self.attacks!r}.")
        for attack in self.attacks:
            if isinstance(attack, type) or not isinstance(attack, Attack):
                raise ValueError(f"Expected every member to be an attack, got {attack!r}.")
        if self.targeted:
            object.__setattr__(self, "attacks", tuple(_made_targeted(attack) for attack in self.attacks))
        if len(goals(self)) > 1:
            raise ValueError(
                "Expected members that are all targeted or all untargeted, got both: they share one "
                "Example.target, which means different things to them. Make two ensembles."
            )
        object.__setattr__(self, "targeted", True in goals(self))

    def __call__(self, keys: Array, score_fn: ScoreFn, example: Example) -> AttackResult:
        """Attacks a batch; see `jaxrobust.types.Attack`."""
        worst = _nobody(example)
        for i, attack in enumerate(self.attacks):

            def run(worst: Worst, i: int = i, attack: Attack = attack) -> Worst:
                result = attack(fold_rows(keys, i), score_fn, example)
                return self._joined(worst, result, score_fn, example)

            # What the rows get does not depend on this: rows that are over keep what they have either way.
            worst = jax.lax.cond(jnp.all(worst.level == 2), lambda old: old, run, worst) if i else run(worst)
        image, distance = worst.theta
        return AttackResult(
            image=image,
            theta=image - example.image,
            found=worst.level == 2,
            distance=distance,
            nonfinite=worst.broken,
        )

    def _joined(self, old: Worst, result: AttackResult, score_fn: ScoreFn, example: Example) -> Worst:
        """Row by row what was there, where that is over, else the worse of it and a member's result."""
        inside = result.distance <= 1 + RADIUS_TOLERANCE
        image = select(inside, result.image, example.image)
        distance = jnp.where(inside, result.distance, 0.0)
        logits = score_fn(image, example)
        losses = ascended(self.loss_fn, self.targeted)(logits, example.target)
        new = judge((image, distance), logits, losses, example.target)
        # The member's word on success: it may have asked otherwise (means over draws), or of more.
        level = jnp.where(result.found & inside, 2, jnp.minimum(new.level, 1)).astype(jnp.int8)
        broken = new.broken if result.nonfinite is None else new.broken | result.nonfinite
        worse = worse_of(old, new._replace(level=level, broken=broken))
        return select(old.level == 2, old, worse)

    def scaled(self, factor: float | Array) -> "Ensemble":
        """Every member with its radii multiplied by `factor`."""
        return replace(self, attacks=tuple(attack.scaled(factor) for attack in self.attacks))


def autoattack(
    neighbourhood: Ball, *, steps: int = 100, queries: int = 5000, num_targets: int = 9
) -> Ensemble:
    r"""AutoAttack 'standard', arXiv:2003.01690, section 5: APGD-CE, APGD-T, FAB-T, Square, one restart each.

    APGD on the cross-entropy; APGD on the targeted DLR and FAB, each towards the `num_targets` likeliest
    other classes in turn; Square. The number of classes does not matter: there are at most k - 1 others, and
    where the targeted DLR is undefined, for fewer than 4 classes, its margin alone is ascended (see
    `numerics.losses.targeted_dlr`).

    Deviations from the paper: those of the members. The l_1 ball, whose AutoAttack came later
    (arXiv:2103.01208), is not offered.

    Args:
        neighbourhood: `LInf` or `L2`, or one of them masked.
        steps: of APGD and of FAB, per target.
        queries: of Square.
        num_targets: classes that APGD-T and FAB-T go through, >= 1.

    Returns:
        An `Ensemble`. `dataclasses.replace(..., targeted=True)` leads to a designated class.

    Raises:
        ValueError: for another neighbourhood, or numbers below 1.

    >>> from jaxrobust.neighbourhoods import LInf
    >>> [type(member).__name__ for member in autoattack(LInf(eps=0.3)).attacks]
    ['APGD', 'APGD', 'FAB', 'Square']
    """
    check_ball(neighbourhood, (math.inf, 2))
    _validate.at_least("num_targets", num_targets, 1)
    return Ensemble(
        attacks=(
            APGD(neighbourhood=neighbourhood, steps=steps, loss_fn=cross_entropy),
            APGD(neighbourhood=neighbourhood, steps=steps, num_targets=num_targets),
            FAB(neighbourhood=neighbourhood, steps=steps, num_targets=num_targets),
            Square(neighbourhood=neighbourhood, queries=queries),
        )
    )


def _made_targeted(attack: Any) -> Attack:
    """The attack with `targeted` set, if it has that."""
    return replace(attack, targeted=True) if hasattr(attack, "targeted") else attack


def _nobody(example: Example) -> Worst:
    """The state before any member: the clean image at distance 0; `theta` is (image, distance)."""
    rows = example.image.shape[0]
    blank = Worst(
        theta=(example.image, jnp.zeros(rows, jnp.float32)),
        level=jnp.zeros(rows, jnp.int8),
        loss=jnp.full(rows, -jnp.inf, jnp.float32),
        broken=jnp.zeros(rows, bool),
    )
    return like_rows(blank, example)
