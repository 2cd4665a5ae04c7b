"""Time per call."""

import time
from collections.abc import Callable


def per_call(call: Callable[[], object], least: float) -> tuple[float, int]:
    """Seconds per call, of as many calls as fit in `least` seconds, one at least; and how many."""
    began, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - began < least:
        call()
        calls += 1
    return (time.perf_counter() - began) / calls, calls
