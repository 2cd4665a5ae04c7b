"""README.md and rows.jsonl of the training's speed. Neither JAX nor PyTorch."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._parity import store
from benchmarks._speed import train_cases
from benchmarks._speed.rounds import fastest, ratios, spread
from benchmarks._speed.train_cases import OURS, PARTICIPANTS, STEP, TRAININGS

SAME = 0.05
"""By how much of its length a step may differ: signs of gradients near 0 differ by rounding, then pixels."""


def difference(
    one: dict[str, np.ndarray], other: dict[str, np.ndarray], start: dict[str, np.ndarray]
) -> float:
    """How far two steps from the weights `start` differ, over the length of the first.

    >>> start, one, other = {"w": np.zeros(2)}, {"w": np.array([3.0, 4.0])}, {"w": np.array([3.0, 3.0])}
    >>> difference(one, other, start)
    0.2
    """
    apart = np.concatenate([(one[name] - other[name]).ravel() for name in sorted(start)])
    length = np.concatenate([(one[name] - start[name]).ravel() for name in sorted(start)])
    return float(np.linalg.norm(apart) / np.linalg.norm(length))


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """What follows from a record: rows, the sum of the passes, ratios and bars."""
    name, settings = record["objective"], record["settings"]
    seconds = {who: one["seconds"] for who, one in record["participants"].items()}
    needed = train_cases.passes(name, settings)
    passes = [
        sum(times * record["passes"][what][i] for what, times in needed.items())
        for i in range(len(record["passes"].get("forward", ())))
    ]
    same = {
        who: seconds[who]
        for who in train_cases.PYTORCH
        if who in seconds and record["differences"].get(who, np.inf) <= SAME
    }
    best = fastest(same)
    rows = []
    for who, each in seconds.items():
        one = record["participants"][who]
        row = {
            "objective": name,
            "participant": who,
            "settings": settings,
            "rounds": len(each),
            "seconds": spread(each),
            "steps_per_second": spread([1 / value for value in each]),
            "first_seconds": one["first_seconds"],
            "idle_mb": round(one["idle_bytes"] / 2**20, 1),
            "peak_mb": round(one["peak_bytes"] / 2**20, 1),
            "versions": record["versions"],
            "hardware": record["hardware"],
            "load": record["load"],
        }
        if who in train_cases.PYTORCH and OURS in seconds:
            row["ratio"] = ratios(each, seconds[OURS])
            row["difference"] = record["differences"].get(who)
        if passes:
            row["over_passes"] = ratios(each, passes)
        rows.append(row)
    if passes:
        rows.append(
            {
                "objective": name,
                "participant": train_cases.LIMITS,
                "needed": needed,
                "passes_seconds": {what: spread(each) for what, each in record["passes"].items()},
                "sum_seconds": spread(passes),
            }
        )
    return {"name": name, "rows": rows, "best": best, "failed": record["failed"]}


def bars(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is asked for of SRT."""
    said = []
    for one in found:
        if one["name"] != train_cases.BARRED:
            continue
        rows = {row["participant"]: row for row in one["rows"]}
        if "over_passes" in rows.get(OURS, {}):
            ratio = rows[OURS]["over_passes"]
            met = ratio["median"] <= train_cases.PASSES_BAR
            what = f"a step over the sum of its passes, at most {train_cases.PASSES_BAR}"
            said.append({"what": what, "ratio": ratio, "met": met})
        if one["best"] is not None:
            ratio = rows[one["best"]]["ratio"]
            met = ratio["median"] >= train_cases.PYTORCH_BAR
            rival = PARTICIPANTS[one["best"]]
            what = f"steps per second over the {rival}'s, at least {train_cases.PYTORCH_BAR}"
            said.append({"what": what, "ratio": ratio, "met": met})
    return said


def write(folder: Path, out: Path, command: str, *, toy: bool = False) -> dict[str, int]:
    """Writes both files from the records in `folder`; returns counts for a last line."""
    records = [store.read_json(folder / f"{name}.json") for name in TRAININGS]
    kept = [record for record in records if record]
    found = [summary(record) for record in kept]
    rows = [row for one in found for row in one["rows"]]
    out.mkdir(parents=True, exist_ok=True)
    (out / "rows.jsonl").write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows))
    (out / "README.md").write_text(readme(found, kept, command, toy))
    said = bars(found)
    return {"rows": len(rows), "bars": len(said), "met": sum(bar["met"] for bar in said)}


