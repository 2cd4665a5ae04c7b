"""A worker process at the other end of a pipe: one JSON object a line, question and answer. Neither JAX nor
PyTorch."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

SECONDS = 3600.0


class WorkerFailed(RuntimeError):
    """The worker answered with an error, ended, or took longer than it may."""


class Worker:
    """A process that waits for questions and is idle between them.

    Args:
        module: what is run, as `python -m module arguments`.
        arguments: its command line.
        log: where its standard error goes, and what libraries print.
        limit: seconds that one answer may take; then the process is ended.
        environment: variables set for it.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        log: Path,
        limit: float = SECONDS,
        environment: dict[str, str] | None = None,
    ):
        self._limit, self._log = limit, log
        log.parent.mkdir(parents=True, exist_ok=True)
        # A compilation that was kept from an earlier run would look like a fast compiler, and one without
        # optimisation, as tests have it, like slow code.
        settled = {
            "PYTHONWARNINGS": "ignore",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "false",
        }
        with log.open("a") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                env=os.environ | settled | (environment or {}),
            )

    def ask(self, verb: str, /, *, limit: float | None = None, **what: Any) -> Any:
        """Calls `verb(**what)` over there and waits for the answer.

        Args:
            verb, what: the question.
            limit: seconds for this answer, in place of the worker's own limit.

        Raises:
            WorkerFailed: where it raised, ended, or took longer than the limit.
        """
        limit = self._limit if limit is None else limit
        assert self._process.stdin is not None and self._process.stdout is not None
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self._process.kill()

        timer = threading.Timer(limit, expire)
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"verb": verb, "what": what}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if expired.is_set():
            raise WorkerFailed(f"took longer than {limit:.3g} s over {verb!r} and was ended")
        if not line:
            status = self._process.wait()
            raise WorkerFailed(f"ended with status {status} during {verb!r}; see {self._log.name}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer["value"]

    def kill(self) -> None:
        """Ends the process at once, whatever it is doing."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Ends the process; harmless where it has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def serve(session: Any) -> None:
    """The worker's end: answers with what `session`'s methods return, until the pipe is closed."""
    # Libraries print; the pipe must carry answers only.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = {"value": getattr(session, question["verb"])(**question["what"])}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".replace(os.getcwd(), ".")[:500]}
        channel.write(json.dumps(answer) + "\n")
        channel.flush()
