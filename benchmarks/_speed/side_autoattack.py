"""The code of AutoAttack's authors, called as in the parity benchmark."""

from benchmarks._parity import side_autoattack as parity
from benchmarks._parity.side_autoattack import PACKAGES
from benchmarks._speed._torch import bound, load, logits, seed_all, to_numpy

__all__ = ["ATTACKS", "PACKAGES", "bound", "load", "logits", "seed_all", "to_numpy"]

ATTACKS = {
    "apgd": parity.ATTACKS["apgd_ce"],
    "autoattack": parity.ATTACKS["autoattack"],
}
