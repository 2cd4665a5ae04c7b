"""Query parameters, read strictly: an unknown or repeated one is an error, not a silence."""

import math
from collections.abc import Callable
from typing import Any

from starlette.requests import Request

from jaxrobust.serving.problems import Problem, parameter
from jaxrobust.serving.service import Asked

MAX_ANGLE = 180.0


def asked(request: Request, image_shape: tuple[int, int, int], *also: str) -> tuple[Asked, dict[str, Any]]:
    """What a request asks of an image, and the values of the further parameters `also`.

    Args:
        request: its query is read.
        image_shape: shifts reach from one border to the other.
        also: of `class` and `prepared`.
    """
    height, width, _ = image_shape
    readers: dict[str, Callable[[str, str], Any]] = {
        "angle": _number(MAX_ANGLE),
        "down": _number(height),
        "right": _number(width),
        "top": _integer(1),
        "stability": _flag,
        "view": _flag,
        "prepared": _flag,
        "class": _integer(0),
    }
    known = [name for name in readers if name != "class" or name in also]
    found = read(request, {name: readers[name] for name in known})
    rest = {name: found.pop(name) for name in also if name in found}
    return Asked(**found), rest


def read(request: Request, readers: dict[str, Callable[[str, str], Any]]) -> dict[str, Any]:
    """The values of the parameters that are there.

    Raises:
        Problem: 422 naming the parameter.
    """
    found: dict[str, Any] = {}
    for name, text in request.query_params.multi_items():
        if name not in readers:
            shown = "".join(c for c in name if c.isprintable())[:60]
            raise parameter(shown, f"is no parameter here. Known: {', '.join(readers) or 'none'}.")
        if name in found:
            raise parameter(name, "is given twice.")
        found[name] = readers[name](name, text)
    return found


def top(request: Request) -> int:
    """The parameter `top` alone."""
    return read(request, {"top": _integer(1)}).get("top", 5)


def _number(most: float) -> Callable[[str, str], float]:
    def reader(name: str, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        # Underscores and words are numbers to Python only.
        if not -most <= value <= most or not set(text) <= set("0123456789+-.eE"):
            raise parameter(name, f"expected a number from {-most:g} to {most:g}.")
        return value

    return reader


def _integer(least: int) -> Callable[[str, str], int]:
    def reader(name: str, text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
            raise parameter(name, f"expected an integer >= {least}.")
        return int(text)

    return reader


def _flag(name: str, text: str) -> bool:
    if text not in ("0", "1", "true", "false"):
        raise parameter(name, "expected 1, true, 0 or false.")
    return text in ("1", "true")


__all__ = ["Problem", "asked", "read", "top"]
