"""PyTorch's process as the report sees it: started where it can be, started again where it was lost."""

import importlib.util
import os
import time
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
# To start PyTorch and make the nets again; with less than that left of the budget it is not worth while.
RESTART_SECONDS = 30.0


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
        # What can be measured in this process, and over what the last one was lost.
        self._ready: dict[str, Case] = {}
        self._lost_over = ""
        self._worker: Worker | None = None
        self.about = self._start(ANSWER_SECONDS)

    def _start(self, limit: float) -> dict[str, str]:
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
            about = self._worker.ask("about", limit=limit)
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
        """Readies a case; the seconds that it took, at most those that are left.

        Raises:
            WorkerFailed: where it cannot, or there is no time. A process that was lost is started again, but
                not for this form of this net: what took too long once would do so again.
        """
        key = (case.net, form)
        if self._worker is None or key in self._given_up:
            raise WorkerFailed(self._given_up.get(key, self.about.get("missing", "")))
        # What was compiled for another work of this net is mostly used again.
        least = self._prepared.get(key, 0.0) / 2
        if seconds_left <= least:
            raise WorkerFailed(f"left out: {max(seconds_left, 0.0):.0f} s of the budget were left")
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
        began, limit = time.monotonic(), min(ANSWER_SECONDS, seconds_left)
        try:
            answer = self._worker.ask("prepare", limit=limit, variant=form, case=what, images=str(images))
        except WorkerFailed as error:
            self._mend(form, case, error, seconds_left - (time.monotonic() - began))
            raise
        self._ready[form] = case
        self._prepared[key] = max(answer["seconds"], self._prepared.get(key, 0.0))
        return answer["seconds"]

    def measure(self, form: str, calls: int) -> float:
        """Seconds of so many calls.

        Raises:
            WorkerFailed: where it cannot, also because the process was lost over the other form.
        """
        if self._worker is None or form not in self._ready:
            raise WorkerFailed(f"its process was lost: {self._lost_over}")
        try:
            return self._worker.ask("measure", variant=form, calls=calls)
        except WorkerFailed as error:
            self._mend(form, self._ready[form], error, ANSWER_SECONDS)
            raise

    def release(self) -> int | None:
        """Gives the case's memory back; the most bytes that were held, None where nobody knows."""
        self._ready.clear()
        if self._worker is None:
            return None
        try:
            return self._worker.ask("release")["peak_bytes"]
        except WorkerFailed:
            self._restart(ANSWER_SECONDS)
            return None

    def _mend(self, form: str, case: Case, error: WorkerFailed, seconds_left: float) -> None:
        """Starts the process again if it is gone; one that ran out of memory still answers."""
        assert self._worker is not None
        try:
            self._worker.ask("ping")
        except WorkerFailed:
            self._lost_over = f"{error} (at {case.name}, {form})"
            self._given_up[case.net, form] = self._lost_over
            self._restart(seconds_left)

    def _restart(self, seconds: float) -> None:
        """A new process with the same nets, where there is time for it; nothing is ready in it."""
        self._ready.clear()
        self.end()
        if seconds < RESTART_SECONDS:
            self.about = {"missing": f"its process was lost: {self._lost_over}"}
            return
        self.about = self._start(min(ANSWER_SECONDS, seconds))
        try:
            for made in self._made.values() if self._worker is not None else ():
                self._worker.ask("make", **made)
        except WorkerFailed as error:
            self.end()
            self.about = {"missing": f"PyTorch does not start again: {error}."}

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
