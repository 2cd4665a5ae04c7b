"""One library's tasks in one process: `python -m benchmarks._parity.worker ROOT LIBRARY MODEL:CASE ...`.

A result is kept until its weights, images, settings, versions or code change.
"""

import ast
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._parity import cases, store


def main(root: Path, library: str, tasks: list[tuple[str, str]]) -> int:
    """Runs the tasks that have no current result; the exit status is the number of failures, at most 100."""
    side = importlib.import_module(f"benchmarks._parity.side_{library}")
    store.write_json(
        root / "coverage" / f"{library}.json",
        {"offered": side.OFFERED, "compared": {name: entry[0] for name, entry in side.ATTACKS.items()}},
    )
    failures = 0
    for model, name in tasks:
        if name in side.ATTACKS:
            failures += not _task(root, library, side, model, name)
    return min(failures, 100)


def _task(root: Path, library: str, side: Any, model: str, name: str) -> bool:
    """Runs one task unless it has been; False where the attack raised."""
    problem, case, dataset = store.load_problem(root, model), cases.CASES[name], cases.dataset_of(model)
    record = {
        "model": model,
        "case": name,
        "library": library,
        "class": side.ATTACKS[name][0],
        "eps": case.eps(dataset),
        "settings": case.budget(dataset),
        "targeted": case.targeted,
        "num_images": case.count(dataset),
        "seed": cases.SEED,
        "versions": _versions(side.PACKAGES),
        "problem": problem.digest,
    }
    if case.seeds > 1:
        record["seeds"] = case.seeds
    try:
        run, source = _ready(root, library, side, problem, name)
        record["source"] = source
        record["key"] = store.digest({k: v for k, v in record.items() if k != "key"})
        if store.is_current(root, model, name, library, record["key"]):
            return True
        began = time.perf_counter()
        images = np.concatenate([run(cases.SEED + i) for i in range(case.seeds)])
        record["seconds"] = round(time.perf_counter() - began, 2)
        attacked = problem.images[: case.count(dataset)]
        expected = (case.seeds * len(attacked), *attacked.shape[1:])
        assert images.shape == expected, f"{images.shape} instead of {expected}"
    except Exception as error:
        record["error"] = f"{type(error).__name__}: {error}".replace(os.getcwd(), ".")[:500]
        store.save_result(root, model, name, library, None, record)
        print(f"{model}:{name}:{library} FAILED\n{traceback.format_exc(limit=-2)}", flush=True)
        return False
    store.save_result(root, model, name, library, images, record)
    print(f"{model}:{name}:{library} {record['seconds']:.1f} s", flush=True)
    return True


def _ready(root: Path, library: str, side: Any, problem: store.Problem, name: str) -> tuple[Callable, str]:
    """`run(seed) -> images`, and the digest of the code that decides its result."""
    case, dataset = cases.CASES[name], cases.dataset_of(problem.model)
    count = case.count(dataset)
    images = problem.images[:count]
    y = cases.designated(case, problem.labels[:count])
    if library == cases.OURS:
        from benchmarks._parity import export

        attack = side.make(name, dataset)
        logits_fn = export.load_plain(store.model_dir(root, problem.model))
        source = source_digest(modules_of(attack))
        return lambda seed: np.asarray(side.run(attack, logits_fn, images, y, seed)), source
    import torch

    from benchmarks._parity import twin

    net, _ = twin.load(root, problem.model)
    victim = twin.Victim(
        net, twin.to_torch(images), torch.from_numpy(y).long(), problem.logits.shape[1], case.targeted
    )

    def run(seed: int) -> np.ndarray:
        np.random.seed(seed)  # noqa: NPY002 - the peers draw from the global state
        torch.manual_seed(seed)
        found = side.ATTACKS[name][1](victim._replace(seed=seed), case.eps(dataset), case.budget(dataset))
        return np.clip(twin.to_numpy(found), 0, 1)

    return run, entry_digest(inspect.getsource(side), name)


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "numpy": np.__version__, **found}


def entry_digest(source: str, case: str) -> str:
    """Of a case's entry in a side's `ATTACKS` and of the functions, classes and constants that it uses."""
    tops: dict[str, ast.AST] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            tops[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            tops[node.targets[0].id] = node.value
    table = tops.pop("ATTACKS")
    assert isinstance(table, ast.Dict)
    waiting = [value for key, value in zip(table.keys, table.values) if ast.literal_eval(key) == case]
    dumps, seen = [], set()
    while waiting:
        node = waiting.pop()
        dumps.append(ast.unparse(node))
        names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} & tops.keys()
        waiting += [tops[name] for name in sorted(names - seen)]
        seen |= names
    return hashlib.sha256("\n".join(sorted(dumps)).encode()).hexdigest()[:16]


def modules_of(value: Any) -> set[str]:
    """The modules of an attack: its own, and those of the values and functions in its fields."""
    found = set()
    if hasattr(value, "__dataclass_fields__"):
        found.add(type(value).__module__)
        for name in value.__dataclass_fields__:
            found |= modules_of(getattr(value, name))
    elif isinstance(value, tuple):
        found |= {module for one in value for module in modules_of(one)}
    elif callable(value):
        found.add(value.__module__)
    return {name for name in found if name.split(".")[0] == "jaxrobust"}


def source_digest(modules: set[str], package: str = "jaxrobust") -> str:
    """Of the sources of these modules and of those of the package that they import, and of no others."""
    seen: dict[str, bytes] = {}
    waiting = sorted(modules)
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if name in seen or path is None:
            continue
        seen[name] = path.read_bytes()
        for node in ast.walk(ast.parse(seen[name])):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(package):
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    state = hashlib.sha256()
    for name in sorted(seen):
        state.update(name.encode() + b"\0" + seen[name])
    return state.hexdigest()[:16]


def _source(name: str) -> Path | None:
    """The file of a module; None for a package or for what is no module."""
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    if spec is None or spec.origin is None or spec.origin.endswith("__init__.py"):
        return None
    return Path(spec.origin)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], [tuple(task.split(":")) for task in sys.argv[3:]]))
