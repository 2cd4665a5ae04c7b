"""Evaluation: risks under attack, trust checks, accuracy against radius, and the report that shows them."""

from jaxrobust.evaluation._types import CLEAN, WORST, Curve, EvalAttack, Level, Report, Sample, Seen, Verdict
from jaxrobust.evaluation.curves import accuracy_curve
from jaxrobust.evaluation.report import Paths, write_report
from jaxrobust.evaluation.robust import evaluate
from jaxrobust.evaluation.suites import SUITE, THREATS, ThreatModel, parse, split_names, suite
from jaxrobust.evaluation.table import comparison_table, rows_table, verdicts_table
from jaxrobust.evaluation.trust import CHECKS

# As a table prints them; upper case and hyphens are free.
SUITE_NAMES = tuple(entry.title for entry in SUITE.values())

__all__ = [
    "CHECKS",
    "CLEAN",
    "SUITE",
    "SUITE_NAMES",
    "THREATS",
    "WORST",
    "Curve",
    "EvalAttack",
    "Level",
    "Paths",
    "Report",
    "Sample",
    "Seen",
    "ThreatModel",
    "Verdict",
    "accuracy_curve",
    "comparison_table",
    "evaluate",
    "parse",
    "rows_table",
    "split_names",
    "suite",
    "verdicts_table",
    "write_report",
]
