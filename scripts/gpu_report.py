#!/usr/bin/env python3
"""Measures this library on a GPU, beside PyTorch where that is installed, and writes a page and a JSON file.

    python scripts/gpu_report.py [--out DIR] [--budget SECONDS] [--only NET:WORK:PRECISION ...] [--tiny]

PGD-20, AT and SRT steps of PreActResNet-18 and WRN-34-10 in bfloat16 and float32, in turns with PyTorch
(channels_last, autocast, eager and torch.compile) on the same card; GridAdv 775 and APGD on SmallCNN; for
each the utilisation of the chip, memory and compile time. What does not fit the budget is left out, and the
report says so: ask for the rest with --only. It needs a checkout, Python 3.11, jax 0.10 with its build for
CUDA, flax, optax and numpy, no data and no installation; PyTorch may be missing. `--tiny` tries the command
on any machine, with small nets. JAX_COMPILATION_CACHE_DIR keeps compiled programs for the next run.
"""

import argparse
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import sys
import threading
import time
import traceback
from pathlib import Path

STARTED = time.monotonic()
ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("jax", "jaxlib", "flax", "optax", "numpy")


def main(argv: list[str] | None = None) -> int:
    """The command; 2 where it cannot run here, 1 where nothing was measured."""
    options = _parser().parse_args(argv)
    if problem := _problem():
        print(problem, file=sys.stderr)
        return 2
    _share_the_card(options)
    sys.path.insert(0, str(ROOT))
    import jax

    if jax.default_backend() == "cpu" and not options.tiny:
        print("JAX sees no accelerator here. To try the command on a CPU: --tiny.", file=sys.stderr)
        return 2
    from benchmarks._gpu import report as measuring

    options.out.mkdir(parents=True, exist_ok=True)
    report = measuring.start(options)
    clock = measuring.Clock(STARTED, options.budget)
    # Compilers do not look at the clock.
    timer = threading.Timer(max(clock.left, 0.0) + measuring.RESERVE / 2, _cut_off, (report, options))
    timer.daemon = True
    timer.start()
    measuring.run(report, options, clock, lambda text: print(text, flush=True))
    timer.cancel()
    _write(report, options)
    return 0 if report.cases else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_report"), help="folder; default: %(default)s")
    parser.add_argument(
        "--budget",
        type=float,
        default=530.0,
        metavar="SECONDS",
        help="of the whole command; default: %(default)g",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NET:WORK:PRECISION",
        help="preact, wrn or small_cnn; at, srt, pgd20, grid775 or apgd; bf16 or float32. Patterns such as "
        "'wrn:*:float32' or 'preact'; again for more",
    )
    parser.add_argument("--tiny", action="store_true", help="small nets, for trying the command")
    parser.add_argument(
        "--torch", default="eager,compile", metavar="FORMS", help="eager,compile, one of them, or none"
    )
    parser.add_argument(
        "--peak-tflops", type=float, help="dense bf16 peak of the chip; default: from a table of known chips"
    )
    parser.add_argument("--preact-batch", type=int, default=1024, help="default: %(default)s")
    parser.add_argument("--wrn-batch", type=int, default=512, help="default: %(default)s")
    parser.add_argument("--small-cnn-batch", type=int, default=512, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument(
        "--round-seconds", type=float, default=1.0, help="of one participant; default: %(default)s"
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FILE.npz",
        help="images [n, 32, 32, 3] and labels [n]; default: random",
    )
    return parser


def _problem() -> str | None:
    """What is missing, with the cure."""
    if sys.version_info < (3, 11):  # noqa: UP036 - the script runs where the package is not installed
        return f"Needs Python 3.11 or newer, this is {sys.version.split()[0]}."
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return (
            f"Missing here: {', '.join(missing)}. Install them beside JAX's build for your CUDA: "
            "pip install 'jax[cuda13]>=0.10' flax optax numpy"
        )
    if tuple(int(part) for part in importlib.metadata.version("jax").split(".")[:2]) < (0, 10):
        return f"Needs jax 0.10 or newer, this is {importlib.metadata.version('jax')}."
    return None


def _share_the_card(options: argparse.Namespace) -> None:
    """JAX takes its share of the memory at once; PyTorch, in a process beside it, needs room for its own."""
    alone = options.torch == "none" or importlib.util.find_spec("torch") is None
    if "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:  # its former name; JAX refuses both at once
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", "0.9" if alone else "0.45")


def _cut_off(report, options: argparse.Namespace) -> None:
    """The budget ended while a compiler or a kernel was at work: writes what there is, and ends."""
    from benchmarks._gpu import report as measuring

    # Whatever goes wrong here, nobody else would end the process.
    try:
        _write(report, options)
        print("The budget ended during a case; what was measured before is in the report.", flush=True)
        measuring.end_rivals()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0 if report.cases else 1)


def _write(report, options: argparse.Namespace) -> None:
    from benchmarks._gpu import page
    from benchmarks._gpu import report as measuring

    report.seconds = round(time.monotonic() - STARTED, 1)
    found = dataclasses.asdict(report) | {
        "command": measuring.command(),
        "precisions": measuring.precisions(),
    }
    (options.out / "gpu_report.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    path = options.out / "gpu_report.md"
    path.write_text(page.page(found), encoding="utf-8")
    print(f"{path}: {len(report.cases)} cases, {len(report.skipped)} left out", flush=True)


if __name__ == "__main__":
    sys.exit(main())
