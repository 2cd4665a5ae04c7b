"""PyTorch's process as the report sees it: started where it can be, started again where it was lost."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._gpu import cases
from benchmarks._gpu.cases import Case
from benchmarks._gpu.programs import LEARNING_RATE, Data
from benchmarks._speed.protocol import Worker, WorkerFailed

ROOT = Path(__file__).resolve().parents[2]
# Of one answer: torch.compile of a wide net takes minutes on a slow host.
ANSWER_SECONDS = 240.0


def _with_root(path: str | None) -> str:
    """PYTHONPATH with this checkout first; the rest stays, as PyTorch may be found by it.

    >>> _with_root("/there").endswith(f"{os.pathsep}/there"), os.pathsep in _with_root(None)
    (True, False)
    """
    return os.pathsep.join([str(ROOT), *([path] if path else [])])


class Rival:
    """The other side of the comparison.

    Args:
        forms: `eager`, `compile` or both; none leaves PyTorch out.
        folder: for its log and for what both sides read.
        on_cpu: whether a PyTorch without CUDA will do.
    """

    def __init__(self, forms: list[str], folder: Path, *, on_cpu: bool):
        self.forms, self._folder, self._on_cpu = forms, folder, on_cpu
        self._made: dict[str, dict[str, Any]] = {}
        self._prepared: dict[tuple[str, str], float] = {}
        self._given_up: dict[tuple[str, str], str] = {}
        self._worker: Worker | None = None
        self.about = self._start()

    def _start(self) -> dict[str, str]:
        """What it says of itself, or `missing`: why it is not there."""
        if not self.forms:
            return {"missing": "Left out (--torch none)."}
        if importlib.util.find_spec("torch") is None:
            return {"missing": "PyTorch is not installed here, so there is nothing to compare with."}
        self._worker = Worker(
            "benchmarks._gpu.torch_side",
            log=self._folder / "torch.log",
            limit=ANSWER_SECONDS,
            environment={"PYTHONPATH": _with_root(os.environ.get("PYTHONPATH"))},
        )
        try:
            about = self._worker.ask("about")
        except WorkerFailed as error:
            about = {"missing": f"PyTorch does not start: {error}."}
        if about.get("device") == "cpu" and not self._on_cpu:
            about = {"missing": f"PyTorch {about['version']} is installed here without CUDA."}
        if "missing" in about:
            self.close()
        return about

    @property
    def is_there(self) -> bool:
        return self._worker is not None

    def make(self, net: str, fields: dict[str, Any], images: np.ndarray) -> tuple[np.ndarray, Path]:
        """Its logits for images `[b, h, w, c]` with new weights, and the file that has these."""
        assert self._worker is not None
        file = self._folder / f"{net}.npz"
        self._made[net] = {"net": net, "fields": fields, "images": images.tolist(), "file": str(file)}
        return np.array(self._worker.ask("make", **self._made[net]), np.float32), file

    def prepare(self, form: str, case: Case, data: Data, seconds_left: float) -> float:
        """Readies a case; the seconds that it took.

        Raises:
            WorkerFailed: where it cannot, or there is no time. A process that was lost is started again, but
                not for this form of this net: what took too long once would do so again.
        """
        key = (case.net, form)
        if self._worker is None or key in self._given_up:
            raise WorkerFailed(self._given_up.get(key, self.about.get("missing", "")))
        # What was compiled for another work of this net is mostly used again.
        least = self._prepared.get(key, 0.0) / 2
        if seconds_left < least:
            raise WorkerFailed(f"left out: {seconds_left:.0f} s of the budget were left")
        images = self._folder / "images.npz"
        np.savez(images, **data._asdict())
        what = {
            "net": case.net,
            "work": case.work,
            "precision": case.precision.value,
            "steps": case.steps,
            "labelled": case.labelled,
            "eps": cases.EPS,
            "step_size": cases.STEP_SIZE,
            "learning_rate": LEARNING_RATE,
        }
        try:
            seconds = self._worker.ask("prepare", variant=form, case=what, images=str(images))["seconds"]
        except WorkerFailed as error:
            if self._is_lost():
                self._given_up[key] = f"{error} (at {case.name})"
                self._restart()
            raise
        self._prepared[key] = max(seconds, self._prepared.get(key, 0.0))
        return seconds

    def measure(self, form: str, calls: int) -> float:
        """Seconds of so many calls."""
        assert self._worker is not None
        return self._worker.ask("measure", variant=form, calls=calls)

    def release(self) -> int | None:
        """Gives the case's memory back; the most bytes that were held."""
        if self._worker is None:
            return None
        return self._worker.ask("release")["peak_bytes"]

    def _is_lost(self) -> bool:
        """Whether the process is gone; one that ran out of memory still answers."""
        try:
            self._worker.ask("release")
        except WorkerFailed:
            return True
        return False

    def _restart(self) -> None:
        """A new process with the same nets."""
        self.end()
        self.about = self._start()
        for made in self._made.values() if self._worker is not None else ():
            self._worker.ask("make", **made)

    def close(self) -> None:
        """Lets the process end."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def end(self) -> None:
        """Ends the process at once, whatever it is doing."""
        if self._worker is not None:
            self._worker.kill()
            self.close()
