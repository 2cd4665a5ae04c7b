"""SIGTERM as a flag that the loop reads between steps."""

import signal
import threading
from types import FrameType
from typing import Any


class Interrupted(Exception):
    """The run was told to stop and has saved its state.

    Attributes:
        step: the number of steps made.
        exit_code: 143 = 128 + SIGTERM, what the process should exit with, as if the signal had ended it.
    """

    exit_code = 128 + signal.SIGTERM

    def __init__(self, step: int, *, saved: bool):
        self.step = step
        ending = "saved; run the same command to go on." if saved else "nothing was saved."
        super().__init__(f"SIGTERM after step {step}, {ending}")


class Termination:
    """Inside this context SIGTERM only sets `received`; outside the main thread it changes nothing."""

    def __init__(self) -> None:
        self.received = False
        self._previous: Any = None

    def __enter__(self) -> "Termination":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
