"""Evaluation: risks under attack, trust checks, accuracy against radius, and the report that shows them."""

from jaxrobust.evaluation._provenance import hardware, versions
from jaxrobust.evaluation._types import (
    CLEAN,
    WORST,
    Curve,
    EvalAttack,
    Level,
    Report,
    Sample,
    Seen,
    Surrogate,
    TargetFn,
    Verdict,
)
from jaxrobust.evaluation.adversarial_sets import (
    AdversarialSet,
    StoredAttack,
    adversarial_file,
    evaluate_adversarial,
    load_adversarial,
    save_adversarial,
)
from jaxrobust.evaluation.breakage import Breakage, breakage
from jaxrobust.evaluation.curves import accuracy_curve, curve_of
from jaxrobust.evaluation.names import parse, split_names, suite
from jaxrobust.evaluation.report import Paths, write_report
from jaxrobust.evaluation.robust import evaluate
from jaxrobust.evaluation.smoothing import (
    Certificate,
    certificate_row,
    certified_accuracy,
    certified_curve,
    certify,
    check_smoothing,
    smoothed_predict,
)
from jaxrobust.evaluation.suites import SUITE, SUITES
from jaxrobust.evaluation.table import certificate_table, comparison_table, rows_table, verdicts_table
from jaxrobust.evaluation.targets import TARGETS, least_likely, next_class, runner_up
from jaxrobust.evaluation.threats import THREATS, Colours, Lengths, ThreatModel
from jaxrobust.evaluation.trust import CHECKS

# As a table prints them; upper case and hyphens are free.
SUITE_NAMES = tuple(entry.title for entry in SUITE.values())

__all__ = [
    "CHECKS",
    "CLEAN",
    "SUITE",
    "SUITES",
    "SUITE_NAMES",
    "TARGETS",
    "THREATS",
    "WORST",
    "AdversarialSet",
    "Breakage",
    "Certificate",
    "Colours",
    "Curve",
    "EvalAttack",
    "Lengths",
    "Level",
    "Paths",
    "Report",
    "Sample",
    "Seen",
    "StoredAttack",
    "Surrogate",
    "TargetFn",
    "ThreatModel",
    "Verdict",
    "accuracy_curve",
    "adversarial_file",
    "breakage",
    "certificate_row",
    "certificate_table",
    "certified_accuracy",
    "certified_curve",
    "certify",
    "check_smoothing",
    "comparison_table",
    "curve_of",
    "evaluate",
    "evaluate_adversarial",
    "hardware",
    "least_likely",
    "load_adversarial",
    "next_class",
    "parse",
    "rows_table",
    "runner_up",
    "save_adversarial",
    "smoothed_predict",
    "split_names",
    "suite",
    "verdicts_table",
    "versions",
    "write_report",
]
