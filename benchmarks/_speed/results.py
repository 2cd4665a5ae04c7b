"""From records to rows: rates, ratios, limits, bars. Neither JAX nor PyTorch."""

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._parity import store
from benchmarks._speed import cases, equality, measure
from benchmarks._speed.rounds import fastest, ratios, spread

STEP_OVER_GRADIENT, STEP_OVER_FORWARD = 1.1, 4.0
"""A PGD step may take at most so many times a bare gradient, and the fastest forward pass."""


def collect(root: Path, tasks: Iterable[cases.Task]) -> list[dict[str, Any]]:
    """What there is of the tasks: one entry a task, see `summary`."""
    found = []
    for task in tasks:
        path = measure.record_path(root, task)
        record = store.read_json(path)
        if record is not None and path.with_suffix(".npz").is_file():
            found.append(summary(task, record, store.read_arrays(path.with_suffix(".npz"))))
    return found


def summary(task: cases.Task, record: Mapping[str, Any], found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A task's rows and what follows from them.

    Args:
        task: the task.
        record: from `measure.measure`.
        found: lengths `[seeds, n]` by library.

    Returns:
        `rows`, one a library; `fastest` and `fastest_library`, the names of the fastest peer of all and of
        those that are no code of our own, among those that do the same; `limit`; `asked_otherwise`, true
        where the record is of other settings than the task's.
    """
    libraries = record["libraries"]
    # Per image, for some take fewer.
    seconds = {name: [s / one["num_images"] for s in one["seconds"]] for name, one in libraries.items()}
    rows = [_row(task, record, name, found) for name in libraries]
    same = {row["library"]: seconds[row["library"]] for row in rows if row.get("same")}
    best, best_library = fastest(same), fastest({k: v for k, v in same.items() if k not in cases.BY_HAND})
    return {
        "task": task,
        "rows": rows,
        "fastest": best,
        "fastest_library": best_library,
        "limit": _limit(task, record) if cases.OURS in libraries else None,
        "failed": record["failed"],
        "load": record["load"],
        "hardware": record["hardware"],
        "environment": record["environment"],
        "asked_otherwise": record["task"]["settings"] != task.settings
        or record["task"]["num_images"] != task.num_images,
    }


def _row(
    task: cases.Task, record: Mapping[str, Any], library: str, found: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """One library: rate, memory, compilation, successes, and the comparison with ours."""
    one = record["libraries"][library]
    each, count = one["seconds"], one["num_images"]
    later, median = statistics.median(each), np.median(found[library])
    row: dict[str, Any] = {
        "model": task.model,
        "case": task.case,
        "library": library,
        "called": one["called"],
        "versions": one["versions"],
        "eps": task.eps,
        "settings": task.settings,
        "images": count,
        "rounds": len(each),
        "seconds": spread(each),
        "images_per_second": spread([count / value for value in each]),
        "compile_seconds": max(one["first_seconds"] - later, 0.0),
        "cores": statistics.median(one["cores"]),
        "idle_mb": _mb(one["idle_bytes"]),
        "peak_mb": _mb(one["peak_bytes"]),
        "growth_mb": _mb(one["peak_bytes"] - one["idle_bytes"]),
        "first_peak_mb": _mb(one["first_peak_bytes"]),
        "peak_of_rounds": one["peak_of_rounds"],
        "logits_difference": one["logits_difference"],
        "seeds": len(found[library]),
        "success": float(equality.successes(task.eps, found[library]).mean()),
        "median_length": float(median) if np.isfinite(median) and task.norm != "free" else None,
        "load": record["load"],
        "hardware": record["hardware"],
    }
    if library == cases.OURS or cases.OURS not in found or cases.OURS not in record["libraries"]:
        return row
    ours = record["libraries"][cases.OURS]
    # Per image, for some take fewer.
    own = [value / ours["num_images"] for value in ours["seconds"]]
    row["ratio"] = ratios([value / count for value in each], own)
    verdicts = (equality.successes(task.eps, found[name]) for name in (cases.OURS, library))
    return row | equality.compare(*verdicts, by_verdicts=task.by_verdicts)


def _mb(size: float) -> float:
    return round(size / 2**20, 1)


def _limit(task: cases.Task, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Ours beside the passes that it cannot do without.

    `over_passes`: its time over that of its gradients, as the library compiles them, and of its lone forward
    passes, in the fastest program; `step_over_forward`, where it takes gradients alone: a step over the
    fastest forward pass; both as ratios of the same round.
    """
    programs = record["limits"]
    if task.passes is None or not programs.get("gradient"):
        return None
    forwards = {name: each for name, each in programs.items() if name.startswith("forward")}
    best = fastest(forwards)
    assert best is not None
    each, gradients, forward = (
        record["libraries"][cases.OURS]["seconds"],
        programs["gradient"],
        forwards[best],
    )
    passes = [task.passes[0] * g + task.passes[1] * f for g, f in zip(gradients, forward)]
    found: dict[str, Any] = {
        "passes": list(task.passes),
        "gradient_ms": _ms(gradients),
        "forward_ms": {name: _ms(values) for name, values in forwards.items()},
        "fastest_forward": best,
        "over_passes": ratios(each[: len(passes)], passes),
    }
    if task.passes[0] and not task.passes[1]:
        steps = [value / task.passes[0] for value in each]
        found["step_over_forward"] = ratios(steps[: len(forward)], forward)
    return found


def _ms(values: list[float]) -> dict[str, float]:
    return {name: round(1e3 * value, 3) for name, value in spread(values).items()}


def bars(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every bar that is asked for, with what was measured; only of tasks that have a comparison."""
    said = []
    for one in found:
        task, by_name = one["task"], {row["library"]: row for row in one["rows"]}
        if one["asked_otherwise"]:
            continue
        if task.bar is not None and one["fastest"] is not None:
            ratio = by_name[one["fastest"]]["ratio"]
            said.append(_bar(task, f"against {cases.LIBRARIES[one['fastest']]}", ratio, task.bar, least=True))
            if one["fastest_library"] not in (None, one["fastest"]):
                ratio = by_name[one["fastest_library"]]["ratio"]
                name = cases.LIBRARIES[one["fastest_library"]]
                said.append(_bar(task, f"against {name}, the fastest library", ratio, task.bar, least=True))
        if task.case == "pgd" and one["limit"] is not None:
            limit = one["limit"]
            said.append(_bar(task, "a step over a bare gradient", limit["over_passes"], STEP_OVER_GRADIENT))
            said.append(
                _bar(task, "a step over the fastest forward", limit["step_over_forward"], STEP_OVER_FORWARD)
            )
    return said


def _bar(
    task: cases.Task, what: str, ratio: dict[str, float], bound: float, *, least: bool = False
) -> dict[str, Any]:
    met = ratio["median"] >= bound if least else ratio["median"] <= bound
    return {
        "model": task.model,
        "case": task.case,
        "title": task.title,
        "what": what,
        "ratio": ratio,
        "bound": bound,
        "least": least,
        "met": bool(met),
    }
