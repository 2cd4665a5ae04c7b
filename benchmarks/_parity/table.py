"""The rows and the README of the results, from what is saved. Neither JAX nor PyTorch."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._parity import bars, cases, store

NAMES = {
    "ours": "ours",
    "foolbox": "Foolbox",
    "art": "ART",
    "torchattacks": "torchattacks",
    "autoattack": "AutoAttack's code",
}


def collect(root: Path) -> list[dict[str, Any]]:
    """One row per (model, attack, library) that has been run, in the order of the table."""
    verdicts = [store.read_arrays(root / f"verdicts-{side}.npz") for side in ("jax", "torch")]
    rows = []
    for model in cases.MODELS:
        if not (store.model_dir(root, model) / "images.npz").is_file():
            continue
        problem = store.load_problem(root, model)
        for name in cases.CASES:
            rows += _case_rows(root, problem, name, verdicts)
    return rows


def _case_rows(root: Path, problem: store.Problem, name: str, verdicts: list[dict]) -> list[dict[str, Any]]:
    case, dataset = cases.CASES[name], cases.dataset_of(problem.model)
    measured, rows = {}, []
    for library in cases.LIBRARIES:
        record = store.read_json(store.result_path(root, problem.model, name, library))
        if record is None:
            continue
        row = {key: value for key, value in record.items() if key not in ("key", "source")}
        if record.get("problem") != problem.digest:
            row |= {"error": "made from other weights or images; run the command again", "stale": True}
        elif _asked(record) != _asked(_wanted(case, dataset)):
            row |= {"error": "made with other settings; run the command again", "stale": True}
        elif any(f"{problem.model}/{name}/{library}" not in verdict for verdict in verdicts):
            row.setdefault("error", "not judged yet; run the command again")
        if "error" not in row:
            images = store.read_arrays(
                store.result_path(root, problem.model, name, library).with_suffix(".npz")
            )
            judged = {len(verdict[f"{problem.model}/{name}/{library}"]) for verdict in verdicts}
            expected = min(case.count(dataset), len(problem.images)) * case.seeds
            if judged != {len(images["images"])} or len(images["images"]) != expected:
                rows.append({**row, "error": "images and verdicts do not fit; run the command again"})
                continue
            one, said = _measure(problem, case, dataset, images["images"], f"{name}/{library}", verdicts)
            measured[library] = one
            row |= bars.summary(one) | said
        rows.append(row)
    for row in rows:
        library = row["library"]
        if library != cases.OURS and library in measured and cases.OURS in measured:
            row["against"] = bars.compare(case, measured[cases.OURS], measured[library])
    return rows


def _wanted(case: cases.Case, dataset: str) -> dict[str, Any]:
    return {
        # As a record has them, whose tuples have become lists.
        "settings": json.loads(json.dumps(case.budget(dataset))),
        "eps": case.eps(dataset),
        "num_images": case.count(dataset),
        "seeds": case.seeds,
    }


def _asked(record: dict[str, Any]) -> tuple:
    return (*map(record.get, ("settings", "eps", "num_images")), record.get("seeds", 1))


def _measure(problem, case, dataset, images, where, verdicts) -> tuple[dict, dict]:
    """What the images are worth, and how judge and twin disagree about them."""
    count = len(images) // case.seeds
    y = np.tile(cases.designated(case, problem.labels[:count]), case.seeds)
    clean = np.tile(problem.images[:count], (case.seeds, 1, 1, 1))
    key = f"{problem.model}/{where}"
    hits = [np.asarray(verdict[key]) == y for verdict in verdicts]
    fooled = [hit if case.targeted else ~hit for hit in hits]
    # An image at the boundary is adversarial to the program that its library attacked, of equal weights.
    either = fooled[0] | fooled[1]
    one = bars.measure(case, case.eps(dataset), clean, images, either)
    return one, {
        "judge": int(fooled[0].sum()),
        "twin": int(fooled[1].sum()),
        "differ": int((fooled[0] != fooled[1]).sum()),
    }


def write(root: Path, out: Path, command: str, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Writes `rows.jsonl` and `README.md`, and returns the rows."""
    rows = collect(root)
    out.mkdir(parents=True, exist_ok=True)
    # What has to be run again is no result.
    text = "".join(json.dumps(_plain(row), sort_keys=True) + "\n" for row in rows if "stale" not in row)
    (out / "rows.jsonl").write_text(text)
    (out / "README.md").write_text(readme(root, rows, command, facts))
    return rows


def _plain(value: Any) -> Any:
    """JSON has no infinity: null."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def readme(root: Path, rows: list[dict[str, Any]], command: str, facts: dict[str, Any]) -> str:
    """The result as Markdown."""
    models = {model: store.read_json(store.model_dir(root, model) / "problem.json") for model in cases.MODELS}
    parts = [
        _HEAD.format(command=command, failed=_failures(rows)),
        _pending(root, rows),
        _models(root, models),
    ]
    for model in cases.MODELS:
        of_model = [row for row in rows if row["model"] == model]
        if of_model:
            parts.append(f"## {model}\n\n{_tables(of_model)}")
    parts += [_notes(), _coverage(root), _facts(rows, facts)]
    return "\n\n".join(part for part in parts if part) + "\n"


_HEAD = """# Every attack against the public implementations

