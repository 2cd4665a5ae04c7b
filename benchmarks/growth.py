"""How cost grows: time against batch, steps, grid, image size and number of devices, with fitted exponents.

    python -m benchmarks.growth [--only AXIS ...] [--rounds N] [--out docs/results/growth_cpu]

The sizes of an axis take turns in every round. An axis is kept under `--root` and made again only when its
settings, versions or code change.
"""

import argparse
import os
import random
import sys
from pathlib import Path
from typing import Any

from benchmarks import _machine
from benchmarks._parity import store
from benchmarks._speed import growth_cases, growth_table, problem
from benchmarks._speed.protocol import Worker

ROUNDS = 5


def main(argv: list[str] | None = None) -> int:
    """The command."""
    args = _parser().parse_args(argv)
    root = args.root or (problem.ROOT / "toy" if args.toy else problem.ROOT)
    out = args.out or (root / "growth_table" if args.toy else Path("docs/results/growth_cpu"))
    rounds = args.rounds or (1 if args.toy else ROUNDS)
    for axis in () if args.table else args.only or growth_cases.AXES:
        _measured(root / "growth", axis, rounds, args.toy)
    axes = growth_table.write(root / "growth", out, "python -m benchmarks.growth", toy=args.toy)
    print(f"{out / 'README.md'}: {axes} axes")
    return 0


def _measured(folder: Path, axis: str, rounds: int, toy: bool) -> None:
    """Makes the record of an axis, unless it is there."""
    settings = growth_cases.settings(axis, toy=toy)
    record: dict[str, Any] = {"axis": axis, "settings": settings, "rounds": rounds}
    workers: dict[int, Worker] = {}
    try:
        _start(folder, axis, settings["values"], workers)
        known = next(iter(workers.values())).ask("about")
        machine = [_machine.hardware(), _machine.environment()]
        record["key"] = store.digest({**record, "known": known, "machine": machine})
        if (store.read_json(folder / f"{axis}.json") or {}).get("key") == record["key"]:
            print(f"{axis}: kept", flush=True)
            return
        record |= {"versions": known["versions"], "hardware": _machine.hardware(), "load": _machine.load()}
        for value, worker in workers.items():
            worker.ask("prepare", value=value, settings=settings)
        record["seconds"] = _rounds(workers, rounds)
    finally:
        for worker in set(workers.values()):
            worker.close()
    store.write_json(folder / f"{axis}.json", record)
    print(f"{axis}: {', '.join(f'{v} {min(s):.3g} s' for v, s in record['seconds'].items())}", flush=True)


def _start(folder: Path, axis: str, values: list[int], workers: dict[int, Worker]) -> None:
    """Puts the worker of each value into `workers`: one for all, or, over devices, one for each."""
    one_process = growth_cases.AXES[axis].one_process
    worker = None
    for value in values:
        if worker is None or not one_process:
            count = 1 if one_process else value
            flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
            worker = Worker(
                "benchmarks._speed.growth_worker",
                axis,
                log=folder / "logs" / f"{axis}.log",
                environment={"XLA_FLAGS": flags.strip()},
            )
        workers[value] = worker


def _rounds(workers: dict[int, Worker], rounds: int) -> dict[str, list[float]]:
    """Seconds by value; the order changes from round to round."""
    seconds: dict[str, list[float]] = {str(value): [] for value in workers}
    for number in range(rounds):
        order = list(workers)
        random.Random(number).shuffle(order)
        for value in order:
            seconds[str(value)].append(workers[value].ask("run", value=value)["seconds"])
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", choices=sorted(growth_cases.AXES), help="again for more")
    parser.add_argument("--rounds", type=int, default=None, help=f"default: {ROUNDS}")
    parser.add_argument("--root", type=Path, default=None, help=f"records; default: {problem.ROOT}")
    parser.add_argument("--out", type=Path, default=None, help="default: docs/results/growth_cpu")
    parser.add_argument("--table", action="store_true", help="write the table, and measure nothing")
    parser.add_argument("--toy", action="store_true", help="small sizes, to see whether it runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
