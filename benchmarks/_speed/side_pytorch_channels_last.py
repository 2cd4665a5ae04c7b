"""The hand-written attacks on a net and images whose channels lie last in memory."""

import torch

from benchmarks._parity.twin import Victim
from benchmarks._speed import _torch
from benchmarks._speed._torch import bound, logits, seed_all, to_numpy
from benchmarks._speed.problem import Problem
from benchmarks._speed.side_pytorch import ATTACKS, PACKAGES

__all__ = ["ATTACKS", "PACKAGES", "bound", "load", "logits", "seed_all", "to_numpy"]


def load(problem: Problem) -> Victim:
    """The net and all images."""
    victim = _torch.load(problem)
    layout = torch.channels_last
    return victim._replace(net=victim.net.to(memory_format=layout), x=victim.x.to(memory_format=layout))
