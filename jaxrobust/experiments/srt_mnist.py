"""MNIST with 1,000 labels: Standard, AT, RT and SRT, in pixels and in geometry.

A short form of Tables 2, 3, 5 and 6 of arXiv 2003.06974, for two cores: 1,000 labelled (stratified) and 9,000
unlabelled images, 500 Adam steps of batch 128, the same for all rows; not comparable with the published
numbers, which come from 10,000 labels and about 90 times the steps. The schedule was kept after one full
SRT run of it had 98.1% clean and 79.8% under PGD-40 at 0.3 on 1,000 validation images; no other was tried.

    jaxrobust reproduce srt_mnist --data-dir DIR --seeds 0 1 2 --only pixels
    jaxrobust reproduce srt_mnist --data-dir DIR --seeds 0 --only spatial
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrobust import _validate, evaluation
from jaxrobust.experiments import _results, registry
from jaxrobust.experiments._files import Row, read_rows
from jaxrobust.experiments._results import Cell, LogFn

MODELS = {"standard": "Standard", "at": "AT", "rt": "RT (source)", "rt_full": "RT (full batch)", "srt": "SRT"}
PARTS = {
    "pixels": (
        "mnist1k",
        ("none", "fgsm", "mi_fgsm", *(f"pgd:steps=40,restarts=2,eps={eps}" for eps in (0.1, 0.2, 0.3))),
    ),
    "spatial": (
        "mnist1k_spatial",
        ("none", "rand_adv", "grid_adv", "rand_adv.t", "grid_adv.t", "rand_adv.r", "grid_adv.r"),
    ),
}
NUM = 2000
OUT = Path("docs/results/srt_mnist")


def reproduce(
    *,
    runs_dir: Path,
    log_fn: LogFn,
    data_dir: Path | None = None,
    out_dir: Path = OUT,
    seeds: tuple[int, ...] = (0, 1, 2),
    only: str | None = None,
    num: int = NUM,
) -> None:
    """Trains and attacks every row of both tables; files are written after every run, so that a kill loses
    one.

    Args:
        runs_dir: for the runs; finished ones are kept, others resumed.
        log_fn: receives lines.
        data_dir: the folder with prepared MNIST; None reads TFDS_DATA_DIR.
        out_dir: for `rows.jsonl`, `README.md` and one PNG a part.
        seeds: of the runs and their splits.
        only: `pixels` or `spatial`; None for both.
        num: test images.
    """
    if only is not None:
        _validate.member("part", only, PARTS)
    path = out_dir / "rows.jsonl"
    for seed in seeds:
        for cell in cells((only,) if only else tuple(PARTS), (seed,), runs_dir, num):
            _results.run_cell(cell, path, data_dir=data_dir, log_fn=log_fn)
            _write(path, out_dir, runs_dir, num)
    log_fn(f"Results: {out_dir / 'README.md'}")


def cells(parts: Sequence[str], seeds: Sequence[int], runs_dir: Path, num: int) -> list[Cell]:
    """Every run of these parts and seeds."""
    return [
        Cell(
            part=part,
            model=model,
            experiment=registry.get(f"{PARTS[part][0]}_{row}").seeded(seed),
            attacks=PARTS[part][1],
            num=num,
            folder=runs_dir / part / f"{row}-seed{seed}",
        )
        for part in parts
        for seed in seeds
        for row, model in MODELS.items()
    ]


def _write(path: Path, out_dir: Path, runs_dir: Path, num: int) -> None:
    """Tables and plots of the rows that are there so far."""
    rows = read_rows(path)
    seeds = sorted({row["run_seed"] for row in rows})
    known = [c for c in cells(tuple(PARTS), seeds, runs_dir, num) if any(r["key"] == c.key for r in rows)]
    text = [_head(num)]
    for part in PARTS:
        if any(row["part"] == part for row in rows):
            text += _section(rows, part, known)
            _plot(rows, part, out_dir / f"{part}.png")
    (out_dir / "README.md").write_text("\n\n".join(text) + "\n", encoding="utf-8")


def _head(num: int) -> str:
    return (
        "# SRT against RT on MNIST with 1,000 labels\n\n"
        "Written by the commands below; `rows.jsonl` has every number with its radius, seed, versions and "
        f"time. Accuracy in percent on the first {num:,} test images, at the checkpoint with the best robust "
        "accuracy on 1,000 validation images of the training set. `±` is the 95% Student t interval over "
        "seeds. RandAdv and GridAdv rows count every image, as their source does; `worst of all` is the "
        "per-image worst over attacks, the clean image included.\n\n"
        "1,000 labelled (stratified) and 9,000 unlabelled images, 500 Adam steps of 128 images, the same for "
        "all rows; a shorter schedule than the paper's, so these are not its numbers. `RT (source)` sees the "
        "13 labelled images of each of SRT's steps, `RT (full batch)` 128 labelled ones. In geometry AT is "
        "Worst-of-10. Each seed draws its own split, the same for all rows."
    )


def _section(rows: list[Row], part: str, known: Sequence[Cell]) -> list[str]:
    own = [row for row in rows if row["part"] == part]
    seeds = sorted({row["run_seed"] for row in own})
    command = (
        f"jaxrobust reproduce srt_mnist --only {part} --seeds {' '.join(map(str, seeds))} --data-dir DIR"
    )
    if own[0]["n"] != NUM:
        command += f" --num {own[0]['n']}"
    models = list(MODELS.values())
    return [
        f"## {part.capitalize()}",
        f"```\n{command}\n```",
        _results.accuracy_table(own, part, models),
        _results.difference_table(own, part, known, "SRT", "RT (full batch)"),
        f"![{part}]({part}.png)",
        _results.provenance(own),
        f"<details><summary>Every run</summary>\n\n{_results.runs_table(own, part)}\n\n</details>",
    ]


def _plot(rows: list[Row], part: str, path: Path) -> None:
    """Mean accuracy under each attack, a line per model, with the interval over seeds."""
    from matplotlib.figure import Figure

    grouped = _results.group(rows, part)
    attacks = [name for name in grouped if name != evaluation.WORST]
    figure = Figure(figsize=(8, 4.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(MODELS)
    for at, model in enumerate(MODELS.values()):
        summaries = [_summary(grouped[attack].get(model, [])) for attack in attacks]
        places = [i + (at - (len(MODELS) - 1) / 2) * width for i in range(len(attacks))]
        means = [100 * mean for mean, _ in summaries]
        errors = [100 * (half or 0.0) for _, half in summaries]
        axes.bar(
            places, means, width, label=model, yerr=errors if any(errors) else None, error_kw={"lw": 0.8}
        )
    axes.set_xticks(
        range(len(attacks)),
        [_results.label(a).replace(" (", "\n(").replace(", ", ",\n") for a in attacks],
        fontsize=8,
    )
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 100)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(ncols=len(MODELS), fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.savefig(path)


def _summary(found: list[Row]) -> tuple[float, Any]:
    return _results.mean_interval([row["accuracy"] for row in found]) if found else (0.0, None)
