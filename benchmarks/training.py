"""Speed of training: AT, TRADES and SRT against a PyTorch loop, and against the passes a step needs.

    python -m benchmarks.training [--only OBJECTIVE ...] [--rounds N] [--out docs/results/training_cpu]

One process for the loop's compiled update, one for the step alone, one for each PyTorch loop, one for the
passes; they take turns in one run. One step without any chance is checked first: the same weights, images
and starts must give the same new weights. An objective is kept under `--root` and made again only when its
settings, versions or code change.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import _machine
from benchmarks._parity import store
from benchmarks._speed import problem, train_cases, train_table
from benchmarks._speed.protocol import Worker, WorkerFailed
from benchmarks._speed.rounds import PAUSE, take_turns
from benchmarks._speed.train_cases import LIMITS, OURS, PARTICIPANTS, STEP
from benchmarks._speed.train_data import state_dict

ROUNDS = 5


def main(argv: list[str] | None = None) -> int:
    """The command; returns 1 where a participant failed."""
    args = _parser().parse_args(argv)
    root = args.root or (problem.ROOT / "toy" if args.toy else problem.ROOT)
    out = args.out or (root / "training_table" if args.toy else Path("docs/results/training_cpu"))
    rounds = args.rounds or (1 if args.toy else ROUNDS)
    folder = root / "training"
    store.write_arrays(folder / "state_dict.npz", **state_dict())
    failed = False
    for name in () if args.table else args.only or train_cases.TRAININGS:
        record = _measured(folder, name, rounds, args.toy)
        failed |= bool(record["failed"])
    counts = train_table.write(folder, out, "python -m benchmarks.training", toy=args.toy)
    print(f"{out / 'README.md'}: {counts['rows']} rows, {counts['met']} of {counts['bars']} bars met")
    return int(failed)


def _measured(folder: Path, name: str, rounds: int, toy: bool) -> dict[str, Any]:
    """The record of an objective, from before or new."""
    settings = train_cases.TRAININGS[name].settings(toy=toy)
    record: dict[str, Any] = {"objective": name, "settings": settings, "rounds": rounds, "failed": {}}
    workers: dict[str, Worker] = {}
    try:
        known = _started(folder, name, workers, record["failed"])
        machine = [_machine.hardware(), _machine.environment()]
        record["key"] = store.digest({**record, "failed": {}, "known": known, "machine": machine})
        before = store.read_json(folder / f"{name}.json") or {}
        if before.get("key") == record["key"] and not before["failed"]:
            print(f"{name}: kept", flush=True)
            return before
        record |= {"versions": {}, "hardware": _machine.hardware(), "load": _machine.load()}
        for what in known.values():
            record["versions"] |= what["versions"]
        record["differences"] = _checked(folder, name, settings, workers, record["failed"])
        record |= _timed(name, settings, rounds, workers, record["failed"], 0.0 if toy else PAUSE)
    finally:
        for worker in workers.values():
            worker.close()
    store.write_json(folder / f"{name}.json", record)
    said = ", ".join(f"{who} {min(one['seconds']):.3g} s" for who, one in record["participants"].items())
    print(f"{name}: {said}", flush=True)
    for who, error in record["failed"].items():
        print(f"{name}: {who} FAILED: {error}", flush=True)
    return record


def _started(folder: Path, name: str, workers: dict[str, Worker], failed: dict[str, str]) -> dict[str, Any]:
    """Puts a worker for each participant into `workers`; what they say about themselves."""
    known = {}
    for who in (*PARTICIPANTS, LIMITS):
        worker = Worker(
            "benchmarks._speed.train_worker", str(folder.absolute()), who, log=folder / "logs" / f"{who}.log"
        )
        try:
            known[who] = worker.ask("about", objective=name)
            workers[who] = worker
        except WorkerFailed as error:
            failed[who] = str(error)
            worker.close()
    return known


def _checked(
    folder: Path, name: str, settings: dict[str, Any], workers: dict[str, Worker], failed: dict[str, str]
) -> dict[str, float]:
    """How far each one's step is from ours, over the length of ours."""
    found, start = {}, store.read_arrays(folder / "state_dict.npz")
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        after = {}
        for who in [who for who in (OURS, *train_cases.PYTORCH) if who in workers]:
            into = Path(temporary).absolute() / f"{who}.npz"
            try:
                workers[who].ask("check", objective=name, settings=settings, into=str(into))
            except WorkerFailed as error:
                failed[who] = str(error)
                workers.pop(who).close()
                continue
            after[who] = store.read_arrays(into)
        for who in [who for who in after if who != OURS and OURS in after]:
            found[who] = train_table.difference(after[OURS], after[who], start)
    return found


def _timed(
    name: str,
    settings: dict[str, Any],
    rounds: int,
    workers: dict[str, Worker],
    failed: dict[str, str],
    pause: float,
) -> dict[str, Any]:
    """Everybody in turn: the first step, then the rounds."""

    def prepare(who: str, worker: Worker, number: int) -> dict[str, Any]:
        return worker.ask("prepare", objective=name, settings=settings)

    idle = take_turns(workers, prepare, 1, pause=0.0, failed=failed)
    first = take_turns(
        workers, lambda who, worker, number: worker.ask("run", least=0.0), 1, pause=pause, failed=failed
    )
    later = take_turns(
        workers, lambda who, worker, number: worker.ask("run"), rounds, pause=pause, failed=failed
    )
    limits = later.pop(LIMITS, [])
    return {
        "participants": {
            who: {
                "seconds": [one["seconds"] for one in later[who]],
                "first_seconds": first[who][0]["seconds"],
                "idle_bytes": idle[who][0]["resident"],
                "peak_bytes": max(one["peak"] for one in later[who]),
            }
            for who in (OURS, STEP, *train_cases.PYTORCH)
            if who in later
        },
        "passes": {what: [one["seconds"][what] for one in limits] for what in limits[0]["seconds"]}
        if limits
        else {},
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", action="append", choices=sorted(train_cases.TRAININGS), help="again for more"
    )
    parser.add_argument("--rounds", type=int, default=None, help=f"default: {ROUNDS}")
    parser.add_argument("--root", type=Path, default=None, help=f"records; default: {problem.ROOT}")
    parser.add_argument("--out", type=Path, default=None, help="default: docs/results/training_cpu")
    parser.add_argument("--table", action="store_true", help="write the table, and measure nothing")
    parser.add_argument("--toy", action="store_true", help="a few images and steps, to see whether it runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
