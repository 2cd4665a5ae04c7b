"""Checks that the attacks share, made at construction."""

from typing import Any

from jaxrobust.types import Ball, Neighbourhood


def check_neighbourhood(value: Any) -> None:
    """Raises ValueError unless `value` is a neighbourhood (and not its class)."""
    if isinstance(value, type) or not isinstance(value, Neighbourhood):
        raise ValueError(f"Expected a neighbourhood, e.g. LInf(eps=8/255), got neighbourhood={value!r}.")


def check_ball(value: Any, norms: tuple[float, ...]) -> None:
    """Raises ValueError unless `value` is a ball (or masked ball) of one of these norms."""
    known = {0: "L0(eps=10)", 1: "L1(eps=10.0)", 2: "L2(eps=0.5)", float("inf"): "LInf(eps=8/255)"}
    like = " or ".join(known[norm] for norm in norms)
    check_neighbourhood(value)
    if not isinstance(value, Ball) or value.norm not in norms:
        raise ValueError(f"Expected a ball like {like}, got neighbourhood={value!r}.")


def reads_mask(value: Any) -> bool:
    """Whether a neighbourhood in an attack is confined to `Example.mask`."""
    if getattr(value, "reads_mask", False):
        return True
    if isinstance(value, tuple):
        return any(reads_mask(part) for part in value)
    fields = getattr(value, "__dataclass_fields__", {})
    return any(reads_mask(getattr(value, name)) for name in fields)


def goals(attack: Any) -> set[bool]:
    """The values of `targeted` in an attack, or in the stages or members that it is made of."""
    parts = getattr(attack, "stages", ()) or getattr(attack, "attacks", ())
    if parts:
        return set().union(*(goals(part) for part in parts))
    return {bool(attack.targeted)} if hasattr(attack, "targeted") else set()
