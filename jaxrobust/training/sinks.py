"""Where metrics go while a run trains; a resumed run leaves the same rows as one that was never stopped."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


class Sink(Protocol):
    """Receives rows of scalars. `fit` calls `rewind` once, before the first row."""

    def rewind(self, step: int) -> None:
        """Forgets every row after `step`, 0 for a new run."""
        ...

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds one row."""
        ...

    def close(self) -> None:
        """Flushes and closes."""
        ...


class JsonLines:
    """One JSON object a line, `{"step": ..., name: value, ...}`, flushed at once.

    `rewind` drops the rows after the restored step, and a last line that a kill cut short.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = Path(path)
        self._file: TextIO | None = None

    def rewind(self, step: int) -> None:
        """See `Sink`; the file is replaced atomically."""
        self.close()
        kept = [line for line in self._lines() if _step_of(line) <= step]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.write_text("".join(kept), encoding="utf-8")
        os.replace(fresh, self._path)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Sink`."""
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """See `Sink`; a later `write` opens the file again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _lines(self) -> list[str]:
        if not self._path.exists():
            return []
        return self._path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)


def _step_of(line: str) -> float:
    """The step of a row; later than any for a line cut short."""
    try:
        return int(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


class TensorBoard:
    """Event files for TensorBoard; after `rewind` it hides the events of later steps."""

    def __init__(self, directory: str | os.PathLike):
        self._directory = Path(directory)
        self._purge_step: int | None = None
        self._writer: SummaryWriter | None = None

    def rewind(self, step: int) -> None:
        """See `Sink`."""
        self.close()
        self._purge_step = step + 1

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Sink`."""
        if self._writer is None:
            # Late, so that a machine without TensorBoard can train.
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self._directory), purge_step=self._purge_step)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Sink`."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


SINKS = {"jsonl": JsonLines, "tensorboard": TensorBoard}