_HEAD = """# Speed of training

```
{command}
```

Written by the command above; `rows.jsonl` has every number. SmallCNN on 28x28 images, batch 256, an inner PGD
of 10 steps, SGD with momentum. All participants take turns in every round of one run.

{bars}

- **The update** is the one compiled function of `jaxrobust.training`: it gathers the batch from the set that
  lies on the device and makes the step. **The step alone** works on one batch again and again.
- **The PyTorch loop** is eager and straightforward, and does the same: batch gathered from memory, attack in
  eval mode without gradients of the weights, loss in train mode, SGD. Subnormal numbers are flushed to zero.
- **The same**: one step without chance (no dropout, one start for all) from equal weights; how far the new
  weights are from ours, over the length of our step. More than {same:.0%} is not the same.
- **Passes**: what a step cannot do without, each compiled alone and timed in the same rounds: the input
  gradients of the attack, the target's forward pass, the gradients of the weights. Not in it: gathering,
  the update of the weights, metrics.
- Images and weights are random: the time of a step does not depend on them."""


def readme(found: list[dict[str, Any]], records: list[dict[str, Any]], command: str, toy: bool) -> str:
    """The result as Markdown."""
    said = bars(found)
    lines = [
        f"- SRT, {bar['what']}: {_ratio(bar['ratio'])}: {'met' if bar['met'] else '**missed**'}"
        for bar in said
    ]
    parts = [_HEAD.format(command=command, bars="\n".join(lines) or "No bar can be judged yet.", same=SAME)]
    if toy:
        parts.append("**Toy sizes: nothing here is a measurement.**")
    parts += [_table(found), _passes(found), _facts(records)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(found: list[dict[str, Any]]) -> str:
    lines = [
        "| objective | who | steps/s | ours over it | differs by | over the passes | memory, MB | first, s |",
        "| :-- | :-- | --: | --: | --: | --: | --: | --: |",
    ]
    for one in found:
        for row in one["rows"]:
            if row["participant"] in PARTICIPANTS:
                lines.append(_line(row))
        lines += [
            f"| {TRAININGS[one['name']].title} | {who} | failed: {e} |" for who, e in one["failed"].items()
        ]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    ratio = _ratio(row["ratio"]) if "ratio" in row else ""
    differs = row.get("difference")
    if ratio and (differs is None or differs > SAME):
        ratio = f"({ratio}: not the same)"
    of_ours = row["participant"] in (OURS, STEP) and "over_passes" in row
    cells = [
        TRAININGS[row["objective"]].title,
        PARTICIPANTS[row["participant"]],
        _ratio(row["steps_per_second"]),
        ratio,
        "" if differs is None else f"{differs:.2%}",
        _ratio(row["over_passes"]) if of_ours else "",
        f"{row['peak_mb']:.0f}",
        f"{row['first_seconds']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _passes(found: list[dict[str, Any]]) -> str:
    lines = ["Passes, ms, and how often a step needs each:", ""]
    for one in found:
        for row in one["rows"]:
            if row["participant"] == train_cases.LIMITS:
                each = ", ".join(
                    f"{times} x {what} {1e3 * row['passes_seconds'][what]['median']:.1f}"
                    for what, times in row["needed"].items()
                )
                total = 1e3 * row["sum_seconds"]["median"]
                lines.append(f"- {TRAININGS[one['name']].title}: {each}; together {total:.1f}")
    return "\n".join(lines) if len(lines) > 2 else ""


def _ratio(values: dict[str, float]) -> str:
    return f"{values['median']:.2f} ({values['min']:.2f} to {values['max']:.2f})"


def _facts(records: list[dict[str, Any]]) -> str:
    versions: dict[str, str] = {}
    for record in records:
        versions |= record["versions"]
    loads = [record["load"] for record in records] or [0.0]
    lines = [
        "## Provenance",
        "",
        f"- versions: {', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}",
        f"- hardware: {'; '.join(dict.fromkeys(record['hardware'] for record in records))}",
        f"- load average when an objective began: {min(loads):g} to {max(loads):g}",
        "- seed: 0",
    ]
    for record in records:
        lines.append(
            f"- {record['objective']}: {', '.join(f'{k} {v}' for k, v in record['settings'].items())}"
        )
    return "\n".join(lines)
