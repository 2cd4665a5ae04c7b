"""Chips by their vendors' figures, and what a step of data-parallel training costs on several of them."""

import math
from typing import NamedTuple

from benchmarks._scaling.counts import Counts

HOP = 1e-6
"""Seconds of one hop of an all-reduce."""


class Chip(NamedTuple):
    """`peak` in FLOP/s, dense bfloat16; `links`: bytes/s of the slowest link of a ring over so many chips."""

    name: str
    peak: float
    links: dict[int, float]
    source: str


CHIPS = (
    Chip(
        "NVIDIA H100 SXM",
        989e12,
        {8: 450e9, 256: 50e9},
        "989 TFLOP/s is half of the 1,979 with sparsity of NVIDIA's H100 data sheet; 8 chips: NVLink, "
        "900 GB/s in both directions together (the same data sheet); 256 chips: one 400 Gb/s ConnectX-7 port "
        "of the eight of a DGX H100 (NVIDIA's DGX H100 user guide).",
    ),
    Chip(
        "Google TPU v5e",
        197e12,
        {8: 50e9, 256: 50e9},
        "197 TFLOP/s and 1,600 Gb/s of interconnect per chip, over the four links of a 2D torus of up to 256 "
        "chips, so 50 GB/s for a link (Google Cloud's page on TPU v5e).",
    ),
)


class Step(NamedTuple):
    """Seconds of a step on one of several devices."""

    arithmetic: float
    ring: float
    hops: float

    @property
    def share(self) -> float:
        """Of the step that is communication, where nothing overlaps."""
        return (self.ring + self.hops) / (self.arithmetic + self.ring + self.hops)


def step_of(counts: Counts, defence: str, steps: int, chip: Chip, devices: int, images: int) -> Step:
    """By the formulas of the page."""
    size, _, small = counts.reduced[defence]
    return Step(
        arithmetic=images * counts.flops(defence, steps) / chip.peak,
        ring=2 * (devices - 1) / devices * size / chip.links[devices],
        hops=(small + 1) * 2 * math.log2(devices) * HOP,
    )


def images_for(counts: Counts, defence: str, steps: int, chip: Chip, devices: int, share: float) -> int:
    """The fewest images per device at which communication is at most this share of the step."""
    one = step_of(counts, defence, steps, chip, devices, 1)
    return math.ceil((one.ring + one.hops) * (1 - share) / share / one.arithmetic)
