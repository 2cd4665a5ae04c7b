"""One participant of the training benchmark: `python -m benchmarks._speed.train_worker FOLDER NAME`."""

import gc
import importlib
import importlib.metadata
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._parity import store
from benchmarks._parity.worker import source_digest
from benchmarks._speed import memory, train_cases
from benchmarks._speed.clock import per_call
from benchmarks._speed.protocol import serve

LEAST = 2.0
"""Seconds that a turn lasts at least."""

_MODULES = {
    train_cases.OURS: "train_ours",
    train_cases.STEP: "train_ours",
    train_cases.LIMITS: "train_limits",
    "pytorch": "train_pytorch",
    "pytorch_channels_last": "train_pytorch",
}
# With those that the others import by their package's name, which a digest does not follow.
_LIBRARY = {
    "jaxrobust.training.loop",
    "jaxrobust.training.optimizers",
    "jaxrobust.data.feed",
    "jaxrobust.models.remat",
    "jaxrobust.attacks.pgd",
    "jaxrobust.neighbourhoods.lp",
    "jaxrobust.models.small_cnn",
    "jaxrobust.models._build",
}


class Session:
    """A trainer in this process; its methods are what a coordinator asks."""

    def __init__(self, folder: Path, name: str):
        self._folder, self._name = folder, name
        self._module = importlib.import_module(f"benchmarks._speed.{_MODULES[name]}")
        self._step: Callable[[], object] | None = None
        self._programs: dict[str, Callable[[], object]] = {}

    def about(self, objective: str) -> dict[str, Any]:
        """Versions, and the digest of the code."""
        source = source_digest({self._module.__name__}, "benchmarks")
        if "jaxrobust" in self._module.PACKAGES:
            source += f"-{source_digest(_LIBRARY | {f'jaxrobust.objectives.{objective}'})}"
        versions = {name: importlib.metadata.version(name) for name in self._module.PACKAGES}
        return {"versions": {"python": platform.python_version(), **versions}, "source": source}

    def check(self, objective: str, settings: dict[str, Any], into: str) -> None:
        """Writes the weights after one step without any chance."""
        if self._name.startswith("pytorch"):
            trainer = self._trainer(objective, settings, fixed=True)
            trainer.step()
            found = trainer.parameters()
        else:
            found = self._module.check(objective, settings, self._folder)
        store.write_arrays(Path(into), **found)

    def prepare(self, objective: str, settings: dict[str, Any]) -> dict[str, Any]:
        """What the next runs are of; memory with the images and the weights in it."""
        if self._name == train_cases.LIMITS:
            self._programs = self._module.programs(objective, settings, self._folder)
        elif self._name.startswith("pytorch"):
            self._step = self._trainer(objective, settings).step
        else:
            make = self._module.update if self._name == train_cases.OURS else self._module.step
            self._step = make(objective, settings, self._folder)
        gc.collect()
        return {"resident": memory.resident()}

    def _trainer(self, objective: str, settings: dict[str, Any], **options: Any) -> Any:
        import torch

        layout = torch.channels_last if self._name.endswith("last") else torch.contiguous_format
        return self._module.Trainer(objective, settings, self._folder, layout=layout, **options)

    def run(self, least: float = LEAST) -> dict[str, Any]:
        """Seconds per step, of as many as fit in `least` seconds, one at least; of the limits per program."""
        if self._programs:
            each = least / len(self._programs)
            return {"seconds": {name: per_call(call, each)[0] for name, call in self._programs.items()}}
        assert self._step is not None
        is_reset = memory.reset_peak()
        seconds, calls = per_call(self._step, least)
        return {"seconds": seconds, "calls": calls, "peak": memory.peak(), "peak_of_run": is_reset}


if __name__ == "__main__":
    serve(Session(Path(sys.argv[1]), sys.argv[2]))
