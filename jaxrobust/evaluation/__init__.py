"""Evaluation: risks under attack, trust checks, accuracy against radius, reports; and face verification."""

from jaxrobust.evaluation._attacked_report import (
    AttackedRow,
    AttackedVerificationReport,
    Distances,
    MinimumRow,
)
from jaxrobust.evaluation._provenance import hardware, radius_label, versions
from jaxrobust.evaluation._reconstruction_inputs import AttackedFold, Reconstructed
from jaxrobust.evaluation._reconstruction_report import (
    CriticRow,
    HeldOut,
    LikenessRow,
    ReconstructionReport,
    Strip,
)
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
from jaxrobust.evaluation._verification_report import (
    Decisions,
    Estimate,
    FoldRow,
    TarAtFar,
    VerificationReport,
)
from jaxrobust.evaluation.adversarial_sets import (
    AdversarialSet,
    StoredAttack,
    adversarial_file,
    evaluate_adversarial,
    load_adversarial,
    save_adversarial,
)
from jaxrobust.evaluation.attacked_verification import verify_attacked
from jaxrobust.evaluation.attackers import check_attackers, check_images_apart, overlap
from jaxrobust.evaluation.breakage import Breakage, breakage
from jaxrobust.evaluation.critics import Critic, calibrated_critic
from jaxrobust.evaluation.curves import accuracy_curve, curve_and_flags, curve_of
from jaxrobust.evaluation.identification import Rank1, rank1
from jaxrobust.evaluation.leak import Band, band_of, calibrated_ssim, doubts, leak_score
from jaxrobust.evaluation.names import parse, split_names, suite
from jaxrobust.evaluation.platt import Platt, fit_platt
from jaxrobust.evaluation.reconstruction import measure_reconstructions
from jaxrobust.evaluation.report import Paths, write_report
from jaxrobust.evaluation.resolution import Resolution, Resolved, finest_far, resolution
from jaxrobust.evaluation.robust import evaluate
from jaxrobust.evaluation.roc import (
    Eer,
    OperatingPoint,
    Rates,
    Roc,
    decision_rates,
    eer,
    pooled_roc,
    roc,
    tar_at_far,
)
from jaxrobust.evaluation.smoothing import (
    Certificate,
    certificate_row,
    certified_accuracy,
    certified_curve,
    certify,
    check_smoothing,
    smoothed_predict,
)
from jaxrobust.evaluation.subject_bootstrap import Bootstrap, subject_bootstrap
from jaxrobust.evaluation.suites import SUITE, SUITES
from jaxrobust.evaluation.table import certificate_table, comparison_table, rows_table, verdicts_table
from jaxrobust.evaluation.targets import TARGETS, least_likely, next_class, runner_up
from jaxrobust.evaluation.threats import THREATS, Colours, Lengths, ThreatModel
from jaxrobust.evaluation.trust import CHECKS
from jaxrobust.evaluation.verification import verify
from jaxrobust.evaluation.view2 import View2, best_threshold, view2_accuracy

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
    "AttackedFold",
    "AttackedRow",
    "AttackedVerificationReport",
    "Band",
    "Bootstrap",
    "Breakage",
    "Certificate",
    "Colours",
    "Critic",
    "CriticRow",
    "Curve",
    "Decisions",
    "Distances",
    "Eer",
    "Estimate",
    "EvalAttack",
    "FoldRow",
    "HeldOut",
    "Lengths",
    "Level",
    "LikenessRow",
    "MinimumRow",
    "OperatingPoint",
    "Paths",
    "Platt",
    "Rank1",
    "Rates",
    "Reconstructed",
    "ReconstructionReport",
    "Report",
    "Resolution",
    "Resolved",
    "Roc",
    "Sample",
    "Seen",
    "StoredAttack",
    "Strip",
    "Surrogate",
    "TarAtFar",
    "TargetFn",
    "ThreatModel",
    "Verdict",
    "VerificationReport",
    "View2",
    "accuracy_curve",
    "adversarial_file",
    "band_of",
    "best_threshold",
    "breakage",
    "calibrated_critic",
    "calibrated_ssim",
    "certificate_row",
    "certificate_table",
    "certified_accuracy",
    "certified_curve",
    "certify",
    "check_attackers",
    "check_images_apart",
    "check_smoothing",
    "comparison_table",
    "curve_and_flags",
    "curve_of",
    "decision_rates",
    "doubts",
    "eer",
    "evaluate",
    "evaluate_adversarial",
    "finest_far",
    "fit_platt",
    "hardware",
    "leak_score",
    "least_likely",
    "load_adversarial",
    "measure_reconstructions",
    "next_class",
    "overlap",
    "parse",
    "pooled_roc",
    "radius_label",
    "rank1",
    "resolution",
    "roc",
    "rows_table",
    "runner_up",
    "save_adversarial",
    "smoothed_predict",
    "split_names",
    "subject_bootstrap",
    "suite",
    "tar_at_far",
    "verdicts_table",
    "verify",
    "verify_attacked",
    "versions",
    "view2_accuracy",
    "write_report",
]
