"""Dynamic batching: rows that wait together share a pass, in one thread that alone talks to the device."""

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxrobust.serving.logs import log
from jaxrobust.serving.problems import Problem, overloaded

PATIENCE = 30.0
"""Seconds after which an image that waits, for a decoder or for the device, is not looked at any more: its
client has hardly waited as well."""
# Of the bytes of bodies that may be read at once; behind a proxy all come from one address.
_SHARE_OF_AN_ADDRESS = 0.5


class _Waiting(NamedTuple):
    row: Any
    future: asyncio.Future
    since: float


class Batcher:
    """Queues of rows by the program that they are for; those that are full or due take turns.

    A row waits at most `max_wait` seconds for others while the device is idle; while it is busy, the queue
    fills by itself. In turns, a quick program waits for one pass of a slow one, not for all that are queued.
    The queues are bounded by `Admission`, through which every row has come; a row that waits longer than 30 s
    is answered by 429. A batch that fails is run again row by row: one row does not fail the others.

    Args:
        run_fn: `(name, rows) -> answers`, called in the batcher's thread.
        most: rows in one call, by name.
        max_wait: seconds.
    """

    def __init__(
        self,
        run_fn: Callable[[str, Sequence[Any]], Sequence[Any]],
        most: Mapping[str, int],
        max_wait: float,
    ):
        self._run_fn, self._most, self._max_wait = run_fn, dict(most), max_wait
        self._queues: dict[str, deque[_Waiting]] = {name: deque() for name in most}
        # When each program ran last, counted in passes.
        self._turns = dict.fromkeys(most, 0)
        self._ready = threading.Condition()
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)
        self._thread.start()

    def submit(self, name: str, row: Any) -> asyncio.Future:
        """The row's answer, to be awaited; called in the event loop's thread."""
        future = self._loop.create_future()
        with self._ready:
            if self._closing:
                raise RuntimeError("The batcher is closed.")
            self._queues[name].append(_Waiting(row, future, time.monotonic()))
            self._ready.notify()
        return future

    async def close(self) -> None:
        """Answers what is queued, then ends the thread."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            name, waiting = taken
            # Those of a request that has failed already.
            waiting = [one for one in waiting if not one.future.cancelled()]
            oldest = time.monotonic() - PATIENCE
            late = [one for one in waiting if one.since < oldest]
            waiting = [one for one in waiting if one.since >= oldest]
            error = waited()
            self._loop.call_soon_threadsafe(_deliver, late, [error] * len(late))
            if waiting:
                found = self._answers(name, waiting)
                self._loop.call_soon_threadsafe(_deliver, waiting, found)

    def _answers(self, name: str, waiting: list[_Waiting]) -> Sequence[Any]:
        """Of a batch: each row's answer, or the error that it gets instead."""
        try:
            found = list(self._run_fn(name, [one.row for one in waiting]))
            assert len(found) == len(waiting)
            return found
        # Whatever happens to a batch, its callers hear of it and the next one is taken.
        except BaseException as error:
            if len(waiting) == 1:
                return [error]
            log("batch failed", level=logging.WARNING, error=error, program=name, rows=len(waiting))
            return [answer for one in waiting for answer in self._answers(name, [one])]

    def _take(self) -> tuple[str, list[_Waiting]] | None:
        """The next batch, waited for; None once closed and empty."""
        with self._ready:
            while True:
                heads = {name: queue[0].since for name, queue in self._queues.items() if queue}
                if not heads and self._closing:
                    return None
                now = time.monotonic()
                due = [
                    name
                    for name, since in heads.items()
                    if self._closing
                    or len(self._queues[name]) >= self._most[name]
                    or since + self._max_wait <= now
                ]
                if due:
                    name = min(due, key=lambda one: (self._turns[one], heads[one]))
                    self._turns[name] = max(self._turns.values()) + 1
                    queue = self._queues[name]
                    return name, [queue.popleft() for _ in range(min(len(queue), self._most[name]))]
                self._ready.wait(min(heads.values()) + self._max_wait - now if heads else None)


def waited() -> Problem:
    """429 for an image that waited too long."""
    return overloaded(f"The image waited for over {PATIENCE:g} s. Try again later, or ask for less.")


def _deliver(waiting: Sequence[_Waiting], answers: Sequence[Any]) -> None:
    for one, answer in zip(waiting, answers):
        if one.future.cancelled():
            continue
        if isinstance(answer, BaseException):
            one.future.set_exception(answer)
        else:
            one.future.set_result(answer)


class Admission:
    """Counts of what is in the house; used in the event loop alone.

    Args:
        max_images: accepted and not answered.
        max_bytes: of bodies that are read or decoded; of one address half of them.
    """

    def __init__(self, max_images: int, max_bytes: int):
        self.max_images, self.max_bytes = max_images, max_bytes
        self.images = self.bytes = 0
        self._by_address: Counter[str] = Counter()

    def enter(self, num: int) -> None:
        """Holds room for images, or 429."""
        self.check(num)
        self.images += num

    def check(self, num: int = 1) -> None:
        """429 where there is no room for so many images."""
        if self.images + num > self.max_images:
            raise overloaded(
                f"{self.images} images wait for an answer, the limit is {self.max_images}. Try again later."
            )

    def hold(self, num: int, address: str = "") -> None:
        """Room for bytes from an address, or 429."""
        own, most = self._by_address[address] + num, int(_SHARE_OF_AN_ADDRESS * self.max_bytes)
        if self.bytes + num > self.max_bytes or (address and own > most):
            raise overloaded(
                f"Bodies of {self.bytes:,} bytes are being read, the limit is {self.max_bytes:,}, of one "
                f"address {most:,}. Try later."
            )
        self.bytes += num
        self._by_address[address] = own

    def give_back(self, num: int, address: str = "") -> None:
        """Bytes that are not held any more."""
        self.bytes -= num
        self._by_address[address] -= num
        if not self._by_address[address]:
            del self._by_address[address]


class Ticket:
    """What one request holds of an `Admission`; a context that gives it back.

    A full house says so before a body is read; room for images is held from when they are there, so that who
    does not send them holds none.
    """

    def __init__(self, admission: Admission, address: str = ""):
        self._admission, self._address = admission, address
        self._images = self._bytes = 0

    def __enter__(self) -> "Ticket":
        self._admission.check()
        return self

    def images(self, num: int) -> None:
        """Holds `num` images in all."""
        self._admission.enter(num - self._images)
        self._images = num

    def bytes(self, num: int) -> None:
        """Holds `num` bytes more."""
        self._admission.hold(num, self._address)
        self._bytes += num

    def decoded(self) -> None:
        """The bodies are gone."""
        self._admission.give_back(self._bytes, self._address)
        self._bytes = 0

    def __exit__(self, *_: Any) -> None:
        self._admission.images -= self._images
        self._images = 0
        self.decoded()
