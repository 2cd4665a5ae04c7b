"""One task: all libraries in turn, round by round; then what the results are worth. No JAX, no PyTorch."""

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _machine
from benchmarks._parity import store
from benchmarks._speed import cases, equality, problem
from benchmarks._speed.protocol import Worker, WorkerFailed
from benchmarks._speed.rounds import PAUSE, take_turns

_WORKER = "benchmarks._speed.worker"
LOGITS = 1e-3
"""By how much logits of the clean images may differ; equal weights in another order of sums."""


def start(root: Path, library: str) -> Worker:
    """A worker for a library."""
    return Worker(_WORKER, str(root.absolute()), library, log=root / "logs" / f"{library}.log")


def about(root: Path, tasks: list[cases.Task]) -> tuple[dict[str, Any], dict[str, str]]:
    """What each library has of the tasks, in which version; and why some libraries have nothing."""
    found, missing = {}, {}
    for library in (*cases.LIBRARIES, cases.LIMITS):
        worker = start(root, library)
        try:
            found[library] = worker.ask("about", tasks=[dataclasses.asdict(task) for task in tasks])
        except WorkerFailed as error:
            missing[library] = str(error)
        worker.close()
    return found, missing


def key(root: Path, task: cases.Task, known: Mapping[str, Any]) -> str:
    """The digest of all that decides a task's record: settings, model, images, versions, code, machine."""
    participants = {
        library: [what["versions"], what["tasks"][task.name]]
        for library, what in known.items()
        if task.name in what["tasks"]
    }
    settings = {name: value for name, value in dataclasses.asdict(task).items() if name not in _SHOWN}
    made = store.load_problem(root, task.model).digest
    machine = [_machine.hardware(), _machine.environment()]
    return store.digest({"task": settings, "problem": made, "libraries": participants, "machine": machine})


# Fields of a task that change no measurement.
_SHOWN = ("title", "bar")


def record_path(root: Path, task: cases.Task) -> Path:
    """Where a task's record lies; its successes are beside it."""
    return root / "results" / task.model / f"{task.case}.json"


def is_current(root: Path, task: cases.Task, wanted: str) -> bool:
    """Whether there is a record of exactly this, in which nobody failed."""
    found = store.read_json(record_path(root, task))
    return bool(found) and found["key"] == wanted and not found["failed"]


def measure(
    root: Path, task: cases.Task, known: Mapping[str, Any], *, pause: float = PAUSE
) -> dict[str, Any]:
    """Runs a task and writes its record.

    Args:
        root: where models and records lie.
        task: what is run.
        known: from `about`.
        pause: seconds before each turn.

    Returns:
        The record: per library the seconds of each round, the first call, memory, the difference of its
        logits; per limit program the seconds of each round; who failed, and why.
    """
    record: dict[str, Any] = {
        "task": dataclasses.asdict(task),
        "key": key(root, task, known),
        "hardware": _machine.hardware(),
        "environment": _machine.environment(),
        "load": _machine.load(),
        "failed": {},
    }
    workers, idle = _ready(root, task, known, record["failed"])
    (root / "results").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as name:
        folder = Path(name)
        try:
            answers = _run(task, workers, folder, record["failed"], pause)
            differences = _differences(task, workers, record["failed"])
            verdicts = _verdicts(workers, folder)
        finally:
            for worker in workers.values():
                worker.close()
        found = _lengths(root, task, folder, verdicts)
    record["limits"] = {
        name: [one["seconds"][name] for one in answers.get(cases.LIMITS, [])[1:]]
        for name in next(iter(answers.get(cases.LIMITS, [])), {"seconds": {}})["seconds"]
    }
    record["libraries"] = {
        library: _library(task, library, known[library], idle[library], answers[library], differences)
        for library in cases.LIBRARIES
        if library in answers and library not in record["failed"] and library in found
    }
    store.write_arrays(record_path(root, task).with_suffix(".npz"), **found)
    store.write_json(record_path(root, task), record)
    return record


def _ready(
    root: Path, task: cases.Task, known: Mapping[str, Any], failed: dict[str, str]
) -> tuple[dict[str, Worker], dict[str, int]]:
    """The workers with the model and the attack, and the memory of each before it attacks."""
    workers, idle = {}, {}
    for library, what in known.items():
        if task.name not in what["tasks"]:
            continue
        worker = start(root, library)
        try:
            loaded = worker.ask("load", model=task.model)
            if not loaded["has"]:
                worker.close()
                continue
            worker.ask(
                "prepare", case=task.case, count=task.count(library), eps=task.eps, settings=task.settings
            )
        except WorkerFailed as error:
            failed[library] = str(error)
            worker.close()
            continue
        workers[library], idle[library] = worker, loaded["resident"]
    return workers, idle


