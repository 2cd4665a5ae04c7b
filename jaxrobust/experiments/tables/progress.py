"""What a table's command says while it runs: the list of runs, and a line before every model."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxrobust.experiments._results import LogFn
from jaxrobust.experiments.tables.cost import Seconds, clock
from jaxrobust.experiments.tables.plan import Job


def listing(wanted: Sequence[Job], left: Sequence[Job], estimates: Mapping[Path, Seconds]) -> object:
    """The runs with what they are estimated to cost."""
    from rich.table import Table

    missing = {job.folder for job in left}
    table = Table(title="Runs, with estimates for this machine (passes counted, their time measured)")
    for header in ("model", "seed", "run", "training", "attacks, at most"):
        table.add_column(header, justify="left" if header in ("model", "run") else "right")
    total = Seconds(0.0, 0.0)
    for job in wanted:
        if job.folder in missing:
            cost = estimates[job.folder]
            shown = (clock(cost.training) if cost.training else "there", clock(cost.attacks))
            total = Seconds(total.training + cost.training, total.attacks + cost.attacks)
        else:
            shown = ("there", "there")
        table.add_row(job.row.title, str(job.experiment.seed), job.folder.name, *shown)
    table.add_section()
    table.add_row(
        "total", "", f"{len(left)} of {len(wanted)} to do", clock(total.training), clock(total.attacks)
    )
    return table


class Progress:
    """A line before every model: how many are done, and how long the rest takes at the pace so far."""

    def __init__(
        self, total: int, left: Sequence[Job], estimates: Mapping[Path, Seconds], log_fn: LogFn
    ) -> None:
        self._total, self._left, self._log_fn = total, list(left), log_fn
        self._costs = {folder: sum(cost) for folder, cost in estimates.items()}
        self._spent_estimate, self._began, self._failed = 0.0, time.monotonic(), 0

    def advance(self, job: Job, *, failed: bool = False) -> None:
        """After a job."""
        self._left.remove(job)
        self._failed += failed
        self._spent_estimate += self._costs[job.folder]
        self.tell()

    def tell(self) -> None:
        """Says it."""
        spent = time.monotonic() - self._began
        rest = sum(self._costs[job.folder] for job in self._left)
        # The estimate is of passes alone; what the first models took says by how much it is short.
        pace = spent / self._spent_estimate if self._spent_estimate else 1.0
        tail = f", {self._failed} failed" if self._failed else ""
        tail += f", about {clock(rest * pace)} left" if self._left else ""
        done = self._total - len(self._left) - self._failed
        self._log_fn(f"{done} of {self._total} models done{tail}")
