"""The memory of this process as Linux counts it, in bytes; 0 where it does not say."""

from pathlib import Path

_STATUS = Path("/proc/self/status")


def _field(name: str) -> int:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return 0
    found = [line.split()[1] for line in lines if line.startswith(name)]
    return 1024 * int(found[0]) if found else 0


def resident() -> int:
    """What is in memory now."""
    return _field("VmRSS:")


def peak() -> int:
    """The most that was in memory since the start, or since `reset_peak`."""
    return _field("VmHWM:")


def reset_peak() -> bool:
    """Forgets the peak so far; False where the system does not allow it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