def _run(
    task: cases.Task, workers: dict[str, Worker], folder: Path, failed: dict[str, str], pause: float
) -> dict[str, list[dict[str, Any]]]:
    """The first call of each, then the rounds; then runs whose time is not taken, for the other seeds."""

    def turn(library: str, worker: Worker, seed: int, **options: Any) -> dict[str, Any]:
        answer = worker.ask("run", seed=seed, **options)
        if library != cases.LIMITS and seed < task.seeds:
            worker.ask("save", path=str((folder / f"{library}-{seed}.npz").absolute()))
        return answer

    def first(library: str, worker: Worker, number: int) -> dict[str, Any]:
        return turn(library, worker, 0, least=0.0)

    def timed(library: str, worker: Worker, number: int) -> dict[str, Any]:
        return turn(library, worker, number + 1)

    def more(library: str, worker: Worker, number: int) -> dict[str, Any]:
        return turn(library, worker, task.rounds + 1 + number, least=0.0)

    answers = take_turns(workers, first, 1, pause=pause, failed=failed)
    rounds = take_turns(workers, timed, task.rounds, pause=pause, failed=failed)
    untimed = {library: worker for library, worker in workers.items() if library != cases.LIMITS}
    take_turns(untimed, more, max(task.seeds - task.rounds - 1, 0), pause=0.0, failed=failed)
    for library in set(workers) & set(failed):
        workers.pop(library)
    return {library: answers[library] + rounds[library] for library in workers}


def _differences(task: cases.Task, workers: dict[str, Worker], failed: dict[str, str]) -> dict[str, float]:
    """Of the logits, library by library; one that attacks another model has failed."""
    found = {}
    for library in [name for name in workers if name != cases.LIMITS]:
        try:
            found[library] = workers[library].ask("difference")
            if found[library] <= LOGITS:
                continue
            failed[library] = f"its logits of the clean images differ by {found[library]:.2g}"
        except WorkerFailed as error:
            failed[library] = str(error)
        workers.pop(library).close()
    return found


def _verdicts(workers: dict[str, Worker], folder: Path) -> list[dict[str, np.ndarray]]:
    """Predicted classes by file, of the library's model and of a PyTorch net: of equal weights, they differ
    by the rounding of logits on images that lie on the boundary."""
    paths = sorted(map(str, folder.absolute().glob("*-*.npz")))
    judges = [library for library in (cases.OURS, *cases.LIBRARIES) if library in workers]
    judges = judges[:1] + [library for library in judges[1:] if library != "foolbox_jax"][:1]
    found = []
    for judge in judges:
        into = folder / f"verdicts_{judge}.npz"
        workers[judge].ask("judge", paths=paths, into=str(into.absolute()))
        found.append(store.read_arrays(into))
    return found


def _lengths(
    root: Path, task: cases.Task, folder: Path, verdicts: list[dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """`[seeds, n]` by library; inf where no judge is wrong about the image."""
    made = problem.load(root, task.model, task.num_images)
    found: dict[str, np.ndarray] = {}
    for library in cases.LIBRARIES:
        rows, count = [], task.count(library)
        for seed in range(task.seeds):
            path = folder / f"{library}-{seed}.npz"
            if path.is_file():
                images = store.read_arrays(path)["images"]
                wrong = np.any([said[path.stem] != made.labels[:count] for said in verdicts], axis=0)
                rows.append(equality.lengths(task.norm, made.images[:count], images, wrong))
        if rows:
            found[library] = np.stack(rows)
    return found


def _library(
    task: cases.Task,
    library: str,
    known: Mapping[str, Any],
    idle: int,
    answers: list[dict[str, Any]],
    differences: Mapping[str, float],
) -> dict[str, Any]:
    first, *timed = answers
    return {
        "called": known["tasks"][task.name]["called"],
        "versions": known["versions"],
        "num_images": task.count(library),
        "seconds": [one["seconds"] for one in timed],
        "cores": [one["cores"] for one in timed],
        "first_seconds": first["seconds"],
        "idle_bytes": idle,
        "first_peak_bytes": first["peak"],
        "peak_bytes": max(one["peak"] for one in timed),
        "peak_of_rounds": all(one["peak_of_run"] for one in timed),
        "logits_difference": differences[library],
    }
