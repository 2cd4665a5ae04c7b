"""Saliency maps against Captum: on identical weights the same maps, and how long they take.

    python -m benchmarks.saliency [--only MAP ...] [--rounds N] [--out docs/results/saliency_captum]

One process a side, in turns in one run. RISE, which Captum has not, is measured against as many bare forward
passes. The model and its images are those of `benchmarks.attacks`.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _machine
from benchmarks._parity import store
from benchmarks._saliency import cases
from benchmarks._speed import problem
from benchmarks._speed.protocol import Worker
from benchmarks._speed.rounds import PAUSE, ratios, spread, take_turns
from benchmarks.attacks import _prepare

ROUNDS = 5


def main(argv: list[str] | None = None) -> int:
    """The command; returns 1 where a side failed."""
    args = _parser().parse_args(argv)
    root = args.root or (problem.ROOT / "toy" if args.toy else problem.ROOT)
    out = args.out or (root / "saliency" if args.toy else Path("docs/results/saliency_captum"))
    if not (store.model_dir(root, cases.MODEL) / "problem.json").is_file():
        _prepare(root, args.parity_root, cases.MODEL, args.data_dir)
    rows, failed = [], False
    for name in args.only or cases.CASES:
        row = _measured(root, name, args)
        failed |= bool(row["failed"]) or not _alike(row)
        rows.append(row)
        print(
            f"{name}: {row.get('ratio', {}).get('median')}, correlation {row.get('correlation')}", flush=True
        )
    _write(rows, out)
    return int(failed)


def _measured(root: Path, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Both sides' maps compared, then their times in turns."""
    case, failed, maps = cases.CASES[name], {}, {}
    workers = {
        side: Worker(
            "benchmarks._saliency.worker",
            str(root.absolute()),
            side,
            log=root / "logs" / f"saliency-{side}.log",
        )
        for side in case.rivals
    }
    row: dict[str, Any] = {
        "map": name,
        "hardware": _machine.hardware(),
        "load": _machine.load(),
        "failed": failed,
    }
    num = cases.TOY_IMAGES if args.toy else cases.NUM_IMAGES
    rounds = args.rounds or (1 if args.toy else ROUNDS)
    try:
        with tempfile.TemporaryDirectory() as temporary:

            def prepare(side: str, worker: Worker, number: int) -> dict[str, Any]:
                into = Path(temporary) / f"{side}.npz"
                found = worker.ask("prepare", case=name, num=num, baseline=case.baseline, into=str(into))
                maps[side] = store.read_arrays(into)["maps"]
                return found

            row["versions"] = {k: v for worker in workers.values() for k, v in worker.ask("about").items()}
            take_turns(workers, prepare, 1, pause=0.0, failed=failed)
            found = take_turns(
                workers,
                lambda side, worker, number: worker.ask("run", **({"least": 0.0} if args.toy else {})),
                rounds,
                pause=0.0 if args.toy else PAUSE,
                failed=failed,
            )
    finally:
        for worker in workers.values():
            worker.close()
    seconds = {side: [one["seconds"] for one in answers] for side, answers in found.items()}
    row |= {"num_images": num, "seconds": {side: spread(values) for side, values in seconds.items()}}
    other = case.rivals[1]
    if not failed:
        above, below = (cases.OURS, other) if other == cases.LIMIT else (other, cases.OURS)
        row["ratio"] = ratios(seconds[above], seconds[below])
    if case.correlation and not failed:
        row["correlation"] = _correlation(maps[cases.OURS], maps[other])
    return row


