"""What is measured: nets, work and precisions, and the operations that each needs."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import flax.linen as nn

from benchmarks._gpu import flops
from jaxrobust.models import PreActResNet18, Precision, SmallCNN, WideResNet

EPS, STEP_SIZE, TRAIN_STEPS = 8 / 255, 2 / 255, 10
LABELLED_SHARE = 5  # One image in five of an SRT step has a label, as in the paper's batches.
EVALUATION, TRAINING, SEARCH = ("pgd20",), ("at", "srt"), ("grid775", "apgd")


class Net(NamedTuple):
    """A net with the size of its images and batches.

    `seconds`: what compiling and timing one case takes on a GPU, roughly, until one has been measured.
    """

    module: nn.Module
    image_shape: tuple[int, int, int]
    batch: int
    seconds: float


class Case(NamedTuple):
    """One measurement: `net:work:precision`."""

    net: str
    work: str
    precision: Precision
    batch: int
    steps: int

    @property
    def name(self) -> str:
        return f"{self.net}:{self.work}:{self.precision.value}"

    @property
    def labelled(self) -> int:
        """How many of the batch have a label."""
        return max(1, self.batch // LABELLED_SHARE) if self.work == "srt" else self.batch


def nets(options: Any) -> dict[str, Net]:
    """The nets; `--tiny` has small ones of the same kinds."""
    if options.tiny:
        return {
            "preact": Net(PreActResNet18(width=4), (8, 8, 3), 10, 1.0),
            "wrn": Net(WideResNet(depth=10, widen_factor=1), (8, 8, 3), 10, 1.0),
            "small_cnn": Net(SmallCNN(widths=(4, 4), hidden=8), (16, 16, 1), 4, 1.0),
        }
    return {
        "preact": Net(PreActResNet18(), (32, 32, 3), options.preact_batch, 45.0),
        "wrn": Net(WideResNet(depth=34, widen_factor=10), (32, 32, 3), options.wrn_batch, 100.0),
        "small_cnn": Net(SmallCNN(), (28, 28, 1), options.small_cnn_batch, 25.0),
    }


def every(options: Any) -> list[Case]:
    """All cases, what matters most first: a budget cuts off the end."""
    found = []
    for precision in (Precision.BF16, Precision.FLOAT32):
        for work in ("at", "pgd20", "srt", *SEARCH):
            for name, net in nets(options).items():
                if (work in SEARCH) == (name == "small_cnn"):
                    found.append(Case(name, work, precision, net.batch, _steps(work, options.tiny)))
    return [case for case in found if selected(case.name, options.only)]


def _steps(work: str, tiny: bool) -> int:
    if tiny:
        return 2
    return {"pgd20": 20, "at": TRAIN_STEPS, "srt": TRAIN_STEPS, "grid775": 775, "apgd": 100}[work]


def selected(name: str, patterns: Sequence[str]) -> bool:
    """Whether a case is asked for; a pattern may leave out its last parts.

    >>> selected("wrn:at:bf16", ["wrn"]), selected("wrn:at:bf16", ["*:srt"])
    (True, False)
    """
    return not patterns or any(fnmatchcase(name, one) or fnmatchcase(name, f"{one}:*") for one in patterns)


def operations(case: Case, needs: flops.Passes) -> int:
    """The operations of one call on the whole batch, from those of the passes for one image."""
    climbed = case.steps * needs.image_gradient
    if case.work == "pgd20":
        return case.batch * climbed
    if case.work == "at":
        return case.batch * (climbed + needs.weight_gradient)
    if case.work == "srt":
        # The prediction that the attack leads away from; and two passes with gradients, one of them of the
        # labelled images alone.
        every_image = needs.forward + climbed + needs.weight_gradient
        return case.batch * every_image + case.labelled * needs.weight_gradient
    if case.work == "grid775":
        return case.batch * case.steps * needs.forward
    # APGD scores its last iterate too.
    return case.batch * (climbed + needs.forward)
