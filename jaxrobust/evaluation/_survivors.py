"""Ensembles over the rows that are still right: what a member has broken leaves the batch.

The rest is gathered anew in one compiled shape, on CPU a small one, so that few rows are padding. What comes
out is what the ensemble gives inside jit: member i draws from `fold_in(key of the row, i)`, the point of
the first member that breaks a row stays, and a row that nobody breaks keeps the worst of the members' points
by the ensemble's loss.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks._blocks import ROWS
from jaxrobust.attacks._worst import ascended
from jaxrobust.evaluation import _engine
from jaxrobust.evaluation._engine import Attacked, Predictions, Subject
from jaxrobust.types import Attack


class Member(NamedTuple):
    """One attack of a flattened ensemble, and what its keys are folded with, in order."""

    attack: Attack
    folds: tuple[int, ...]


class Share(NamedTuple):
    """What one member did: how many images it was given, how many of them it broke."""

    attacked: int
    broken: int
    seconds: float


class Outcome(NamedTuple):
    """What an attack did to some rows: `found` by row, a share per member, and the number of the member that
    broke each row, -1 where none did. An attack that is no ensemble is its one member.
    """

    found: Attacked
    shares: tuple[Share, ...]
    broken_by: np.ndarray


def is_ensemble(attack: Any) -> bool:
    """Whether the attack is several on each image, of which the worst counts."""
    return isinstance(getattr(attack, "attacks", None), tuple)


def members_of(attack: Any, folds: tuple[int, ...] = ()) -> list[Member]:
    """The members of an ensemble, those of ensembles within it in their place; any other attack itself."""
    if not is_ensemble(attack):
        return [Member(attack, folds)]
    return [found for i, member in enumerate(attack.attacks) for found in members_of(member, (*folds, i))]


def run_attack(
    s: Subject,
    name: str,
    attack: Attack,
    index: np.ndarray,
    targets: np.ndarray,
    *,
    factor: float = 1.0,
    keep: Collection[int] = (),
    progress_fn: Callable[[str, int, int], None] | None = None,
) -> Outcome:
    """`_engine.run_attack` for every kind of attack; an ensemble's members see what is left of the rows."""
    if not is_ensemble(attack):
        found = _engine.run_attack(
            s, name, attack, index, targets, factor=factor, keep=keep, progress_fn=progress_fn
        )
        over = _over(attack, found, targets)
        return Outcome(found, (Share(len(index), int(over.sum()), found.seconds),), np.where(over, 0, -1))
    s = s.batched(_rows(s))
    members, active, broken_by = members_of(attack), np.arange(len(index)), np.full(len(index), -1)
    parts: list[Attacked] = []
    shares: list[Share] = []
    best: tuple[Attacked, np.ndarray] | None = None
    for at, member in enumerate(members):
        found = _engine.run_attack(
            s, name, member.attack, index[active], targets[active],
            factor=factor, folds=member.folds, keep=keep, progress_fn=progress_fn,
        )  # fmt: skip
        over = _over(member.attack, found, targets[active])
        new = _clean_where_outside(s, index[active], found)
        loss = _losses(attack, new.seen.logits, active, targets)
        best = (new, loss) if best is None else _worse(index, best, active, new, loss, over)
        broken_by[active[over]] = at
        parts.append(found)
        shares.append(Share(len(active), int(over.sum()), found.seconds))
        active = active[~over]
    assert best is not None
    return Outcome(_summed(best[0], parts), tuple(shares), broken_by)


def _rows(s: Subject) -> int:
    """The batch of the members: on CPU near `ROWS` for each device, as fast per row as larger ones."""
    if jax.default_backend() != "cpu":
        return s.batch_size
    parts = max(1, round(s.batch_size / (ROWS * s.mesh.size)))
    return -(-s.batch_size // parts)


def _over(attack: Attack, found: Attacked, targets: np.ndarray) -> np.ndarray:
    """Which rows have reached the attack's goal inside the radius, by the model's own answer.

    A model that answers NaN has failed on that row.
    """
    hits = found.seen.prediction == targets
    goal = hits if getattr(attack, "targeted", False) else ~hits
    return (goal | ~found.seen.finite) & found.inside()


def _clean_where_outside(s: Subject, index: np.ndarray, found: Attacked) -> Attacked:
    """A member's points, the clean image in the place of those outside the radius."""
    out = np.flatnonzero(~found.inside())
    if not out.size:
        return found
    images = dict(found.images)
    for row in set(map(int, index[out])) & set(images):
        images[row] = _engine.gather(s.images, np.array([row]))[0]
    distance = found.distance.copy()
    distance[out] = 0
    return found._replace(
        images=images,
        distance=distance,
        seen=_put(found.seen, out, _engine.predict_rows(s, index[out])),
        seen_8bit=_put(found.seen_8bit, out, _engine.predict_rows(s, index[out], rounded=True)),
    )


def _losses(attack: Any, logits: np.ndarray, active: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The ensemble's loss of the rows `active`, by which it ranks what fools nobody; -inf where it is NaN."""
    loss_fn = ascended(attack.loss_fn, bool(getattr(attack, "targeted", False)))
    # Over all rows each time: one shape, and so one program, whatever is left.
    full = np.zeros((len(targets), logits.shape[1]), np.float32)
    full[active] = logits
    losses = np.asarray(loss_fn(jnp.asarray(full), jnp.asarray(targets, jnp.int32)), np.float32)[active]
    return np.where(np.isnan(losses), -np.inf, losses)


def _worse(
    index: np.ndarray,
    best: tuple[Attacked, np.ndarray],
    active: np.ndarray,
    new: Attacked,
    loss: np.ndarray,
    over: np.ndarray,
) -> tuple[Attacked, np.ndarray]:
    """`best` with the rows `active` where a member broke them, or came closer, replaced by its points."""
    old, old_loss = best
    better = over | (loss > old_loss[active])
    rows = active[better]
    distance, losses = old.distance.copy(), old_loss.copy()
    distance[rows], losses[rows] = new.distance[better], loss[better]
    chosen = set(map(int, index[rows]))
    merged = old._replace(
        images=old.images | {row: image for row, image in new.images.items() if row in chosen},
        distance=distance,
        seen=_put(old.seen, rows, new.seen.at(better)),
        seen_8bit=_put(old.seen_8bit, rows, new.seen_8bit.at(better)),
    )
    return merged, losses


def _put(old: Predictions, rows: np.ndarray, new: Predictions) -> Predictions:
    """`old` with these rows replaced."""
    parts = [part.copy() for part in old]
    for part, value in zip(parts, new):
        part[rows] = value
    return Predictions(*parts)


def _summed(best: Attacked, parts: Sequence[Attacked]) -> Attacked:
    """The rows of `best` with what all members together took and touched."""
    lows = [part.low for part in parts if not math.isnan(part.low)]
    highs = [part.high for part in parts if not math.isnan(part.high)]
    seconds = sum(part.seconds for part in parts)
    return best._replace(
        low=min(lows, default=math.nan),
        high=max(highs, default=math.nan),
        # A minimum norm is one attack's; the ensemble's points are judged at the radius.
        length=np.full(len(best.distance), np.nan, np.float32),
        seconds=seconds,
        images_per_second=len(best.distance) / seconds if seconds else 0.0,
        compiled=any(part.compiled for part in parts),
    )
