"""Model inversion by optimisation against ART's MIFace: the same descent, images compared, in one run.

    python -m benchmarks.inversion [--model mnist-standard] [--rounds N] [--out docs/results/inversion_cpu]

One process per library; in every round each inverts the same classes in turn while the other waits. Both make
the same steps of plain descent from the same image, so that the images must agree. It runs in the environment
that has ART (`make bench-env`), on a model that `python -m benchmarks.attacks` has prepared under `--root`.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _machine
from benchmarks._parity import store
from benchmarks._speed import problem, rounds
from benchmarks._speed.inversion_worker import ART, OURS, SIDES
from benchmarks._speed.protocol import Worker

BAR = 5.0
TOLERANCE = 0.02
"""The largest difference of a pixel: a descent of a hundred steps multiplies the rounding of its first."""


def cases(num: int) -> dict[str, list[int]]:
    """What is inverted: ART makes a pass for every class among its labels, so the fewer the faster it is."""
    return {"ten classes": [i % 10 for i in range(num)], "one class": [3] * num}


def measure(root: Path, model: str, *, num: int, steps: int, repeats: int, pause: float) -> dict[str, Any]:
    """Both libraries on every case: seconds by round, ratios, and the largest difference of their images."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder)
        arguments = (str(root.absolute()), model)
        workers = {
            name: Worker("benchmarks._speed.inversion_worker", *arguments, name, log=log / f"{name}.log")
            for name in SIDES
        }
        try:
            record = {
                "model": model,
                "num": num,
                "steps": steps,
                "versions": {name: worker.ask("about") for name, worker in workers.items()},
                "hardware": _machine.hardware(),
                "load": _machine.load(),
                "cases": {
                    name: _case(workers, classes, steps, repeats, pause, log)
                    for name, classes in cases(num).items()
                },
            }
        finally:
            for worker in workers.values():
                worker.close()
    return record


def _case(
    workers: dict[str, Worker], classes: list[int], steps: int, repeats: int, pause: float, folder: Path
) -> dict[str, Any]:
    what = {"classes": classes, "steps": steps}
    images = {}
    for name, worker in workers.items():
        # The first call compiles.
        worker.ask("run", **what)
        worker.ask("save", path=str(folder / f"{name}.npz"))
        images[name] = store.read_arrays(folder / f"{name}.npz")["images"]
    answers = rounds.take_turns(
        workers, lambda name, worker, _: worker.ask("run", **what), repeats, pause=pause
    )
    seconds = {name: [one["seconds"] for one in found] for name, found in answers.items()}
    return {
        "seconds": seconds,
        "times_faster": rounds.ratios(seconds[ART], seconds[OURS]),
        "difference": float(np.abs(images[OURS] - images[ART]).max()),
        "moved": float(np.abs(images[ART] - 0.5).max()),
    }


def page(record: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    versions = ", ".join(f"{k} {v}" for own in record["versions"].values() for k, v in own.items())
    lines = [
        "# Model inversion against ART's MIFace",
        "",
        f"{record['num']} images, {record['steps']} steps of plain descent on 1 - p (rate 0.1) from grey, "
        f"{record['model']}. MIFace tests inversely when to stop; with a threshold of 1 it makes all of its "
        "steps. Median seconds over rounds in turn, ratios round by round; bar: 5 times.",
        "",
        "| | ours | ART | times faster (least-most) | largest difference of a pixel | |",
        "| :-- | --: | --: | --: | --: | :-- |",
    ]
    for name, case in record["cases"].items():
        ours, art = (rounds.spread(case["seconds"][side])["median"] for side in (OURS, ART))
        ratio = case["times_faster"]
        lines.append(
            f"| {name} | {ours:.3g} s | {art:.3g} s | {ratio['median']:.1f} ({ratio['min']:.1f}-"
            f"{ratio['max']:.1f}) | {case['difference']:.2g} | {verdict(case)} |"
        )
    end = f"{record['hardware']}, load average {record['load']} before the run. {versions}."
    return "\n".join([*lines, "", end, ""])


def verdict(case: Mapping[str, Any]) -> str:
    """Whether the bar is met; nothing where the two did not find the same, or neither moved."""
    if case["difference"] > TOLERANCE or case["moved"] <= TOLERANCE:
        return "not the same images: no ratio counts"
    return "met" if case["times_faster"]["median"] >= BAR else "missed"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 1 where the images differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=problem.ROOT, help="where models were prepared")
    parser.add_argument("--model", default="mnist-standard")
    parser.add_argument("--num", type=int, default=96, help="images")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("docs/results/inversion_cpu"))
    args = parser.parse_args(argv)
    record = measure(
        args.root, args.model, num=args.num, steps=args.steps, repeats=args.rounds, pause=rounds.PAUSE
    )
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(record, indent=2) + "\n")
    (args.out / "README.md").write_text(page(record))
    print(page(record))
    return int(any("not the same" in verdict(case) for case in record["cases"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
