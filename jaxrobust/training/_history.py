"""Metrics on their way from the devices to a row: fetched once per interval, checked, averaged."""

from collections.abc import Mapping

import jax
import numpy as np

from jaxrobust.training.runtime import Runtime
from jaxrobust.types import Array


class Diverged(ArithmeticError):
    """A metric stopped being finite.

    Attributes:
        step: the first step (counted from 1) with such a metric.
        metrics: that step's.
    """

    def __init__(self, step: int, metrics: Mapping[str, float]):
        self.step, self.metrics = step, dict(metrics)
        listed = ", ".join(f"{name}={value:.6g}" for name, value in sorted(self.metrics.items()))
        super().__init__(
            f"Step {step} is not finite: {listed}. Nothing was saved since. Lower the learning rate, clip "
            "the gradient, or warm up; then resume from the last checkpoint or start again."
        )


class History:
    """The metrics since the last row.

    They stay on the devices until `settle`, so that steps do not wait for the host; but the host does not run
    more than `runtime.prefetch` steps ahead, or the data of waiting steps would fill the devices.
    """

    def __init__(self, runtime: Runtime, start: int, pending: list[dict[str, float]]):
        self._runtime = runtime
        self._step = start
        self._settled = list(pending)
        self._waiting: list[dict[str, Array]] = []

    def add(self, metrics: dict[str, Array]) -> int:
        """Takes a step's metrics from the devices; returns how many steps have been made."""
        self._step += 1
        self._waiting.append(metrics)
        if len(self._waiting) > self._runtime.prefetch:
            jax.block_until_ready(self._waiting[-1 - self._runtime.prefetch])
        return self._step

    def settle(self) -> list[dict[str, float]]:
        """Fetches what is waiting; returns the metrics of each step since the last row.

        Raises:
            Diverged: naming the first step with a value that is not finite.
        """
        rows = self._runtime.fetch(self._waiting)
        first = self._step - len(rows) + 1
        self._waiting = []
        for number, row in enumerate(rows, first):
            row = {name: float(value) for name, value in sorted(row.items())}
            if not all(np.isfinite(value) for value in row.values()):
                raise Diverged(number, row)
            self._settled.append(row)
        return self._settled

    def row(self) -> dict[str, float]:
        """The means since the last row; starts the next one."""
        rows = self.settle()
        self._settled = []
        return {name: float(np.mean([row[name] for row in rows], dtype=np.float64)) for name in rows[0]}
