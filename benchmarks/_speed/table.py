"""README.md and rows.jsonl of the attacks' speed. Neither JAX nor PyTorch."""

import json
import math
from pathlib import Path
from typing import Any

from benchmarks._speed import cases, results

_HEAD = """# Speed of the attacks against the public implementations

```
{command}
```

Written by the command above; `rows.jsonl` has every number. One process per library; in every round each does
the same work in turn while the others idle. Same weights (checked: logits of the clean images), same images,
same budget.

{bars}

- **Ratio**: a peer's seconds per image over ours in the same round, median (least to greatest over the
  rounds): above 1 ours is faster. It is taken against the fastest peer that does the same.
- **The same**: successes (images within the radius that fool the library's model or the PyTorch net of equal
  weights) differ by at most a point, or by one image where there are fewer than 100; of random weights, the
  verdicts on the images themselves, seed by seed. Where they differ by more, the difference stands in the
  table and the ratio in brackets: it is not counted; also where it may be chance that keeps the verdicts
  apart, since of random weights equal rates show nothing.
- **Limit**: our time over that of the passes the budget makes necessary: gradients with respect to the
  images compiled as the library compiles, lone forward passes in the fastest form of those that were tried,
  all timed in the same rounds. Where the images decide how many passes there are, there is none.
- **Memory**: the most that is resident during the rounds, and how much more that is than with model and
  images loaded and nothing run. **Compile**: the first call less the median of the later ones.
- All PyTorch peers run with subnormal numbers flushed to zero, as XLA does: the gradients of a saturated net
  are full of them, and processors take up to a hundred times as long over them.
- "By hand" is eager PyTorch written for this benchmark, with no needless work; the better of two memory
  layouts. AutoAttack, APGD, JSMA and Point-wise are not: AutoAttack's code is its authors' PyTorch."""


def write(
    root: Path,
    out: Path,
    command: str,
    tasks: list[cases.Task],
    facts: dict[str, str],
    *,
    toy: bool = False,
) -> dict[str, Any]:
    """Writes both files from what is recorded under `root`; returns counts for a last line."""
    found = results.collect(root, tasks)
    out.mkdir(parents=True, exist_ok=True)
    rows = [row for one in found for row in one["rows"]]
    rows += [
        {"model": one["task"].model, "case": one["task"].case, "library": cases.LIMITS, **one["limit"]}
        for one in found
        if one["limit"] is not None
    ]
    (out / "rows.jsonl").write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
    (out / "README.md").write_text(readme(found, command, facts, toy=toy))
    said = results.bars(found)
    return {"rows": len(rows), "bars": len(said), "met": sum(bar["met"] for bar in said)}


