"""Speed of every attack against hand-written PyTorch and the public libraries, in one run.

    python -m benchmarks.attacks [--only MODEL:ATTACK ...] [--rounds N] [--out docs/results/speed_cpu]

One process per library; in every round each runs the same case in turn while the others idle. Results are
checked equal, then images per second, memory and compile time are set beside each other, and beside the
passes of the model that no attack can do without. It runs in the environment that has the peers
(`make bench-env`); a library that cannot be imported is left out, and said to be.

A case is kept under `--root` and made again only when its settings, weights, versions or code change. The
models are trained on the first call, or taken from `runs/parity`.
"""

import argparse
import os
import sys
from pathlib import Path

from benchmarks import _machine, parity
from benchmarks._parity import store
from benchmarks._speed import cases, measure, problem, table
from benchmarks._speed.protocol import WorkerFailed


def main(argv: list[str] | None = None) -> int:
    """The command; returns 1 where a library failed."""
    args = _parser().parse_args(argv)
    root = args.root or (problem.ROOT / "toy" if args.toy else problem.ROOT)
    out = args.out or (root / "table" if args.toy else Path("docs/results/speed_cpu"))
    options = {"rounds": args.rounds, "toy": args.toy}
    tasks = [cases.task(*names, **options) for names in cases.selected(args.only)]
    failed = False if args.table else _run(root, tasks, args)
    everything = [cases.task(*names, **options) for names in cases.selected([])]
    facts = {"seed": "0 for the first call, then the number of the round"}
    counts = table.write(root, out, "python -m benchmarks.attacks", everything, facts, toy=args.toy)
    print(f"{out / 'README.md'}: {counts['rows']} rows, {counts['met']} of {counts['bars']} bars met")
    return int(failed)


def _run(root: Path, tasks: list[cases.Task], args: argparse.Namespace) -> bool:
    """Measures what is not there yet; whether anybody failed."""
    for model in dict.fromkeys(task.model for task in tasks):
        _prepare(root, args.parity_root, model, args.data_dir)
    known, missing = measure.about(root, tasks)
    for library, error in missing.items():
        print(f"left out: {library}: {error}", flush=True)
    failed = False
    for task in tasks:
        if not args.again and measure.is_current(root, task, measure.key(root, task, known)):
            print(f"{task.name}: kept", flush=True)
            continue
        if not args.toy and _machine.load() > 0.5 * (os.cpu_count() or 1):
            print(f"{task.name}: the machine is busy, load average {_machine.load()}", flush=True)
        try:
            record = measure.measure(root, task, known, pause=0.0 if args.toy else measure.PAUSE)
        except WorkerFailed as error:  # the judge: without it nothing can be said of the others either
            failed = True
            print(f"{task.name}: FAILED: {error}", flush=True)
            continue
        times = {name: min(one["seconds"]) for name, one in record["libraries"].items()}
        print(f"{task.name}: " + ", ".join(f"{name} {t:.3g} s" for name, t in times.items()), flush=True)
        for library, error in record["failed"].items():
            failed = True
            print(f"{task.name}: {library} FAILED: {error}", flush=True)
    return failed


def _prepare(root: Path, parity_root: Path, model: str, data_dir: Path | None) -> None:
    """Trains with the parity benchmark's command where nothing is there, then takes the images."""
    source = cases.MODELS[model].source
    is_there = (store.model_dir(parity_root, source) / "problem.json").is_file()
    if source != "random" and not is_there:
        parity._prepare(parity_root.absolute(), source, data_dir)
    where = () if data_dir is None else (str(data_dir),)
    parity._python(
        "benchmarks._speed.prepare", str(root.absolute()), str(parity_root.absolute()), model, *where
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only", action="append", default=[], metavar="MODEL:ATTACK", help="run a part; again for more"
    )
    parser.add_argument("--rounds", type=int, default=None, help="instead of each case's own, 3 to 15")
    parser.add_argument(
        "--root", type=Path, default=None, help=f"models and records; default: {problem.ROOT}"
    )
    parser.add_argument("--out", type=Path, default=None, help="default: docs/results/speed_cpu")
    parser.add_argument("--parity-root", type=Path, default=store.ROOT, help="default: %(default)s")
    parser.add_argument("--data-dir", type=Path, default=None, help="prepared sets; default: $TFDS_DATA_DIR")
    parser.add_argument("--again", action="store_true", help="also what there is already")
    parser.add_argument("--table", action="store_true", help="write the table, and measure nothing")
    parser.add_argument(
        "--toy", action="store_true", help="a few images and steps, to see whether everything runs"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
