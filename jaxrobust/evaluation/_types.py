"""What an evaluation is asked and what it answers: attacks, rows, verdicts, curves, reports."""

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from jaxrobust.attacks import goals
from jaxrobust.types import Attack, Model, PyTree

CLEAN = "none"
WORST = "worst"

TargetFn: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""`target_fn(logits [n, k], labels [n]) -> classes [n]`: what a targeted attack is to lead the model to."""


def is_targeted(attack: Any) -> bool:
    """Whether an attack leads the model to a class: itself, or the stages and members it is made of.

    Raises:
        ValueError: where some do and others lead it away from theirs.
    """
    found = goals(attack)
    if len(found) > 1:
        raise ValueError(
            "Expected stages that are all targeted or all untargeted, got both: their targets mean "
            "different things."
        )
    return True in found


@dataclass(frozen=True)
class EvalAttack:
    """An attack and how its row counts.

    Args:
        attack: any `types.Attack`; None is the clean image.
        every_image: False: only images that are right before the attack are attacked, those wrong from the
            start count as wrong. True: every image is attacked and judged on the attacked image alone, so
            that an attack whose candidates exclude the identity can exceed clean accuracy (RandAdv and
            GridAdv, arXiv 1712.02779).
        target_fn: of a targeted attack, which class it is to lead each image to, from the clean logits and
            the labels: one of `TARGETS`, or your own. Accuracy still counts the images that stay right;
            `targeted_success` of the row the share that reached the designated class.

    Raises:
        ValueError: for what is no attack, a targeted attack without `target_fn`, or one with it that is not
            targeted.

    >>> EvalAttack(None).every_image
    False
    """

    attack: Attack | None
    _: KW_ONLY
    every_image: bool = False
    target_fn: TargetFn | None = None

    def __post_init__(self):
        if self.attack is not None and not callable(self.attack):
            raise ValueError(f"Expected an attack or None, got {self.attack!r}.")
        if self.attack is not None and not hasattr(self.attack, "scaled"):
            raise ValueError(f"Expected an attack with scaled(factor), got {type(self.attack).__name__}.")
        targeted = is_targeted(self.attack)
        if targeted and self.target_fn is None:
            raise ValueError(
                "A targeted attack needs the classes to lead to: target_fn=least_likely (or runner_up, "
                "next_class; pgd:target=least_likely on the command line)."
            )
        if self.target_fn is not None and not targeted:
            raise ValueError(
                f"Expected a targeted attack with target_fn, got {type(self.attack).__name__} that is not. "
                "Give it targeted=True, or leave target_fn out."
            )


class Surrogate(NamedTuple):
    """Another model of the same task, whose adversarial images are tried on the evaluated one."""

    model: Model
    params: PyTree
    stats: PyTree


class Level(StrEnum):
    """How bad a verdict is, in growing order; `SKIPPED` is a check that had nothing to measure."""

    SKIPPED = "skipped"
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What one trust check found.

    Attributes:
        check: the check's name.
        level: ok, warn or fail.
        evidence: the number that the verdict rests on; NaN where nothing could be measured.
        unit: what the number is, in a few words.
        advice: one sentence: what was seen and what to do.
    """

    check: str
    level: Level
    evidence: float
    unit: str
    advice: str


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Accuracy against the share of the attack's full radius; point 0 is clean accuracy.

    `accuracy[i]` counts images that no radius up to `factors[i]` fools, so it never rises. `norm` is p of the
    ball whose radius `eps` is (0, 1, 2, inf), None of other neighbourhoods.
    """

    attack: str
    radius: str
    eps: float | None
    factors: tuple[float, ...]
    accuracy: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: int
    seconds: float
    norm: float | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """How the model sees one image: predicted class and its probability."""

    image: np.ndarray
    prediction: int
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image of the gallery, clean and under every attack."""

    index: int
    label: int
    clean: Seen
    attacked: Mapping[str, Seen]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of an evaluation.

    Attributes:
        rows: one JSON-ready dict per attack, the clean one (`none`) first and the per-example worst last.
        flags: per-example numpy arrays `[n]` by name: `correct/<attack>` and `correct_8bit/<attack>` (bool),
            `prediction/<attack>` (int32), `distance/<attack>` (float32, radii, NaN where not attacked), with
            R_rob also `moved/<attack>` (bool: some found x' has C(x') != C(x)), of a minimum-norm attack
            `length/<attack>` (float32, ||x' - x|| in the norm's own units: inf where none was found, 0 where
            the image is wrong from the start), of an ensemble `broken_by/<attack>` (int32, the number of the
            member, -1 where none), of a targeted attack `target/<attack>` (int32), and `label`.
        samples: images for the gallery.
        verdicts: what the trust checks found.
        curves: accuracy against radius, where measured.
        meta: model, dataset, n, class names, image shape, seed, batch size, versions, hardware.
        certificate: the row of a randomised-smoothing certificate, with certified accuracy at some radii
            under `radii`; None without one. Its curve is among `curves`.
        images: adversarial images float32 `[n, h, w, c]` by attack, where kept (float: PNG would round them).
    """

    rows: tuple[dict[str, Any], ...]
    flags: Mapping[str, np.ndarray]
    samples: tuple[Sample, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    curves: tuple[Curve, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)
    certificate: Mapping[str, Any] | None = None
    images: Mapping[str, np.ndarray] = field(default_factory=dict)

    def row(self, attack: str) -> dict[str, Any]:
        """The row of an attack; an unknown name lists the known ones."""
        for row in self.rows:
            if row["attack"] == attack:
                return row
        known = ", ".join(row["attack"] for row in self.rows)
        raise ValueError(f"No row of attack {attack!r} in this report. Known: {known}.")

    @property
    def warnings(self) -> tuple[Verdict, ...]:
        """The verdicts to worry about, the failures first."""
        bad = [verdict for verdict in self.verdicts if verdict.level in (Level.WARN, Level.FAIL)]
        return tuple(sorted(bad, key=lambda verdict: verdict.level != Level.FAIL))
