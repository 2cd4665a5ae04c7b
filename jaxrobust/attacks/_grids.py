"""What the attacks need that lay a grid over a neighbourhood."""

from typing import Any, Protocol, runtime_checkable

from jaxrobust import _validate
from jaxrobust.types import Array, Neighbourhood, Theta


@runtime_checkable
class Gridded(Neighbourhood, Protocol):
    """A neighbourhood of so few dimensions that a grid can cover it."""

    @property
    def grid_axes(self) -> tuple[str, ...]:
        """Names of what `grid` takes the numbers of values of; empty where there are too many dimensions."""
        ...

    def grid(self, granularity: tuple[int, ...]) -> Theta:
        """Thetas with a leading axis `[n]`, for one number of values per axis."""
        ...

    def scaled(self, factor: float | Array) -> "Gridded":
        """This neighbourhood with every radius multiplied by `factor`."""
        ...


def has_grid(value: Any) -> bool:
    """Whether a grid can cover this neighbourhood."""
    return isinstance(value, Gridded) and bool(value.grid_axes)


def check_granularity(granularity: Any, axes: tuple[str, ...]) -> None:
    """Raises ValueError unless `granularity` has one number >= 1 for each of the axes."""
    if not isinstance(granularity, tuple) or len(granularity) != len(axes):
        raise ValueError(
            f"Expected granularity to be a tuple of {len(axes)} numbers of values ({', '.join(axes)}), got "
            f"{granularity!r}."
        )
    for name, number in zip(axes, granularity):
        _validate.at_least(f"granularity of {name}", number, 1, "1 leaves that change out.")
