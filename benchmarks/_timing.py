"""Rivals timed in turns, so that a busy machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping


def in_turns(rivals: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each rival in each round, after one call each to compile; a call blocks until done."""
    for run in rivals.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def summary(times: Mapping[str, list[float]], reference: str) -> dict[str, dict[str, float]]:
    """Min, median and max, and the median over rounds of the ratio to the reference in the same round."""
    return {
        name: {
            "min_ms": round(min(values), 2),
            "median_ms": round(statistics.median(values), 2),
            "max_ms": round(max(values), 2),
            f"ratio_to_{reference}": round(
                statistics.median(v / r for v, r in zip(values, times[reference], strict=True)), 3
            ),
        }
        for name, values in times.items()
    }


def table(title: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """The summary as aligned text."""
    width = max(map(len, rows))
    columns = list(next(iter(rows.values())))
    lines = [title, " " * width + "".join(f"  {c:>14}" for c in columns)]
    lines += [f"{name:<{width}}" + "".join(f"  {row[c]:>14}" for c in columns) for name, row in rows.items()]
    return "\n".join(lines)
