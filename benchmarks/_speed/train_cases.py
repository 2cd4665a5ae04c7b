"""What is timed of training: objectives, batches, and the passes a step cannot do without."""

from dataclasses import dataclass
from typing import Any

OURS, STEP, LIMITS = "ours", "ours_step", "limits"
PARTICIPANTS = {
    OURS: "ours, the loop's update",
    STEP: "ours, the step alone",
    "pytorch": "PyTorch loop",
    "pytorch_channels_last": "PyTorch loop, channels last",
}
PYTORCH = ("pytorch", "pytorch_channels_last")
PASSES_BAR, PYTORCH_BAR = 1.15, 1.3
BARRED = "srt"


@dataclass(frozen=True, kw_only=True)
class Training:
    """One objective.

    Args:
        title: as the table calls it.
        labelled, unlabelled: rows of a batch.
        passes: lone passes of a step beside the input gradients of its attack, by the names in
            `train_limits`, each as often as a step needs it.
    """

    title: str
    labelled: int
    unlabelled: int
    passes: dict[str, int]

    def settings(self, *, toy: bool = False) -> dict[str, Any]:
        """All that decides the work of a step, the same for everybody."""
        labelled, unlabelled = self.labelled, self.unlabelled
        if toy:
            labelled, unlabelled = min(labelled, 4), min(unlabelled, 4)
        return {
            **_COMMON,
            "labelled": labelled,
            "unlabelled": unlabelled,
            "steps": 2 if toy else _COMMON["steps"],
        }


_COMMON = {
    "eps": 0.3,
    "steps": 10,
    "step": 0.1,
    "near": 0.001,
    "lam": 1.0,
    "beta": 6.0,
    "dropout": 0.5,
    "learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "num_labelled": 10_000,
    "num_unlabelled": 50_000,
}

# Batch 256, the source's proportion of labelled images, 10,000 of 60,000.
TRAININGS = {
    "at": Training(title="AT", labelled=256, unlabelled=0, passes={"weights_all": 1}),
    "trades": Training(title="TRADES", labelled=256, unlabelled=0, passes={"forward": 1, "weights_all": 2}),
    "srt": Training(
        title="SRT",
        labelled=43,
        unlabelled=213,
        passes={"forward": 1, "weights_labelled": 1, "weights_all": 1},
    ),
}


def passes(name: str, settings: dict[str, Any]) -> dict[str, int]:
    """How often a step needs each pass."""
    return {"input_gradient": settings["steps"], **TRAININGS[name].passes}
