"""Training objectives: each defence is a value that turns one batch into a loss.

To add one: a file here, a line in `OBJECTIVES`, a row in `tests/common/objectives_table.py`.
"""

from jaxrobust.objectives._face_regularisers import MTER, REGULARISERS, Push, TripletCos
from jaxrobust.objectives._gate import Gate, GateState, Measure
from jaxrobust.objectives._gate_report import GateReport, gate_report
from jaxrobust.objectives._targets import TARGETS, distribution, hard_label
from jaxrobust.objectives.at import AT
from jaxrobust.objectives.face_gated import FaceGated
from jaxrobust.objectives.face_srt import FaceSRT
from jaxrobust.objectives.inversion import Inversion
from jaxrobust.objectives.klr import KLR
from jaxrobust.objectives.rst import RST
from jaxrobust.objectives.rt import RT
from jaxrobust.objectives.srt import SRT
from jaxrobust.objectives.standard import Standard
from jaxrobust.objectives.trades import TRADES
from jaxrobust.objectives.uat import UAT

OBJECTIVES = {
    "standard": Standard,
    "at": AT,
    "trades": TRADES,
    "uat": UAT,
    "rst": RST,
    "rt": RT,
    "klr": KLR,
    "srt": SRT,
    "face_gated": FaceGated,
    "face_srt": FaceSRT,
    "inversion": Inversion,
}

__all__ = [
    "AT",
    "KLR",
    "MTER",
    "OBJECTIVES",
    "REGULARISERS",
    "RST",
    "RT",
    "SRT",
    "TARGETS",
    "TRADES",
    "UAT",
    "FaceGated",
    "FaceSRT",
    "Gate",
    "GateReport",
    "GateState",
    "Inversion",
    "Measure",
    "Push",
    "Standard",
    "TripletCos",
    "distribution",
    "gate_report",
    "hard_label",
]
