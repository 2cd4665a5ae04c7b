"""What a trust check sees, and how it speaks."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxrobust.evaluation import _engine
from jaxrobust.evaluation._engine import Predictions, Subject
from jaxrobust.evaluation._types import CLEAN, WORST, EvalAttack, Level, Report, Surrogate, Verdict

_DRAW = 0


class View(NamedTuple):
    """What the checks look at: one batch drawn from the set, the model's answers to it, and the report if
    there is one; `rows` says where in the set each image is, `surrogates` are other models of the same task.
    """

    subject: Subject
    attacks: Mapping[str, EvalAttack]
    report: Report | None
    rows: np.ndarray
    images: np.ndarray
    clean: Predictions
    surrogates: Mapping[str, Surrogate] = {}

    @property
    def labels(self) -> np.ndarray:
        """Labels of `images`."""
        return self.subject.labels[self.rows]

    @property
    def right(self) -> np.ndarray:
        """Positions of the images that the model has right."""
        return np.flatnonzero(self.clean.correct(self.labels))


def look(
    subject: Subject,
    attacks: Mapping[str, EvalAttack],
    report: Report | None = None,
    surrogates: Mapping[str, Surrogate] | None = None,
) -> View:
    """The view of a subject that `check` and the single checks take."""
    # Drawn, as a set may be sorted by class; with a fixed seed, so that the checks say the same each time; as
    # many as were asked for, so that they say the same on any number of devices and hosts.
    index = np.random.default_rng(_DRAW).permutation(subject.n)[: subject.asked or subject.batch_size]
    images = _engine.gather(subject.images, index)
    clean = _engine.predict(subject, images)
    return View(subject, attacks, report, index, images, clean, surrogates or {})


def verdict(name: str, level: Level, evidence: float, unit: str, advice: str) -> Verdict:
    """A verdict, from its parts in order."""
    return Verdict(check=name, level=level, evidence=float(evidence), unit=unit, advice=advice)


def graded(evidence: float, warn: float, fail: float) -> Level:
    """ok up to and including `warn`, fail above `fail` or where it is no number."""
    if math.isnan(evidence) or evidence > fail:
        return Level.FAIL
    return Level.WARN if evidence > warn else Level.OK


def unmeasured(name: str, unit: str, why: str) -> Verdict:
    """No evidence either way, which is neither a pass nor a failure; the sentence says why."""
    return verdict(name, Level.SKIPPED, math.nan, unit, f"Not measured: {why}")


def gap(first: np.ndarray, second: np.ndarray) -> float:
    """The largest difference; NaN agrees with NaN, all else that is not finite differs infinitely."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(first - second)
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    apart = np.where(same, 0, np.where(np.isnan(apart), np.inf, apart))
    return float(apart.max(initial=0))


def scale(logits: np.ndarray) -> float:
    """The spread of the logits, against which a difference is large or small."""
    finite = logits[np.isfinite(logits)]
    return float(finite.std()) or 1.0 if finite.size else 1.0


def attack_rows(view: View) -> list[dict]:
    """The report's rows of attacks."""
    rows = view.report.rows if view.report else ()
    return [row for row in rows if row["attack"] not in (CLEAN, WORST)]
