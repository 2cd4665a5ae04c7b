"""Which attack broke which image."""

from typing import NamedTuple

import numpy as np

from jaxrobust.evaluation._types import CLEAN, WORST, Report


class Breakage(NamedTuple):
    """`broken[i, j]`: attack `attacks[i]` broke image j, which was right before it. Bool `[a, n]`.

    `right` `[n]`: the images that were right from the start.
    """

    attacks: tuple[str, ...]
    broken: np.ndarray
    right: np.ndarray

    @property
    def by_how_many(self) -> np.ndarray:
        """How many attacks broke each image `[n]`."""
        return self.broken.sum(axis=0)

    @property
    def alone(self) -> dict[str, int]:
        """How many images each attack broke that no other did."""
        once = self.by_how_many == 1
        return {name: int(np.sum(row & once)) for name, row in zip(self.attacks, self.broken)}


def breakage(report: Report) -> Breakage:
    """Which attack of a report broke which image: right on the clean image, wrong inside the radius.

    Args:
        report: from `robust.evaluate`.

    Returns:
        A `Breakage`, in the order of the rows, the clean and the worst row left out.
    """
    names = tuple(row["attack"] for row in report.rows if row["attack"] not in (CLEAN, WORST))
    right = report.flags[f"correct/{CLEAN}"]
    rows = [right & ~report.flags[f"correct/{name}"] for name in names]
    return Breakage(names, np.array(rows, bool).reshape(len(names), len(right)), right)
