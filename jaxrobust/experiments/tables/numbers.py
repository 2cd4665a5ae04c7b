"""The measured numbers of a table: of all rows that its file may hold, those that its jobs are about."""

from collections.abc import Iterable, Sequence
from typing import Any

from jaxrobust.experiments.tables.plan import Job, label_of
from jaxrobust.experiments.tables.spec import Place

Measured = dict[str, Any]
"""A row of the results: `accuracy`, `n`, `run_seed`, and `right`, the packed flags."""

FAILED = "failed"
"""The part of a row that says why a job has no numbers."""

IDENTITY = ("dataset", "part", "model", "run_seed", "attack")
"""The fields by which a new number takes the place of an old one."""


class Numbers:
    """What is known of the planned jobs.

    A row counts by its key, which changes with the training, the attack and the images, so that numbers of
    other settings, seeds or images that lie in the file do not mix with these. Numbers from other data under
    the same name do not count either, where that is known.

    Args:
        jobs: those of the table, wanted now or not.
        rows: of the file.
        fingerprint: of the data that are there now; "" where they are not.
    """

    def __init__(self, jobs: Sequence[Job], rows: Iterable[Measured], fingerprint: str = ""):
        self.jobs = tuple(jobs)
        self._rows = {
            (row.get("key"), row.get("attack"), row.get("factor", 1.0)): row
            for row in rows
            if not fingerprint or row.get("fingerprint") in (None, "", fingerprint)
        }

    def of(self, job: Job, attack: str) -> Measured | None:
        """A job's number under an attack, of a curve its end at the full radius; None where there is none."""
        row = self._rows.get((job.keys[attack], label_of(attack, job.experiment), 1.0))
        # A number without its flags cannot be compared image by image, and is measured again.
        return row if row is not None and "right" in row else None

    def at(self, place: Place) -> list[Measured]:
        """The numbers of a place of the table, one a seed."""
        own = [job for job in self.jobs if job.row.key == place.row and place.attack in job.keys]
        return [row for job in own if (row := self.of(job, place.attack)) is not None]

    def curve(self, place: Place) -> list[Measured]:
        """The points of a curve in the order of their radii, of the first seed that has one."""
        for job in self.jobs:
            end = self.of(job, place.attack) if job.row.key == place.row else None
            if end is not None:
                points = [row for (key, *_), row in self._rows.items() if key == end["key"]]
                return sorted(points, key=lambda row: row["factor"])
        return []

    def is_done(self, job: Job) -> bool:
        """Whether everything of the job is there."""
        return all(self.of(job, attack) is not None for attack in job.keys)

    def all_of(self, job: Job) -> list[Measured]:
        """Every row about a job: its numbers, the points of its curves, and `worst of all`."""
        keys = set(job.keys.values())
        return [row for (key, *_), row in self._rows.items() if key in keys]

    def failure(self, job: Job) -> str | None:
        """Why the job has no numbers, where it was tried and failed."""
        row = self._rows.get((failed_key(job), None, 1.0))
        return None if row is None or self.is_done(job) else row["message"]


def failed_key(job: Job) -> str:
    """The key of the row that says why a job has no numbers."""
    return f"{FAILED}-{next(iter(job.keys.values()))}"
