"""Audits of a trained model: how robust it is where it looks, and (coming) how much it gives away."""

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
from jaxrobust.audits.names import parse_map, parse_perturbation, parse_regions
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
from jaxrobust.audits.saliency import audit_classifier, audit_pairs
from jaxrobust.audits.saliency_compare import (
    SaliencyDifference,
    compare_saliency,
    comparison_markdown,
    load_flags,
)
from jaxrobust.audits.saliency_config import SaliencyAudit

__all__ = [
    "REGION_ATTACKS",
    "REPLACEMENTS",
    "WORST_MAP",
    "AgreementRow",
    "Blur",
    "Case",
    "Fill",
    "MapRow",
    "Noise",
    "Perturbation",
    "QCurve",
    "Randomised",
    "Replacement",
    "SaliencyAudit",
    "SaliencyDifference",
    "SaliencyPaths",
    "SaliencyReport",
    "SaliencyRow",
    "Sensitivity",
    "Verdict",
    "audit_classifier",
    "audit_pairs",
    "cascade",
    "compare_saliency",
    "comparison_markdown",
    "confined",
    "load_flags",
    "parse_map",
    "parse_perturbation",
    "parse_regions",
    "patch",
    "region_pgd",
    "saliency_html",
    "write_saliency_report",
]