def readme(found: list[dict[str, Any]], command: str, facts: dict[str, str], *, toy: bool = False) -> str:
    """The result as Markdown."""
    warning = "**Toy sizes: nothing here is a measurement.**"
    parts = [_HEAD.format(command=command, bars=warning if toy else _bars(found))]
    for model, what in cases.MODELS.items():
        of_model = [one for one in found if one["task"].model == model]
        if of_model:
            parts += [f"## {model}: {what.about}", _overview(of_model), _limits(of_model), _details(of_model)]
    parts += [_notes(found), _facts(found, facts)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _bars(found: list[dict[str, Any]]) -> str:
    """What is asked for, the missed first."""
    said = sorted(results.bars(found), key=lambda bar: bar["met"])
    if not said:
        return "No bar can be judged yet."
    lines = [f"**{sum(bar['met'] for bar in said)} of {len(said)} bars are met.**", ""]
    for bar in said:
        sign = "at least" if bar["least"] else "at most"
        verdict = "met" if bar["met"] else "**missed**"
        lines.append(
            f"- {bar['model']}, {bar['title']}, {bar['what']}: {_ratio(bar['ratio'])}, asked for {sign} "
            f"{bar['bound']:g}: {verdict}"
        )
    return "\n".join(lines)


def _overview(found: list[dict[str, Any]]) -> str:
    lines = [
        "| attack | images | ours, images/s | fastest peer | ratio | fastest library | ratio | limit |",
        "| :-- | --: | --: | :-- | --: | :-- | --: | --: |",
    ]
    for one in found:
        rows = {row["library"]: row for row in one["rows"]}
        if cases.OURS not in rows:
            continue
        cells = [one["task"].title, str(rows[cases.OURS]["images"]), _rate(rows[cases.OURS])]
        for name in (one["fastest"], one["fastest_library"]):
            cells += ["none does the same", ""] if name is None else _peer(rows[name])
        cells.append("" if one["limit"] is None else _ratio(one["limit"]["over_passes"]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _peer(row: dict[str, Any]) -> list[str]:
    return [cases.LIBRARIES[row["library"]], _ratio(row["ratio"])]


def _limits(found: list[dict[str, Any]]) -> str:
    """The programs that the limits come from."""
    lines = [
        "Bare passes, ms: median (least to greatest).",
        "",
        "| attack | gradient | fastest forward | which | step over forward |",
        "| :-- | --: | --: | :-- | --: |",
    ]
    for one in found:
        limit = one["limit"]
        if limit is not None:
            best = limit["fastest_forward"]
            step = _ratio(limit["step_over_forward"]) if "step_over_forward" in limit else ""
            cells = (_ratio(limit["gradient_ms"]), _ratio(limit["forward_ms"][best]), best, step)
            lines.append(f"| {one['task'].title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 4 else ""


def _details(found: list[dict[str, Any]]) -> str:
    """Every library."""
    lines = [
        "| attack | library | images | images/s | ratio | success, % | less ours | median norm "
        "| memory, MB | grown by | compile, s |",
        "| :-- | :-- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for one in found:
        for row in one["rows"]:
            lines.append(_detail(one["task"], row))
        lines += [
            f"| {one['task'].title} | {cases.LIBRARIES.get(name, name)} | | failed: {error} |"
            for name, error in one["failed"].items()
        ]
    return "\n".join(lines)


def _detail(task: cases.Task, row: dict[str, Any]) -> str:
    ratio = _ratio(row["ratio"]) if "ratio" in row else ""
    if "same" in row:
        middle, high, low = (_points(-value) for value in (row["difference"], *row["interval"]))
        difference = f"{middle} ({low} to {high})"
        if not row["same"]:
            ratio, difference = f"({ratio}: not the same)", f"**{difference}**"
        if row["agreement"] is not None and task.by_verdicts:
            seeds = "" if row["seeds"] == 1 else f" over {row['seeds']} seeds"
            difference += f", {100 * row['agreement']:.0f}% agree{seeds}"
    else:
        difference = ""
    cells = [
        task.title,
        cases.LIBRARIES[row["library"]],
        str(row["images"]),
        _rate(row),
        ratio,
        f"{100 * row['success']:.1f}",
        difference,
        "" if row["median_length"] is None or task.norm == "linf" else f"{row['median_length']:.3g}",
        f"{row['peak_mb']:.0f}",
        f"{row['growth_mb']:.0f}",
        f"{row['compile_seconds']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _points(share: float) -> str:
    """A difference of rates in points.

    >>> _points(-0.0), _points(-0.0123)
    ('+0.0', '-1.2')
    """
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _rate(row: dict[str, Any]) -> str:
    rate = row["images_per_second"]
    return f"{_number(rate['median'])} ({_number(rate['min'])} to {_number(rate['max'])})"


def _ratio(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"


def _number(value: float) -> str:
    """Three significant digits, without exponents.

    >>> _number(12345.6), _number(0.01234)
    ('12300', '0.0123')
    """
    digits = max(2 - math.floor(math.log10(abs(value))), 0) if value else 0
    rounded = float(f"{value:.3g}")
    return f"{rounded:.{digits}f}"


def _notes(found: list[dict[str, Any]]) -> str:
    lines = ["## Budgets and remarks", ""]
    for name in dict.fromkeys(one["task"].case for one in found):
        of_case = [one["task"] for one in found if one["task"].case == name]
        budget = ", ".join(f"{key} {value}" for key, value in of_case[0].settings.items())
        radii = ", ".join(f"{_number(task.eps)} on {task.model}" for task in of_case)
        radius = "" if of_case[0].norm == "free" else f"radius {radii} ({of_case[0].norm})"
        text = ". ".join(part for part in (budget, radius, cases.CASES[name].note.rstrip(".")) if part)
        lines.append(f"- {cases.CASES[name].title} (`{name}`): {text}.")
    stale = [one["task"].name for one in found if one["asked_otherwise"]]
    if stale:
        lines += ["", f"Made with other settings, to be run again: {', '.join(stale)}."]
    return "\n".join(lines)


def _facts(found: list[dict[str, Any]], facts: dict[str, str]) -> str:
    versions: dict[str, str] = {}
    for one in found:
        for row in one["rows"]:
            versions |= row["versions"]
    hardware = dict.fromkeys(one["hardware"] for one in found)
    variables = {name: value for one in found for name, value in one["environment"].items()}
    loads = [one["load"] for one in found] or [0.0]
    said = {
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "hardware": "; ".join(hardware),
        "environment": ", ".join(f"{name}={value}" for name, value in variables.items()) or "nothing set",
        "load average when a case began": f"{min(loads):g} to {max(loads):g} (each is in `rows.jsonl`)",
        **facts,
    }
    return "## Provenance\n\n" + "\n".join(f"- {name}: {value}" for name, value in said.items())