def _correlation(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Pearson's over each image's pixels, the least and the median; the largest difference, as a share."""
    a, b = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (first, second))
    with np.errstate(invalid="ignore"):
        each = np.nan_to_num([float(np.corrcoef(x, y)[0, 1]) for x, y in zip(a, b)], nan=0.0).tolist()
    return {
        "min": min(each),
        "median": float(np.median(each)),
        "difference": float(np.abs(a - b).max() / np.abs(b).max()),
    }


def _write(rows: list[dict[str, Any]], out: Path) -> None:
    """`rows.jsonl`, in which a map's row takes the place of an earlier one, and `README.md`."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / "rows.jsonl"
    before = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    known = {row["map"]: row for row in [*before, *rows]}
    ordered = [known[name] for name in cases.CASES if name in known]
    file.write_text("".join(json.dumps(row) + "\n" for row in ordered))
    (out / "README.md").write_text(_page(ordered))


def _page(rows: list[dict[str, Any]]) -> str:
    versions: dict[str, str] = {}
    num = rows[0]["num_images"]
    for row in rows:
        versions |= row["versions"]
    lines = [
        "# Saliency maps against Captum",
        "",
        "```",
        "python -m benchmarks.saliency",
        "```",
        "",
        f"Written by the command above; `rows.jsonl` has every number. SmallCNN on MNIST, {num} images in a "
        "batch, identical weights, the logit of the label. Each side in its own process, in turns in one "
        "run; times are medians over rounds, ratios round by round (least to greatest). Captum has the "
        "fastest of several chunk sizes. The ratio says how many times as long Captum takes; of RISE, how "
        "much longer it takes than its bare forward passes. Maps whose definitions agree are to correlate "
        f"by {cases.CORRELATION:g} on every image.",
        "",
        "| map | ours, ms | the other, ms | ratio | bar | correlation, worst image | largest difference | |",
        "| :-- | --: | --: | --: | --: | --: | --: | :-- |",
    ]
    for row in rows:
        case = cases.CASES[row["map"]]
        if row["failed"]:
            lines.append(f"| {case.title} | | | failed: {row['failed']} | | | | |")
            continue
        ratio, other = row["ratio"], row["seconds"][case.rivals[1]]["median"]
        least = "at most" if case.rivals[1] == cases.LIMIT else "at least"
        bar = "" if case.bar is None else f"{least} {case.bar:g}, {_met(row)}"
        alike = row.get("correlation")
        cells = [
            case.title,
            f"{1000 * row['seconds'][cases.OURS]['median']:.1f}",
            f"{1000 * other:.1f} ({case.rivals[1]})",
            f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
            bar,
            f"{alike['min']:.4f}{'' if _alike(row) else ', **too low**'}" if alike else "",
            f"{alike['difference']:.1e}" if alike else "",
            case.note,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    load = max(row["load"] for row in rows)
    return "\n".join(
        [
            *lines,
            "",
            f"{said}; {', '.join(sorted({row['hardware'] for row in rows}))}; load before {load}.",
            "",
        ]
    )


def _alike(row: dict[str, Any]) -> bool:
    """Whether the maps are the same, where the definitions are."""
    return "correlation" not in row or row["correlation"]["min"] >= cases.CORRELATION


def _met(row: dict[str, Any]) -> str:
    case, ratio = cases.CASES[row["map"]], row["ratio"]["median"]
    assert case.bar is not None
    return "met" if (ratio <= case.bar if case.rivals[1] == cases.LIMIT else ratio >= case.bar) else "missed"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saliency", description=__doc__.split("\n")[0])
    parser.add_argument("--only", action="append", choices=sorted(cases.CASES), help="again for more")
    parser.add_argument("--rounds", type=int, default=None, help=f"default: {ROUNDS}")
    parser.add_argument("--root", type=Path, default=None, help=f"models; default: {problem.ROOT}")
    parser.add_argument("--out", type=Path, default=None, help="default: docs/results/saliency_captum")
    parser.add_argument("--parity-root", type=Path, default=store.ROOT, help="default: %(default)s")
    parser.add_argument("--data-dir", type=Path, default=None, help="prepared sets; default: $TFDS_DATA_DIR")
    parser.add_argument("--toy", action="store_true", help="a few images, to see whether it runs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
