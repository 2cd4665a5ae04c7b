"""Evaluation: risks under attack, trust checks, accuracy against radius, and the report that shows them."""

from jaxrobust.evaluation._types import Curve, EvalAttack, Level, Report, Sample, Seen, Verdict
from jaxrobust.evaluation.curves import accuracy_curve
from jaxrobust.evaluation.robust import evaluate
from jaxrobust.evaluation.suites import SUITE, THREATS, ThreatModel, parse, suite
from jaxrobust.evaluation.trust import CHECKS

__all__ = [
    "CHECKS",
    "SUITE",
    "THREATS",
    "Curve",
    "EvalAttack",
    "Level",
    "Report",
    "Sample",
    "Seen",
    "ThreatModel",
    "Verdict",
    "accuracy_curve",
    "evaluate",
    "parse",
    "suite",
]
