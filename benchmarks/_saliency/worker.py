"""One side in a process: `python -m benchmarks._saliency.worker ROOT SIDE`."""

import importlib
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._parity import store
from benchmarks._saliency import cases
from benchmarks._speed import problem
from benchmarks._speed.clock import per_call
from benchmarks._speed.protocol import serve

LEAST = 2.0
"""Seconds that a turn lasts at least."""


class Session:
    """A side; its methods are what a coordinator asks."""

    def __init__(self, root: Path, side: str):
        self._root, self._side = root, side
        module = "side_captum" if side == cases.CAPTUM else "side_ours"
        self._module = importlib.import_module(f"benchmarks._saliency.{module}")
        self._run: Callable[[], np.ndarray] = lambda: np.zeros(0)

    def about(self) -> dict[str, str]:
        """Versions."""
        named = {name: importlib.metadata.version(name) for name in self._module.PACKAGES}
        return {"python": platform.python_version(), **named}

    def prepare(self, case: str, num: int, baseline: float, into: str) -> dict[str, Any]:
        """Makes the maps once, and keeps them in a file."""
        asked = problem.load(self._root, cases.MODEL, num)
        make = self._module.passes if self._side == cases.LIMIT else self._module.bound
        began = time.perf_counter()
        self._run = make(asked, case, baseline)
        maps = self._run()
        store.write_arrays(Path(into), maps=maps)
        return {"first_seconds": time.perf_counter() - began}

    def run(self, least: float = LEAST) -> dict[str, float]:
        """Seconds per call."""
        seconds, calls = per_call(self._run, least)
        return {"seconds": seconds, "calls": calls}


if __name__ == "__main__":
    serve(Session(Path(sys.argv[1]), sys.argv[2]))
