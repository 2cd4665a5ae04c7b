"""What bfloat16 in the layers does to robust accuracy: the same run, images and draws at both precisions.

    python -m benchmarks.bf16 [RUN ...] [--attacks NAMES] [--num N] [--data-dir DIR]

Per run and attack three accuracies: all in float32; attack and judge in bfloat16; and the images that the
attack found in bfloat16, judged in float32, which says whether an attack loses strength by running in
bfloat16. Differences are paired over the images. Without RUN it takes the SRT run of
`jaxrobust reproduce srt_mnist`. Any CPU can run it: bfloat16 is rounded there at the same places as on an
accelerator, only not faster. It writes `docs/results/bf16` (`--out`).
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxrobust import evaluation, experiments
from jaxrobust.experiments import Run
from jaxrobust.models import Precision

RUN = Path("runs/srt_mnist/pixels/srt-seed0")
ATTACKS = "none,fgsm,mi_fgsm,pgd:steps=40,restarts=2,apgd_ce"
NUM = 2000


def measure(
    run: Run, attacks: Sequence[str], *, num: int, data_dir: Path | None = None, batch_size: int = 250
) -> list[dict[str, Any]]:
    """A row per attack, and one for the worst of all: accuracies, paired differences, versions, hardware."""
    options: dict[str, Any] = {"attacks": attacks, "num": num, "data_dir": data_dir, "batch_size": batch_size}
    full = experiments.evaluate_run(run, **options)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bf16.npz"
        half = experiments.evaluate_run(run, **options, precision=Precision.BF16, save_adversarial=file)
        judged = experiments.evaluate_stored(run, file, batch_size=batch_size)
    rows = []
    for row in full.rows:
        name = row["attack"]
        flags = {
            kind: report.flags[f"correct/{name}"]
            for kind, report in (("float32", full), ("bf16", half), ("bf16_judged_float32", judged))
        }
        of_half = half.row(name)
        rows.append(
            {
                "run": run.folder.name,
                "attack": name,
                "radius": row["radius"],
                "n": row["n"],
                **{f"{kind}_accuracy": float(right.mean()) for kind, right in flags.items()},
                "bf16": paired(flags["bf16"], flags["float32"]),
                "bf16_judged_float32": paired(flags["bf16_judged_float32"], flags["float32"]),
                "seconds": {"float32": row["seconds"], "bf16": of_half["seconds"]},
                "config": row.get("config"),
                "seed": row["seed"],
                "versions": row["versions"],
                "hardware": row["hardware"],
            }
        )
    return rows


def paired(ours: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """The difference of two accuracies on the same images, ours less the other, with its 95% interval.

    Wald's interval after half an image is added to each of the four cells (Agresti and Min, Statistics in
    Medicine 24, 2005, 729-740): plain Wald has no width where no image changed, as if that were certain.

    >>> right = np.array([True] * 98)
    >>> {name: round(value, 3) for name, value in paired(right, right).items()}
    {'difference': 0.0, 'low': -0.02, 'high': 0.02, 'gained': 0, 'lost': 0}
    """
    n, gained, lost = len(ours), int(np.sum(ours & ~other)), int(np.sum(~ours & other))
    middle = (gained - lost) / (n + 2)
    error = ((gained + lost + 1 - (gained - lost) ** 2 / (n + 2)) ** 0.5) / (n + 2)
    return {
        "difference": (gained - lost) / n,
        "low": middle - 1.96 * error,
        "high": middle + 1.96 * error,
        "gained": gained,
        "lost": lost,
    }


def write(rows: Sequence[dict[str, Any]], out: Path, command: str) -> Path:
    """`rows.jsonl` and `README.md`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    head = [
        "# bfloat16 against float32, on the same images\n",
        "Accuracy in percent. `bf16`: the layers compute in bfloat16, for the attack and for the judge. "
        "`judged in float32`: the images that the attack found on the bfloat16 model, shown to the float32 "
        "model (those that the bfloat16 model had wrong before are not attacked). Differences are to float32 "
        "in points, with a 95% interval paired over the images (Agresti and Min, 2005) and the images that "
        "turned right and wrong. Random starts are the same at both precisions. `worst of all` is the "
        "per-image worst over the attacks.\n",
        f"```\n{command}\n```\n",
    ]
    body = []
    for run in dict.fromkeys(row["run"] for row in rows):
        own = [row for row in rows if row["run"] == run]
        body += [f"## {run}, {own[0]['n']:,} images\n", _table(own), ""]
    versions = ", ".join(f"{name} {version}" for name, version in rows[-1]["versions"].items())
    facts = [
        f"- Versions: {versions}",
        f"- Hardware: {', '.join(sorted({row['hardware'] for row in rows}))}",
        f"- Seed of the attacks: {rows[-1]['seed']}",
        "- Seconds in the rows are of a CPU, which widens bfloat16, and of a shared machine: no speeds.",
    ]
    path = out / "README.md"
    path.write_text("\n".join(head + body + facts) + "\n", encoding="utf-8")
    return path


def _table(rows: Sequence[dict[str, Any]]) -> str:
    titles = ["attack", "radius", "float32", "bf16", "difference", "judged in float32", "difference"]
    lines = [titles, [":--", ":--", *["--:"] * 5]]
    names = {evaluation.CLEAN: "none (clean)", evaluation.WORST: "worst of all"}
    for row in rows:
        kinds = ("float32", "bf16", "bf16_judged_float32")
        accuracy = {kind: f"{100 * row[f'{kind}_accuracy']:.2f}" for kind in kinds}
        lines.append(
            [
                names.get(row["attack"], row["attack"]),
                row["radius"],
                accuracy["float32"],
                accuracy["bf16"],
                _difference(row["bf16"]),
                accuracy["bf16_judged_float32"],
                _difference(row["bf16_judged_float32"]),
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _difference(found: dict[str, float]) -> str:
    points = [f"{100 * found[name]:+.2f}" for name in ("difference", "low", "high")]
    return f"{points[0]} ({points[1]} to {points[2]}; {found['gained']} right, {found['lost']} wrong)"


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bf16", description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help=f"default: {RUN}")
    parser.add_argument("--attacks", default=ATTACKS, metavar="NAMES", help="default: %(default)s")
    parser.add_argument("--num", type=int, default=NUM, help="the first N test images; default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=250, help="default: %(default)s")
    parser.add_argument("--data-dir", type=Path, help="prepared sets; default: $TFDS_DATA_DIR")
    parser.add_argument("--out", type=Path, default=Path("docs/results/bf16"), help="default: %(default)s")
    args = parser.parse_args(argv)
    runs = args.runs or [RUN]
    rows = []
    for folder in runs:
        found = measure(
            experiments.load_run(folder),
            evaluation.split_names(args.attacks),
            num=args.num,
            data_dir=args.data_dir,
            batch_size=args.batch_size,
        )
        rows += found
        print(f"{folder}\n{_table(found)}")
    command = (
        f"python -m benchmarks.bf16 {' '.join(map(str, runs))} --attacks {args.attacks} --num {args.num}"
    )
    print(write(rows, args.out, command))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
