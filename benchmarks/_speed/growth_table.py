"""README.md, rows.jsonl and the plot of the growth of cost. No JAX, no PyTorch."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._parity import store
from benchmarks._speed import exponents
from benchmarks._speed.growth_cases import AXES
from benchmarks._speed.rounds import spread

PLOT = "growth.png"


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """Times by size and the fitted exponent."""
    axis, sizes = record["axis"], record["settings"]["sizes"]
    seconds = [record["seconds"][str(value)] for value in record["settings"]["values"]]
    points = [
        {"axis": axis, "size": size, "rounds": len(each), "seconds": spread(each)}
        for size, each in zip(sizes, seconds, strict=True)
    ]
    growth = exponents.fit(sizes, [point["seconds"]["median"] for point in points])
    return {"axis": axis, "points": points, "growth": growth, "expected": AXES[axis].expected}


def write(folder: Path, out: Path, command: str, *, toy: bool = False) -> int:
    """Writes all three files from the records in `folder`; returns how many axes there are."""
    records = [record for axis in AXES if (record := store.read_json(folder / f"{axis}.json"))]
    found = [summary(record) for record in records]
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for record, one in zip(records, found):
        facts = {name: record[name] for name in ("settings", "versions", "hardware", "load")}
        rows += [{**point, **facts} for point in one["points"]]
        fitted = {**one["growth"]._asdict(), "expected": one["expected"]}
        rows.append({"axis": one["axis"], "fit": fitted, **facts})
    (out / "rows.jsonl").write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
    if found:
        plot(found, out / PLOT)
    (out / "README.md").write_text(readme(found, records, command, toy))
    return len(found)


def plot(found: list[dict[str, Any]], path: Path) -> None:
    """One panel an axis, both scales logarithmic."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(found), figsize=(3.2 * len(found), 3.2), squeeze=False)
    for panel, one in zip(panels[0], found):
        sizes = np.array([point["size"] for point in one["points"]], float)
        middle, low, high = (
            np.array([point["seconds"][name] for point in one["points"]]) for name in ("median", "min", "max")
        )
        panel.errorbar(sizes, middle, [middle - low, high - middle], fmt="o", ms=4, capsize=2)
        growth = one["growth"]
        panel.plot(sizes, growth.scale * sizes**growth.exponent, lw=1)
        middle_of = float(np.sqrt(low.min() * high.max()))
        # A decade at least, or a cost that stays would look like one that leaps.
        span = max(float(np.sqrt(high.max() / low.min())) * 1.3, 10**0.5)
        panel.set(xscale="log", yscale="log", xlabel=AXES[one["axis"]].label, ylabel="seconds")
        panel.set_ylim(middle_of / span, middle_of * span)
        panel.set_xticks(sizes, [f"{size:g}" for size in sizes], fontsize=8, rotation=30)
        panel.xaxis.minorticks_off()
        panel.set_title(
            f"exponent {growth.exponent:.2f} ({growth.low:.2f} to {growth.high:.2f})\n"
            f"in proportion: {one['expected']:g}",
            fontsize=9,
        )
        panel.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


_HEAD = """# How cost grows

```
{command}
```

Written by the command above; `rows.jsonl` has every number. Each quantity grows while the others stay; in
every round each size takes its turn. The exponent is that of a power law fitted to the medians (least squares
of the logarithms), with its 95% interval: 1 is a cost in proportion, below 1 means that a fixed part is
shared. Devices are fake ones on the same cores: dividing the same batch should cost nothing, exponent 0.

![time against size]({plot})"""


def readme(found: list[dict[str, Any]], records: list[dict[str, Any]], command: str, toy: bool) -> str:
    """The result as Markdown."""
    parts = [_HEAD.format(command=command, plot=PLOT)]
    if toy:
        parts.append("**Toy sizes: nothing here is a measurement.**")
    lines = [
        "| against | what | exponent (95%) | in proportion | variance explained | size: seconds |",
        "| :-- | :-- | --: | --: | --: | :-- |",
    ]
    for one in found:
        growth, axis = one["growth"], AXES[one["axis"]]
        times = ", ".join(f"{p['size']}: {p['seconds']['median']:.3g}" for p in one["points"])
        lines.append(
            f"| {axis.label} | {axis.title} | {growth.exponent:.2f} ({growth.low:.2f} to {growth.high:.2f}) "
            f"| {axis.expected:g} | {growth.explained:.3f} | {times} |"
        )
    parts.append("\n".join(lines))
    loads = [record["load"] for record in records] or [0.0]
    versions = {name: version for record in records for name, version in record["versions"].items()}
    facts = [
        "## Provenance",
        "",
        f"- versions: {', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}",
        f"- hardware: {'; '.join(dict.fromkeys(record['hardware'] for record in records))}",
        f"- load average when an axis began: {min(loads):g} to {max(loads):g}",
        "- seed: 0; random weights and images, for times do not depend on them",
    ]
    for record in records:
        fixed = {k: v for k, v in record["settings"].items() if k not in ("values", "sizes")}
        said = ", ".join(f"{name} {value}" for name, value in fixed.items())
        facts.append(f"- {record['axis']}: {said}; {record['rounds']} rounds")
    return "\n\n".join([*parts, "\n".join(facts)]) + "\n"
