"""Signs that attacks on pairs are weaker than they say: the checks of `trust` that apply here."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from jaxrobust.evaluation import _engine, _masking, _pair_attacks
from jaxrobust.evaluation._attacked_report import AttackedRow, row_name
from jaxrobust.evaluation._pair_attacks import Case, Side
from jaxrobust.evaluation._pair_cases import ENSEMBLE
from jaxrobust.evaluation._types import Level, Verdict
from jaxrobust.evaluation._view import graded, unmeasured, verdict
from jaxrobust.types import Attack

_SUBSET = 64


def check_pairs(
    case: Case,
    judged: Side,
    attacks: Mapping[str, Attack],
    rows: Sequence[AttackedRow],
    broken: Mapping[str, np.ndarray],
    right: np.ndarray,
) -> tuple[Verdict, ...]:
    """All checks; `broken` bool `[m]` by row's name, `right` bool `[m]`: decided rightly before."""
    main = _main_attack(attacks)
    some = _some(case, np.flatnonzero(right))
    return (
        _huge_radius(case, judged, main, some),
        _more_steps(case, judged, main, some, broken),
        _transfer(rows, broken, right),
        _bounds(rows),
        _rounding(rows),
        _finite(rows),
    )


def _main_attack(attacks: Mapping[str, Attack]) -> tuple[str, Any] | None:
    """The iterative attack on a pixel ball with the most gradients."""
    found = [(name, attack) for name, attack in attacks.items() if _masking._ball(attack)]
    return max(
        found, key=lambda item: getattr(item[1], "steps", 0) * getattr(item[1], "restarts", 1), default=None
    )


def _some(case: Case, index: np.ndarray) -> np.ndarray:
    """A few of these places, always the same."""
    return np.sort(np.random.default_rng(0).permutation(index)[:_SUBSET])


def _huge_radius(case: Case, judged: Side, main: tuple[str, Any] | None, some: np.ndarray) -> Verdict:
    """At a radius that reaches any image every decision can be turned: the partner's image is in reach."""
    unit = "share of the pairs broken at a radius that reaches any image"
    if main is None:
        return unmeasured("huge_radius", unit, "no iterative gradient attack on a pixel ball.")
    if not len(some):
        return unmeasured("huge_radius", unit, "no pair is decided rightly before.")
    name, attack = main
    ball = attack.neighbourhood
    num_values = math.prod(case.identities.images.shape[1:])
    diameter = 1.0 if ball.norm == math.inf else math.sqrt(num_values)
    found = _pair_attacks.run(case, name, attack, some, judged=judged, factor=diameter / float(ball.eps))
    share = float(found.broken.mean())
    level = graded(1 - share, 0.0, 0.05)
    advice = "At a radius that reaches any image every pair is broken."
    if level != Level.OK:
        advice = (
            f"At a radius that reaches any image {name} breaks only {share:.0%} of the pairs, though every "
            "decision can be turned there: gradients are masked, or the attack is too short. Take more or "
            "larger steps, or an attack without gradients."
        )
    return verdict("huge_radius", level, share, unit, advice)


def _more_steps(
    case: Case,
    judged: Side,
    main: tuple[str, Any] | None,
    some: np.ndarray,
    broken: Mapping[str, np.ndarray],
) -> Verdict:
    """Twice as many steps never help the model; where they hurt it much, the attack has not converged."""
    unit = "share of the pairs that twice as many steps save"
    if main is None:
        return unmeasured("more_steps", unit, "no iterative gradient attack on a pixel ball.")
    if not len(some):
        return unmeasured("more_steps", unit, "no pair is decided rightly before.")
    name, attack = main
    longer = dataclasses.replace(attack, steps=2 * attack.steps)
    fewer = broken[name][some]
    more = _pair_attacks.run(case, name, longer, some, judged=judged).broken
    saved, lost = int(np.sum(fewer & ~more)), int(np.sum(more & ~fewer))
    share = (saved - lost) / len(some)
    level, advice = Level.OK, "Twice as many steps never helped the model."
    if saved > lost:
        chance = scipy_stats.binomtest(saved, saved + lost, 0.5, alternative="greater").pvalue
        level = Level.FAIL if chance < 0.01 else Level.WARN
        advice = (
            f"With twice as many steps {name} breaks fewer pairs ({saved} saved, {lost} newly broken): keep "
            "the worst iterate of each pair, or choose smaller steps."
        )
    elif share < -0.05:
        level = Level.WARN
        advice = (
            f"Twice as many steps break {lost - saved} more of {len(some)} pairs: {name} has not converged. "
            "Take more steps or restarts."
        )
    return verdict("more_steps", level, share, unit, advice)


