"""Checks that the attacks share, made at construction."""

from typing import Any

from jaxrobust.types import Neighbourhood


def check_neighbourhood(value: Any) -> None:
    """Raises ValueError unless `value` is a neighbourhood (and not its class)."""
    if isinstance(value, type) or not isinstance(value, Neighbourhood):
        raise ValueError(f"Expected a neighbourhood, e.g. LInf(eps=8/255), got neighbourhood={value!r}.")
