"""Work on several devices at once: a process a device, all of which end when the command does.

Of CPUs a process has a share of the cores.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from multiprocessing import connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, TypeVar

from jaxrobust.training import Interrupted

Task = TypeVar("Task")
Found = TypeVar("Found")

VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS")
"""By which a process sees the one device that it is given."""

# A step of training and its checkpoint, which SIGTERM waits for.
_GRACE_SECONDS = 60


def each(
    tasks: Sequence[Task],
    work_fn: Callable[..., Found],
    jobs: int,
    *,
    log_fn: Callable[[object], None],
    name_fn: Callable[[Task], str],
    done_fn: Callable[[Task, Found], None],
) -> None:
    """`work_fn(task, log_fn=...)` of every task: here one after the other, or `jobs` at once by `on_devices`.

    Of several at once the lines would tell nobody anything: then only an error's text is said, with the name.
    """
    if jobs == 1:
        for task in tasks:
            done_fn(task, work_fn(task, log_fn=log_fn))
        return
    quiet = functools.partial(work_fn, log_fn=_silent)

    def failed_fn(task: Task, text: str) -> None:
        log_fn(f"{name_fn(task)}: {text}")

    on_devices(tasks, quiet, jobs, done_fn=done_fn, failed_fn=failed_fn)


def _silent(text: object) -> None:
    """Says nothing."""


def check_jobs(jobs: int, platform: str, count: int) -> None:
    """Raises ValueError for more jobs than accelerators: JAX would give the others the CPU unsaid."""
    if platform != "cpu" and jobs > count:
        raise ValueError(
            f"Expected jobs <= {count}, as many as there are {platform} devices, got jobs={jobs}. "
            "Each model trains on a device of its own."
        )


def devices() -> tuple[str, int]:
    """The platform and its local devices, seen by a process of its own: who looks holds an accelerator."""
    found: list[tuple[str, int]] = []
    on_devices([None], _devices, 1, done_fn=lambda task, answer: found.append(answer))
    return found[0]


def _devices(task: None) -> tuple[str, int]:
    import jax

    return jax.default_backend(), jax.local_device_count()


def on_devices(
    tasks: Sequence[Task],
    work_fn: Callable[[Task], Found],
    count: int,
    *,
    done_fn: Callable[[Task, Found], None],
    failed_fn: Callable[[Task, str], None] = lambda task, text: None,
) -> None:
    """`work_fn(task)` of every task, each process on a device of its own and on its share of the cores.

    Args:
        tasks, work_fn: what pickle takes.
        count: processes at once.
        done_fn: called in this process with the task and what it gave, in the order in which they end.
        failed_fn: called with the task and the error's text as soon as there is one, before the other
            processes are told to stop.

    Raises:
        ValueError: where a task raised ValueError or OSError; RuntimeError with the traceback for any other
            error. The others are sent SIGTERM, upon which training saves its state.
        SystemExit: 143 after SIGTERM to this process, which is passed on to the others.
    """
    left = list(tasks)
    count = min(count, len(left))
    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    busy: dict[connection.Connection, Task] = {}
    with _stopping(processes):
        for place in range(count):
            ours, process = _start(context, work_fn, (place, count) if count > 1 else None)
            processes.append(process)
            busy[ours] = left.pop(0)
            ours.send(busy[ours])
        while busy:
            for ready in connection.wait(list(busy)):
                assert isinstance(ready, connection.Connection)
                task = busy.pop(ready)
                try:
                    found, text, is_plain = ready.recv()
                except EOFError:
                    text, is_plain = "its process ended without a word: killed, or out of memory", True
                if text is not None:
                    failed_fn(task, text)
                    raise ValueError(text) if is_plain else RuntimeError(text)
                if left:
                    busy[ready] = left.pop(0)
                    ready.send(busy[ready])
                done_fn(task, found)


def _start(
    context: SpawnContext, work_fn: Callable, place: tuple[int, int] | None
) -> tuple[connection.Connection, SpawnProcess]:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work_fn, place), daemon=True)
    process.start()
    # Only the process holds its end now, so that its death is seen.
    theirs.close()
    return ours, process


@contextlib.contextmanager
def _stopping(processes: Sequence[SpawnProcess]) -> Iterator[None]:
    """SIGTERM ends this block, and the processes end with it."""

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    in_main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(signal.SIGTERM, stop) if in_main else None
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_GRACE_SECONDS)
            process.kill()
        if in_main:
            signal.signal(signal.SIGTERM, previous)


def _serve(pipe: connection.Connection, work_fn: Callable, place: tuple[int, int] | None) -> None:
    """The life of a process: tasks in; results or errors, which need not be picklable, out."""
    # Ctrl-C reaches every process of a terminal; the first one tells this one to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if place is not None:
        take_device(place[0], os.environ)
        take_cores(*place)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((work_fn(task), None, True))
        except Interrupted:
            return
        except (ValueError, OSError) as error:
            pipe.send((None, str(error), True))
        except Exception:
            pipe.send((None, traceback.format_exc(), False))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def take_device(place: int, environment: MutableMapping[str, str]) -> None:
    """Leaves a process one device of those that its parent saw, before JAX looks for them.

    >>> environment = {"CUDA_VISIBLE_DEVICES": "4,7"}
    >>> take_device(1, environment)
    >>> environment["CUDA_VISIBLE_DEVICES"]
    '7'
    """
    for name in VISIBLE:
        given = [one.strip() for one in environment.get(name, "").split(",") if one.strip()]
        if name not in environment:
            environment[name] = str(place)
        elif place < len(given):
            environment[name] = given[place]


def take_cores(place: int, count: int) -> None:
    """Leaves a process its share of the cores, before JAX makes a thread for each.

    On CPU two processes of one core each do more than one, or two that share both: passes of a small net wait
    for the slower thread (PGD of SmallCNN, 128 images, two cores: 62 to 79 ms a step alone, 91 to 104 each of
    two at once with a core of its own). Where the system has no affinity, or fewer cores than processes,
    nothing is done.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= count:
        os.sched_setaffinity(0, cores[place::count])