def _transfer(rows: Sequence[AttackedRow], broken: Mapping[str, np.ndarray], right: np.ndarray) -> Verdict:
    """Images made on another model hardly break a pair that the attack on the model itself left whole."""
    unit = "share of the unbroken pairs that transferred images break"
    pairs = [(row.attack, row_name(row)) for row in rows if row.made_on is not None]
    pairs = [(own, name) for own, name in pairs if own in broken and (right & ~broken[own]).any()]
    if not pairs:
        return unmeasured("transfer", unit, "no images of another model, or nothing left to break.")

    def counts(own: str, name: str) -> tuple[int, int]:
        left = right & ~broken[own]
        return int((left & broken[name]).sum()), int(left.sum())

    own, name = max(pairs, key=lambda pair: counts(*pair)[0] / counts(*pair)[1])
    wins, left = counts(own, name)
    level = Level.OK if not wins else Level.FAIL if wins / left > 0.05 and wins > 2 else Level.WARN
    advice = "Images made on other models break none of the pairs that the same attack left whole."
    if wins:
        advice = (
            f"{name} breaks {wins} of the {left} pairs that {own} on the model itself left whole: its own "
            "gradients mislead. Quote the ensemble, and take more steps, restarts or another attack."
        )
    return verdict("transfer", level, wins / left, unit, advice)


def _bounds(rows: Sequence[AttackedRow]) -> Verdict:
    """Attacked images are in [0, 1] and within the radius."""
    unit = "largest excess over [0, 1]"
    ran = [row for row in rows if row.pixel_low is not None and row.pixel_high is not None]
    if not ran:
        return unmeasured("result_bounds", unit, "no pair was attacked.")
    excess = {row_name(row): max(0.0, -(row.pixel_low or 0.0), (row.pixel_high or 0.0) - 1) for row in ran}
    worst = max(excess, key=lambda name: excess[name])
    if not excess[worst] <= _engine.PIXEL_TOLERANCE:
        advice = f"Images of {worst} leave [0, 1] and were not counted as successes: clip them in the attack."
        return verdict("result_bounds", Level.FAIL, excess[worst], unit, advice)
    outside = {row_name(row): row.outside for row in ran if row.outside}
    if outside:
        listed = ", ".join(f"{count} of {name}" for name, count in outside.items())
        advice = (
            f"Some results lie farther than the radius ({listed}) and were not counted as successes: an "
            "attack of fixed radius must project its last step."
        )
        return verdict("result_bounds", Level.WARN, sum(outside.values()), "results outside", advice)
    advice = "Attacked images are in [0, 1] and in the radius."
    return verdict("result_bounds", Level.OK, excess[worst], unit, advice)


def _rounding(rows: Sequence[AttackedRow]) -> Verdict:
    """Attacks of fixed radius survive an image file."""
    unit = "largest change of a rate by rounding to 8 bits"
    # The ensemble may rest on minimum-norm attacks, which rounding undoes by design.
    fixed = [row for row in rows if not row.minimum_norm and row.attack != ENSEMBLE]
    if not fixed:
        return unmeasured("rounding", unit, "no attack of fixed radius.")

    def change(row: AttackedRow) -> float:
        pairs = ((row.acceptance, row.acceptance_8bit), (row.false_accepts, row.false_accepts_8bit))
        return max(abs((estimate.value or 0.0) - rounded) for estimate, rounded in pairs)

    row = max(fixed, key=change)
    level = graded(change(row), 0.02, 0.1)
    advice = "Rounding the images to 8 bits changes nothing that matters."
    if level != Level.OK:
        advice = (
            f"Rounded to 8 bits, the images of {row_name(row)} change a rate by {change(row):.1%}: "
            "they do not survive a file, or rounding takes them out of the radius (whole levels such as "
            "8/255 keep them in)."
        )
    return verdict("rounding", level, change(row), unit, advice)


def _finite(rows: Sequence[AttackedRow]) -> Verdict:
    """No NaN comes out of the model."""
    count = max((row.nonfinite for row in rows), default=0)
    advice = "All embeddings are finite."
    if count:
        advice = (
            f"The model gave NaN or infinite embeddings for up to {count} pairs of a row; they count as "
            "broken. Look for a division by a norm of 0, or overflow, before believing any number."
        )
    return verdict("finite_embeddings", Level.FAIL if count else Level.OK, count, "pairs", advice)
