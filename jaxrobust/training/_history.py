"""Metrics on their way from the devices to a row: fetched once per interval, checked, averaged."""

from collections.abc import Mapping, Sequence

import jax
import numpy as np

from jaxrobust.training._carriers import Carrier
from jaxrobust.types import Array


class Diverged(ArithmeticError):
    """A metric stopped being finite.

    Attributes:
        step: the first step (counted from 1) with such a metric.
        metrics: that step's.
        seed: of the run it happened to, where several go together; None of a run alone.
    """

    def __init__(self, step: int, metrics: Mapping[str, float], seed: int | None = None):
        self.step, self.metrics, self.seed = step, dict(metrics), seed
        listed = ", ".join(f"{name}={value:.6g}" for name, value in sorted(self.metrics.items()))
        whose = "" if seed is None else f" of seed {seed}"
        others = "" if seed is None else " The other seeds can go on without it."
        super().__init__(
            f"Step {step}{whose} is not finite: {listed}. Nothing was saved since. Lower the learning rate, "
            f"clip the gradient, or warm up; then resume from the last checkpoint or start again.{others}"
        )


class History:
    """The metrics of every run since the last row.

    They stay on the devices until `settle`, so that steps do not wait for the host; but the host does not run
    more than `prefetch` steps ahead, or the data of waiting steps would fill the devices.
    """

    def __init__(
        self,
        carrier: Carrier,
        prefetch: int,
        start: int,
        pending: Sequence[Sequence[dict[str, float]]],
        seeds: Sequence[int],
    ):
        self._carrier, self._prefetch, self._step = carrier, prefetch, start
        self._settled = [list(rows) for rows in pending]
        self._seeds: Sequence[int | None] = seeds if len(seeds) > 1 else [None]
        self._waiting: list[dict[str, Array]] = []

    def add(self, metrics: dict[str, Array]) -> int:
        """Takes a step's metrics from the devices; returns how many steps have been made."""
        self._step += 1
        self._waiting.append(metrics)
        if len(self._waiting) > self._prefetch:
            jax.block_until_ready(self._waiting[-1 - self._prefetch])
        return self._step

    def settle(self) -> list[list[dict[str, float]]]:
        """Fetches what is waiting; returns, run by run, the metrics of each step since the last row.

        Raises:
            Diverged: naming the first step with a value that is not finite.
        """
        fetched = self._carrier.fetch(self._waiting)
        first = self._step - len(self._waiting) + 1
        self._waiting = []
        for number, rows in enumerate(zip(*fetched), first):
            for settled, row, seed in zip(self._settled, rows, self._seeds):
                row = {name: float(value) for name, value in sorted(row.items())}
                if not all(np.isfinite(value) for value in row.values()):
                    raise Diverged(number, row, seed)
                settled.append(row)
        return self._settled

    def row(self) -> list[dict[str, float]]:
        """Run by run the means since the last row; starts the next one."""
        runs = self.settle()
        self._settled = [[] for _ in runs]
        return [mean_row(rows) for rows in runs]


def mean_row(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each metric."""
    return {name: float(np.mean([row[name] for row in rows], dtype=np.float64)) for name in rows[0]}
