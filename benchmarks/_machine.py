"""What the benchmarks run on, as far as the system says."""

import os
import platform
from pathlib import Path


def hardware() -> str:
    """Processor and cores."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores"


def load() -> float:
    """How many processes have wanted to run, on average over the last minute."""
    return round(os.getloadavg()[0], 2)


def environment() -> dict[str, str]:
    """The variables that change how fast programs run, where they are set."""
    return {name: os.environ[name] for name in ("XLA_FLAGS", "OMP_NUM_THREADS") if os.environ.get(name)}
