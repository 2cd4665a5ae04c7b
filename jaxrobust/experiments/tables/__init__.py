"""The tables and figures of arXiv 2003.06974, each by one command, at four scales."""

from jaxrobust.experiments.tables.reproduce import reproduce
from jaxrobust.experiments.tables.settings import Scale
from jaxrobust.experiments.tables.specs import SPECS

__all__ = ["SPECS", "Scale", "reproduce"]
