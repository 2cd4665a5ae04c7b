"""What time is measured against, and how it should grow. Neither JAX nor PyTorch."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One quantity that grows while the others stay.

    Args:
        title: what is done.
        label: of the axis, with its unit.
        values: what is set.
        sizes: the same as numbers along the axis.
        expected: the exponent of a cost in proportion.
        fixed: what stays.
        one_process: False where each value needs a process of its own.
    """

    title: str
    label: str
    values: tuple[int, ...]
    sizes: tuple[int, ...]
    expected: float
    fixed: dict[str, Any]
    one_process: bool = True


_BATCHES = (32, 64, 128, 256, 512, 1024)
_STEPS = (5, 10, 20, 40, 80)
_ANGLES = (1, 3, 7, 15, 31)
_SIDES = (28, 40, 56, 80, 112)
_DEVICES = (1, 2, 4, 8)

AXES = {
    "batch": Axis(
        title="PGD-10 on SmallCNN",
        label="images in the batch",
        values=_BATCHES,
        sizes=_BATCHES,
        expected=1.0,
        fixed={"steps": 10, "side": 28},
    ),
    "steps": Axis(
        title="PGD on SmallCNN",
        label="steps",
        values=_STEPS,
        sizes=_STEPS,
        expected=1.0,
        fixed={"batch": 128, "side": 28},
    ),
    "grid": Axis(
        title="GridAdv on SmallCNN",
        label="poses in the grid",
        values=_ANGLES,
        sizes=tuple(25 * angles for angles in _ANGLES),
        expected=1.0,
        fixed={"batch": 64, "side": 28, "shifts": 5},
    ),
    "image": Axis(
        title="PGD-10 on SmallCNN",
        label="pixels of an image",
        values=_SIDES,
        sizes=tuple(side**2 for side in _SIDES),
        expected=1.0,
        fixed={"batch": 32, "steps": 10},
    ),
    "devices": Axis(
        title="AT step, the same batch of 256 divided over fake CPU devices",
        label="devices on the same cores",
        values=_DEVICES,
        sizes=_DEVICES,
        expected=0.0,
        fixed={"batch": 256, "steps": 10, "side": 28},
        one_process=False,
    ),
}


def settings(axis: str, *, toy: bool = False) -> dict[str, Any]:
    """What decides the work: values and what stays."""
    what = AXES[axis]
    small = {"batch": 8, "steps": 2} if toy else {}
    fixed = {name: min(value, small.get(name, value)) for name, value in what.fixed.items()}
    count = 3 if toy else len(what.values)
    return {"values": list(what.values[:count]), "sizes": list(what.sizes[:count]), **fixed}
