"""Audits of a trained model: how robust it is where it looks, and how much its features give away."""

from jaxrobust.audits._privacy_inputs import Division
from jaxrobust.audits._privacy_page import PrivacyPaths, privacy_html, write_privacy_report
from jaxrobust.audits._privacy_report import CandidateRow, MitigationRow, PrivacyReport
from jaxrobust.audits._release_page import ReleasePaths, release_html, write_release_report
from jaxrobust.audits._saliency_page import SaliencyPaths, saliency_html, write_saliency_report
from jaxrobust.audits._saliency_report import (
    WORST_MAP,
    AgreementRow,
    Case,
    MapRow,
    QCurve,
    SaliencyReport,
    SaliencyRow,
)
from jaxrobust.audits._saliency_verdict import Sensitivity, Verdict
from jaxrobust.audits.cascade import Randomised, cascade
from jaxrobust.audits.names import (
    default_mitigations,
    parse_map,
    parse_perturbation,
    parse_protections,
    parse_regions,
)
from jaxrobust.audits.perturbations import (
    REGION_ATTACKS,
    REPLACEMENTS,
    Blur,
    Fill,
    Noise,
    Perturbation,
    Replacement,
    confined,
    patch,
    region_pgd,
)
from jaxrobust.audits.privacy import audit_classifier_privacy, audit_privacy
from jaxrobust.audits.privacy_compare import (
    PrivacyDifference,
    compare_privacy,
    privacy_comparison_markdown,
    privacy_comparison_notes,
)
from jaxrobust.audits.privacy_config import PUBLISHED, PrivacyAudit, priors
from jaxrobust.audits.release import ReleaseReport, ThreatRow, release_of_classifier, release_of_faces
from jaxrobust.audits.saliency import audit_classifier, audit_pairs
from jaxrobust.audits.saliency_compare import (
    SaliencyDifference,
    compare_saliency,
    comparison_markdown,
    load_flags,
)
from jaxrobust.audits.saliency_config import SaliencyAudit

__all__ = [
    "PUBLISHED",
    "REGION_ATTACKS",
    "REPLACEMENTS",
    "WORST_MAP",
    "AgreementRow",
    "Blur",
    "CandidateRow",
    "Case",
    "Division",
    "Fill",
    "MapRow",
    "MitigationRow",
    "Noise",
    "Perturbation",
    "PrivacyAudit",
    "PrivacyDifference",
    "PrivacyPaths",
    "PrivacyReport",
    "QCurve",
    "Randomised",
    "ReleasePaths",
    "ReleaseReport",
    "Replacement",
    "SaliencyAudit",
    "SaliencyDifference",
    "SaliencyPaths",
    "SaliencyReport",
    "SaliencyRow",
    "Sensitivity",
    "ThreatRow",
    "Verdict",
    "audit_classifier",
    "audit_classifier_privacy",
    "audit_pairs",
    "audit_privacy",
    "cascade",
    "compare_privacy",
    "compare_saliency",
    "comparison_markdown",
    "confined",
    "default_mitigations",
    "load_flags",
    "parse_map",
    "parse_perturbation",
    "parse_protections",
    "parse_regions",
    "patch",
    "priors",
    "privacy_comparison_markdown",
    "privacy_comparison_notes",
    "privacy_html",
    "region_pgd",
    "release_html",
    "release_of_classifier",
    "release_of_faces",
    "saliency_html",
    "write_privacy_report",
    "write_release_report",
    "write_saliency_report",
]
