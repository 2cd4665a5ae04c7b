"""Every attack of this library against Foolbox, ART, torchattacks and the code of AutoAttack's authors.

    python -m benchmarks.parity [--only MODEL:ATTACK:LIBRARY ...] [--out docs/results/parity]

Trains (or finds) four models, exports their weights to PyTorch and to plain JAX, lets every library attack
the same images within the same budget, judges all images by one model and writes a table. `make parity` runs
it in the environment that has the peers (`make bench-env`).

Everything is kept under `--root`: an interrupted run goes on where it stopped, and a part is made anew only
when what decides it has changed. `--only` runs a part (`mnist-srt:cw:foolbox`, `*:pgd`, `cifar10-*:*:ours`);
the table is always written from all that there is.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from benchmarks._parity import cases, store, table

_REUSE = Path("runs/srt_mnist/pixels")


def main(argv: list[str] | None = None) -> int:
    """The command; returns 1 where an attack failed or a peer is ahead by more than chance."""
    args = _parser().parse_args(argv)
    root = args.root.absolute()
    tasks = cases.selected(args.only)
    if not args.table:
        wanted = {task[0] for task in tasks}
        wanted |= {cases.STARTS[model] for model in wanted & cases.STARTS.keys()}
        for model in sorted(wanted, key=list(cases.MODELS).index):
            _prepare(root, model, args.data_dir)
        if args.prepare:
            return 0
        for library in cases.LIBRARIES:
            mine = [f"{model}:{case}" for model, case, name in tasks if name == library]
            if mine:
                _python("benchmarks._parity.worker", str(root), library, *mine, may_fail=True)
    for side in ("jax", "torch"):
        _python("benchmarks._parity.judge", str(root), side)
    rows = table.write(root, args.out, "python -m benchmarks.parity", _facts(root))
    failed = [row for row in rows if table.behind(row)]
    print(f"{args.out / 'README.md'}: {len(rows)} results, {len(failed)} failed or behind a peer")
    return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parity", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="MODEL:ATTACK:LIBRARY",
        help="run a part; again for more",
    )
    parser.add_argument(
        "--root", type=Path, default=store.ROOT, help="models and images (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("docs/results/parity"), help="default: %(default)s")
    parser.add_argument("--data-dir", type=Path, default=None, help="prepared sets; default: $TFDS_DATA_DIR")
    parser.add_argument("--prepare", action="store_true", help="train and export, and stop")
    parser.add_argument("--table", action="store_true", help="judge and write the table, and attack nothing")
    return parser


def _prepare(root: Path, model: str, data_dir: Path | None) -> None:
    """Trains and exports in a process of its own: JAX keeps its memory and threads."""
    reuse = [_REUSE.absolute() / f"{model.split('-')[1]}-seed0"] if model.startswith("mnist") else []
    arguments = [str(root), model, "" if data_dir is None else str(data_dir), *map(str, reuse)]
    _python("benchmarks._parity.prepare", *arguments)


def _python(module: str, *arguments: str, may_fail: bool = False) -> None:
    """Runs one of our modules; PyTorch and JAX never share a process, for their thread pools do not."""
    command = [sys.executable, "-m", module, *arguments]
    code = subprocess.run(command, env=os.environ | {"PYTHONWARNINGS": "ignore"}).returncode
    if code and not may_fail:
        raise SystemExit(f"{module} ended with status {code}.")


def _facts(root: Path) -> dict[str, str]:
    record = next(
        filter(None, (store.read_json(store.model_dir(root, m) / "problem.json") for m in cases.MODELS))
    )
    return {"seed": str(cases.SEED), "hardware": record["hardware"]}


if __name__ == "__main__":
    sys.exit(main())
