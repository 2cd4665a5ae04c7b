"""What a person sees of a run: a bar with rate and time left on a terminal, a line per row elsewhere."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("-- steps/s" if speed is None else f"{speed:.1f} steps/s")


class Display:
    """Progress on standard error."""

    def __init__(self, num_steps: int, start: int, *, enabled: bool, console: Console | None = None):
        self._console = console or Console(stderr=True)
        self._enabled, self._num_steps, self._start = enabled, num_steps, start
        self._began = time.monotonic()
        self._bar = None
        if enabled and self._console.is_terminal:
            columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), _Rate(), TimeElapsedColumn())
            self._bar = Progress(
                *columns,
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[row]}"),
                console=self._console,
            )
            self._task = self._bar.add_task("train", total=num_steps, completed=start, row="")
            self._bar.start()

    def advance(self, step: int) -> None:
        """Moves the bar."""
        if self._bar:
            self._bar.update(self._task, completed=step)

    def row(self, step: int, metrics: Mapping[str, float]) -> None:
        """Shows a row of metrics."""
        if not self._enabled:
            return
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if self._bar:
            self._bar.update(self._task, row=shown)
            return
        rate = (step - self._start) / max(time.monotonic() - self._began, 1e-9)
        left = (self._num_steps - step) / max(rate, 1e-9)
        self._console.print(
            f"step {step}/{self._num_steps}  {shown}  {rate:.1f} steps/s  {left:.0f} s left",
            soft_wrap=True,
            highlight=False,
        )

    def close(self) -> None:
        """Leaves the last state of the bar on the screen."""
        if self._bar:
            self._bar.stop()
