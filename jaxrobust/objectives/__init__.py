"""Training objectives: each defence is a value that turns one batch into a loss.

To add one: a file here, a line in `OBJECTIVES`, a row in `tests/common/objectives_table.py`.
"""

from jaxrobust.objectives._targets import TARGETS, distribution, hard_label
from jaxrobust.objectives.at import AT
from jaxrobust.objectives.rt import RT
from jaxrobust.objectives.srt import SRT
from jaxrobust.objectives.standard import Standard
from jaxrobust.objectives.trades import TRADES

OBJECTIVES = {"standard": Standard, "at": AT, "rt": RT, "srt": SRT, "trades": TRADES}

__all__ = ["AT", "OBJECTIVES", "RT", "SRT", "TARGETS", "TRADES", "Standard", "distribution", "hard_label"]