```
{command}
```

Written by the command above; `rows.jsonl` has every number. The same models (identical weights, exported),
images, radii, targets and budgets for all sides; every image is judged by our model in JAX, its norm measured
in float64.

{failed}

- **Robust accuracy** (fixed radius): images of the set that stay right within eps, to a relative 1e-5, of n.
  The bar: at most the best peer's plus 0.5 points.
- **Norms** (nearest adversarial): median over all images, failures at infinity; in brackets how many were
  found. The bars: the median, and the mean over the images that both found, at most 1.01 times the best
  peer's, and at most 0.5% of the images fewer found. Ratios are ours over the peer's, mean | median: below 1
  ours is nearer.
- A missed bar is called **chance** where the 95% interval of the difference (of the ratio), paired over the
  images, holds the tie as well: on these images the peer is not shown to be ahead.
- Where chance decides (random starts and draws) an attack runs with several seeds, and its robust accuracy is
  the mean over them; how many is said below. One run's accuracy varies by some 1 to 2 points.
- All images are test images that the model classifies right, the first ones in the order of the set.
- An image counts as adversarial where the judge or the PyTorch twin says so: of equal weights, they differ by
  the rounding of logits on images that lie on the boundary ("differ" in the rows).
- Seconds are in the rows; this is no benchmark of speed, and machines were shared."""


def _failures(rows: list[dict[str, Any]]) -> str:
    """The bars not met and the runs that failed, before anything else."""
    compared = [row for row in rows if "against" in row]
    missed = [row for row in compared if not row["against"]["met"]]
    chance = [row for row in missed if row["against"]["chance"]]
    lines = [
        f"**{len(compared) - len(missed)} of {len(compared)} comparisons meet their bars, {len(chance)} miss "
        f"one by chance, in {len(missed) - len(chance)} a peer is ahead.**"
    ]
    for row in sorted(missed, key=lambda row: row["against"]["chance"]):
        title, peer = cases.CASES[row["case"]].title, NAMES[row["library"]]
        verdict = f"{peer}'s is lower by chance" if row["against"]["chance"] else f"**{peer} is ahead**"
        lines.append(f"- {row['model']}, {title}: {verdict}, {_why(row)}.")
    lines += [
        f"- {row['model']}, {row['case']}, {row['library']}: {row['error']}"
        for row in rows
        if "error" in row and "stale" not in row
    ]
    return "\n".join(lines)


def _pending(root: Path, rows: list[dict[str, Any]]) -> str:
    """The parts that are still to be run, also those whose settings or weights have changed since."""
    have = {(row["model"], row["case"], row["library"]) for row in rows if "stale" not in row}
    lines, left_out = [], []
    for model in cases.MODELS:
        for library in cases.LIBRARIES:
            compared = (store.read_json(root / "coverage" / f"{library}.json") or {}).get("compared", {})
            missing = [
                case for case in cases.CASES if case in compared and (model, case, library) not in have
            ]
            skipped = [case for case in missing if cases.is_left_out(model, case, library)]
            missing = [case for case in missing if case not in skipped]
            if missing:
                lines.append(f"- {model}, {NAMES[library]}: {', '.join(missing)}")
            if skipped:
                why = cases.LEFT_OUT[library][1]
                left_out.append(f"- {model}, {NAMES[library]}: {', '.join(skipped)} ({why})")
    found = []
    if lines:
        found.append("**Not run yet**, by model and library; the command goes on with these:")
        found.append("\n".join(lines))
    if left_out:
        found += ["**Left out**, run only where named (`--only`):", "\n".join(left_out)]
    return "\n\n".join(found)


def behind(row: dict[str, Any]) -> bool:
    """Whether a run failed or a peer is ahead by more than chance."""
    against = row.get("against", {"met": True})
    return "error" in row or not (against["met"] or against["chance"])


def _why(row: dict[str, Any]) -> str:
    against, said = row["against"], []
    if against.get("accuracy_met") is False:
        low, high = (100 * end for end in against["difference_interval"])
        said.append(
            f"robust accuracy, ours higher by {(low + high) / 2:.1f} ({low:.1f} to {high:.1f}) points"
        )
    if against.get("norm_met") is False:
        said.append(
            "norms, " + ", ".join(f"{name} x {_with_interval(against, name)}" for name in ("mean", "median"))
        )
    if against.get("found_met") is False:
        said.append("it finds more")
    return "; ".join(said)


def _with_interval(against: dict[str, Any], name: str) -> str:
    interval = against[f"{name}_interval"]
    ends = "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
    return f"{_number(against[f'{name}_ratio'])}{ends}"


def _models(root: Path, models: dict[str, Any]) -> str:
    lines = [
        "## Models",
        "",
        "| model | experiment | test accuracy | images | logits, plain JAX | logits, PyTorch |",
        "| :-- | :-- | --: | --: | --: | --: |",
    ]
    for model, record in models.items():
        if record:
            twin = store.read_json(store.model_dir(root, model) / "twin.json") or {}
            plain = record["logits_plain_max_difference"]
            differences = f"{plain:.1e} | {twin.get('logits_torch_max_difference', math.nan):.1e}"
            lines.append(
                f"| {model} | `{record['experiment']}` | {100 * record['clean_accuracy']:.1f} "
                f"| {record['num_images']} | {differences} |"
            )
    lines += ["", "The last columns: the largest difference of any logit on these images; 1e-4 is allowed."]
    return "\n".join(lines)


def _tables(rows: list[dict[str, Any]]) -> str:
    """Fixed radii and nearest adversarials apart."""
    head = "| attack | eps | " + " | ".join(NAMES[library] for library in cases.LIBRARIES) + " | bar met? |"
    rule = "| :-- | --: |" + " --: |" * len(cases.LIBRARIES) + " :-- |"
    parts = []
    for title, wanted in (
        ("Robust accuracy, %", cases.ACCURACY),
        ("Nearest adversarial: median norm", cases.NORM),
    ):
        lines = [f"### {title}", "", head, rule]
        for name, case in cases.CASES.items():
            of_case = {row["library"]: row for row in rows if row["case"] == name}
            if wanted in case.bars and of_case:
                lines.append(_line(case, of_case, wanted))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _line(case: cases.Case, of_case: dict[str, dict], wanted: str) -> str:
    cells = [_cell(of_case.get(library), wanted) for library in cases.LIBRARIES]
    compared = [row["against"] for row in of_case.values() if "against" in row]
    eps = next(iter(of_case.values()))["eps"] if case.norm in ("linf", "l2", "l1") else None
    shown = "" if eps is None else (f"{eps:.3g}" if eps >= 0.1 else f"{eps * 255:.3g}/255")
    return f"| {case.title} | {shown} | " + " | ".join(cells) + f" | {_verdict(compared, wanted)} |"


def _verdict(compared: list[dict[str, Any]], wanted: str) -> str:
    if not compared:
        return "no peer has it or ran"
    keys = ("accuracy_met",) if wanted == cases.ACCURACY else ("norm_met", "found_met")
    missed = [one for one in compared if not all(one[key] for key in keys)]
    if not missed:
        return "yes"
    return "chance" if all(one["chance"] for one in missed) else "**no**"


def _cell(row: dict[str, Any] | None, wanted: str) -> str:
    if row is None:
        return ""
    if "error" in row:
        return "failed"
    if wanted == cases.ACCURACY:
        beyond = f", {row['outside']} outside" if row["outside"] else ""
        seeds = row.get("seeds", 1)
        return f"{100 * row['robust_accuracy']:.1f} ({row['robust'] / seeds:g}/{row['n'] // seeds}{beyond})"
    cell = f"{_number(row['median_all'])} ({row['found']}/{row['n']})"
    if "against" in row:
        cell += f" {_number(row['against']['mean_ratio'])} \\| {_number(row['against']['median_ratio'])}"
    return cell


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return "inf" if math.isinf(value) else f"{value:.4g}"


def _notes() -> str:
    lines = ["## Budgets and remarks", ""]
    for name, case in cases.CASES.items():
        budget = ", ".join(
            f"{key} {_number(value) if isinstance(value, float) else value}"
            for key, value in case.settings.items()
        )
        per_set = "; ".join(
            f"{name_}: " + ", ".join(f"{k} {_number(v)}" for k, v in values.items())
            for name_, values in case.per_set.items()
        )
        seeds = f"{case.seeds} seeds" if case.seeds > 1 else ""
        text = ". ".join(part for part in (budget, per_set, seeds, case.note.rstrip(".")) if part)
        lines.append(f"- {case.title} (`{name}`): {text or 'one step of one radius'}.")
    return "\n".join(lines)


def _coverage(root: Path) -> str:
    """What each library offers, from its installed code, and what of it is compared."""
    found = {library: store.read_json(root / "coverage" / f"{library}.json") for library in cases.LIBRARIES}
    found = {library: value for library, value in found.items() if value}
    lines = ["## Who has what", "", "| attack | " + " | ".join(NAMES[library] for library in found) + " |"]
    lines.append("| :-- |" + " :-- |" * len(found))
    for name, case in cases.CASES.items():
        cells = [value["compared"].get(name, "") for value in found.values()]
        lines.append(f"| {case.title} | " + " | ".join(f"`{cell}`" if cell else "" for cell in cells) + " |")
    lines += [
        "",
        "Further attacks of the installed packages that are not compared, mostly for want of one here:",
        "",
    ]
    for library, value in found.items():
        rest = sorted(set(value["offered"]) - set(value["compared"].values()))
        if library != cases.OURS and rest:
            lines.append(f"- {NAMES[library]}: {', '.join(rest)}")
    return "\n".join(lines)


def _facts(rows: Iterable[dict[str, Any]], facts: dict[str, Any]) -> str:
    versions: dict[str, str] = {}
    for row in rows:
        versions |= row.get("versions", {})
    said = {"versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))} | facts
    return "## Provenance\n\n" + "\n".join(f"- {name}: {value}" for name, value in said.items())
