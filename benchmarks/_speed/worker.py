"""One library in one process: `python -m benchmarks._speed.worker ROOT LIBRARY`, asked through a pipe."""

import gc
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
from benchmarks._parity.worker import source_digest
from benchmarks._speed import cases, memory, problem, sources
from benchmarks._speed.clock import per_call
from benchmarks._speed.protocol import serve

LEAST = 0.3
"""Seconds that a turn lasts at least: short attacks are repeated, for clocks and schedulers are coarse."""


class Session:
    """The library, and the model and the attack it is asked for; its methods are what a coordinator asks."""

    def __init__(self, root: Path, library: str):
        self._root, self._library = root, library
        self._side = importlib.import_module(f"benchmarks._speed.side_{library}")
        self._subject: Any = None
        self._problem: problem.Problem | None = None
        self._run: Callable[[int], Any] | None = None
        self._shape: tuple[int, ...] = ()
        self._last: Any = None

    def about(self, tasks: list[dict[str, Any]]) -> dict[str, Any]:
        """Versions, and for each task that the library has: what is called, and the digest of its code."""
        found = {}
        for task in tasks:
            entry = self._side.ATTACKS.get(task["case"])
            if entry is not None:
                source = self._source(entry, task)
                found[f"{task['model']}:{task['case']}"] = {"called": entry[0], "source": source}
        return {"versions": _versions(self._side.PACKAGES), "tasks": found}

    def _source(self, entry: tuple, task: dict[str, Any]) -> str:
        source = sources.of_entry(self._side, task["case"])
        if self._library == cases.OURS:
            attack = entry[1](task["eps"], task["settings"])
            module = problem.load(self._root, task["model"]).module
            source += f"-{sources.of_attack(attack, module, evaluated=self._side.evaluated(attack))}"
        return source

    def load(self, model: str) -> dict[str, Any]:
        """Model and images in memory; `has` is false where the library has no such model."""
        self._problem = problem.load(self._root, model)
        self._subject = self._side.load(self._problem)
        gc.collect()
        return {"has": self._subject is not None, "resident": memory.resident()}

    def prepare(self, case: str, count: int, eps: float, settings: dict[str, Any]) -> None:
        """The attack that the next runs are of, on the first images."""
        assert self._problem is not None
        self._shape = (count, *self._problem.image_shape)
        self._run = self._side.bound(self._subject, count, self._side.ATTACKS[case], eps, settings)

    def run(self, seed: int, least: float = LEAST) -> dict[str, Any]:
        """Runs it as often as fits in `least` seconds, once at least: seconds per call, and memory."""
        assert self._run is not None
        is_reset, total, cpu, calls = memory.reset_peak(), 0.0, time.process_time(), 0
        while calls == 0 or total < least:
            self._last = None
            self._side.seed_all(seed)
            began = time.perf_counter()
            self._last = self._run(seed)
            total += time.perf_counter() - began
            calls += 1
        return {
            "seconds": total / calls,
            "calls": calls,
            "cores": (time.process_time() - cpu) / total,
            "peak": memory.peak(),
            "peak_of_run": is_reset,
        }

    def save(self, path: str) -> None:
        """Writes the last run's images `[n, h, w, c]`; refuses any other shape."""
        images = self._side.to_numpy(self._last)
        if images.shape != self._shape:
            raise ValueError(f"It gave images {images.shape} instead of {self._shape}.")
        store.write_arrays(Path(path), images=images)

    def difference(self) -> float:
        """The largest difference of the logits of the clean images from those that were prepared."""
        assert self._problem is not None
        logits = self._side.logits(self._subject, self._problem.images)
        return float(np.abs(logits - self._problem.logits).max())

    def judge(self, paths: list[str], into: str) -> None:
        """Writes the predicted classes of the images in each file, by the file's name."""
        found = {}
        for path in map(Path, paths):
            found[path.stem] = self._side.logits(self._subject, store.read_arrays(path)["images"]).argmax(-1)
        store.write_arrays(Path(into), **found)


class Limits:
    """The bare passes of the library's model."""

    def __init__(self, root: Path):
        self._root = root
        self._side = importlib.import_module("benchmarks._speed.side_limits")
        self._subject: Any = None
        self._programs: dict[str, Callable[[], object]] = {}

    def about(self, tasks: list[dict[str, Any]]) -> dict[str, Any]:
        """As `Session.about`."""
        found = {}
        for task in tasks:
            if task["passes"] is not None:
                module = problem.load(self._root, task["model"]).module
                ours = source_digest(sources.of_model(module))
                source = f"{source_digest({self._side.__name__}, 'benchmarks')}-{ours}"
                found[f"{task['model']}:{task['case']}"] = {"called": "", "source": source}
        return {"versions": _versions(self._side.PACKAGES), "tasks": found}

    def load(self, model: str) -> dict[str, Any]:
        """As `Session.load`."""
        self._subject = self._side.load(problem.load(self._root, model))
        return {"has": True, "resident": memory.resident()}

    def prepare(self, case: str, count: int, eps: float, settings: dict[str, Any]) -> None:
        """The passes, on the first images."""
        self._programs = self._side.programs(self._subject, count)

    def run(self, seed: int, least: float = LEAST) -> dict[str, Any]:
        """Seconds of each program."""
        return {"seconds": {name: per_call(call, least)[0] for name, call in self._programs.items()}}


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "numpy": np.__version__, **found}


if __name__ == "__main__":
    given_root, given_library = Path(sys.argv[1]), sys.argv[2]
    is_limits = given_library == cases.LIMITS
    serve(Limits(given_root) if is_limits else Session(given_root, given_library))
