"""Participants in turns, round by round, and what follows from their seconds."""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from benchmarks._speed.protocol import WorkerFailed

# Calls take so many seconds; a participant makes as many of them in a round as the caller asks for.
SecondsFn = Callable[[int], float]


class Clock(Protocol):
    """Says how many seconds of the budget are left."""

    @property
    def left(self) -> float: ...


def timed(run: Callable[[int], None]) -> SecondsFn:
    """The seconds that `run(calls)` takes."""

    def seconds(calls: int) -> float:
        start = time.perf_counter()
        run(calls)
        return time.perf_counter() - start

    return seconds


def in_turns(
    calls: Mapping[str, SecondsFn], rounds: int, round_seconds: float, clock: Clock, failed: dict[str, str]
) -> dict[str, list[float]]:
    """Seconds per call of each participant in each round; fewer rounds where the budget ends.

    One that fails takes no further turn and has no result; `failed` receives the reason.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    counts: dict[str, int] = {}

    def seconds(name: str, number: int) -> float | None:
        try:
            return calls[name](number)
        except WorkerFailed as error:
            failed[name] = str(error)
            del times[name]
            return None

    for name in calls:
        once = seconds(name, 1)
        if once is not None:
            counts[name] = max(1, round(round_seconds / max(once, 1e-4)))
    for at in range(rounds):
        if at and clock.left < 2 * round_seconds * len(times):
            break
        order = list(times)
        # The same order each time would let each always follow the same other.
        random.Random(at).shuffle(order)
        for name in order:
            found = seconds(name, counts[name])
            if found is not None:
                times[name].append(found / counts[name])
    return times


def summary(
    seconds: Sequence[float], prepared: float, batch: int, operations: int, peak: float | None
) -> dict[str, Any]:
    """Rates of a participant; `peak` in TFLOP/s, `prepared`: seconds before the first round."""
    middle = statistics.median(seconds)
    return {
        "seconds": list(seconds),
        "images_per_second": batch / middle,
        "images_per_second_range": [batch / max(seconds), batch / min(seconds)],
        "tflops": operations / middle / 1e12,
        "utilisation": None if peak is None else operations / middle / 1e12 / peak,
        "compile_seconds": round(prepared, 2),
    }


def ratios(times: Mapping[str, Sequence[float]], base: str) -> dict[str, dict[str, float]]:
    """How many times faster `base` is than each other, round by round: minimum, median, maximum.

    >>> ratios({"ours": [1.0, 2.0], "theirs": [3.0, 4.0]}, "ours")
    {'theirs': {'min': 2.0, 'median': 2.5, 'max': 3.0}}
    """
    found = {}
    for name, seconds in times.items():
        if name != base:
            each = [other / own for own, other in zip(times[base], seconds, strict=True)]
            found[name] = {"min": min(each), "median": statistics.median(each), "max": max(each)}
    return found
