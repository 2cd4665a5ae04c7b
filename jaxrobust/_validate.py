"""Argument checks, made when a component is constructed, before any compilation.

Each message names the value, the bound and the cure. Traced values pass: they come from `scaled`, whose
untraced original was checked.
"""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

T = TypeVar("T")


def _is_concrete(value: Any) -> bool:
    return not isinstance(value, jax.core.Tracer)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool | np.bool_):
        raise ValueError(f"Expected {name} to be a number, got {name}={value}.")
    # Arrays make a configuration unhashable; `scaled` outside jit gives scalars of JAX, which may pass.
    if isinstance(value, np.ndarray) or (isinstance(value, jax.Array) and value.ndim):
        raise ValueError(f"Expected {name} to be a Python number, got an array of shape {value.shape}.")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"Expected {name} to be a number, got {value!r}.") from None
    if not math.isfinite(number):
        raise ValueError(f"Expected a finite {name}, got {name}={value}.")
    return number


def positive(name: str, value: Any, hint: str = "") -> None:
    """Raises ValueError unless value > 0."""
    if _is_concrete(value) and not _number(name, value) > 0:
        raise ValueError(f"Expected {name} > 0, got {name}={value}. {hint}".rstrip())


def non_negative(name: str, value: Any, hint: str = "") -> None:
    """Raises ValueError unless value >= 0."""
    if _is_concrete(value) and not _number(name, value) >= 0:
        raise ValueError(f"Expected {name} >= 0, got {name}={value}. {hint}".rstrip())


def within(name: str, value: Any, low: float, high: float, hint: str = "") -> None:
    """Raises ValueError unless low <= value <= high."""
    if _is_concrete(value) and not low <= _number(name, value) <= high:
        raise ValueError(f"Expected {low} <= {name} <= {high}, got {name}={value}. {hint}".rstrip())


def decay(name: str, value: Any, hint: str = "") -> None:
    """Raises ValueError unless 0 <= value < 1: a decay of 1 would keep the first value for ever."""
    if _is_concrete(value) and not 0 <= _number(name, value) < 1:
        raise ValueError(f"Expected 0 <= {name} < 1, got {name}={value}. {hint}".rstrip())


def at_least(name: str, value: Any, low: int, hint: str = "") -> None:
    """Raises ValueError unless value is an integer >= low."""
    if not _is_concrete(value):
        return
    if isinstance(value, bool | np.ndarray | jax.Array) or not hasattr(value, "__index__"):
        raise ValueError(f"Expected an integer {name}, got {name}={value!r}. {hint}".rstrip())
    if value < low:
        raise ValueError(f"Expected {name} >= {low}, got {name}={value}. {hint}".rstrip())


def nearest_multiples(value: int, of: int) -> str:
    """The end of a message about a number that should be a multiple of another.

    >>> nearest_multiples(13, 8), nearest_multiples(3, 8)
    ('Nearest that can: 8 or 16.', 'Nearest that can: 8.')
    """
    down, up = value // of * of, -(-value // of) * of
    return f"Nearest that can: {' or '.join(str(n) for n in (down, up) if n)}."


def member(kind: str, name: str, table: Mapping[str, T]) -> T:
    """Looks `name` up in a registry; an unknown name lists the known ones."""
    if name not in table:
        near = difflib.get_close_matches(str(name), table, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"Unknown {kind} {name!r}. Known: {listing(table)}.{guess}")
    return table[name]


def listing(names: Iterable[str]) -> str:
    """Names, sorted and joined, for a message."""
    return ", ".join(sorted(names))
