"""The files of a table: `README.md` for people, `table.json` for programs, both made of its numbers."""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrobust import evaluation
from jaxrobust.experiments import _results
from jaxrobust.experiments._files import write_text
from jaxrobust.experiments.tables import plots, words
from jaxrobust.experiments.tables.claims import Judged, Verdict, judge
from jaxrobust.experiments.tables.numbers import Numbers
from jaxrobust.experiments.tables.plan import label_of
from jaxrobust.experiments.tables.published import PUBLISHED
from jaxrobust.experiments.tables.settings import Scale
from jaxrobust.experiments.tables.spec import Place, Row, Spec

SOURCE = "arXiv 2003.06974"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Which table: its name, what it is made of, its rows, and for which data and scale."""

    name: str
    spec: Spec
    rows: Sequence[Row]
    dataset: str
    scale: Scale


def write(table: Table, numbers: Numbers, out_dir: Path, *, command: str) -> list[Judged]:
    """Writes the pages and pictures of what has been measured so far, and returns the judged claims.

    Args:
        table: the table.
        numbers: of its planned jobs.
        out_dir: receives the files.
        command: that makes it.
    """
    spec, rows = table.spec, table.rows
    published = PUBLISHED.get(table.name, {}).get(table.dataset, {})
    cells = [
        cell
        for row in rows
        for attack, theirs in spec.attacks
        if (cell := _cell(row, attack, published.get(row.key, {}).get(theirs or ""), numbers)) is not None
    ]
    judged = [judge(claim, numbers.at) for claim in spec.claims(rows, table.dataset)]
    facts = {
        "scale": f"{table.scale.value}, {table.scale.about}",
        **words.setting(spec, rows, table.dataset, table.scale),
        "seeds": words.seeds(numbers.jobs),
    }
    measured = {job.name: numbers.all_of(job) for job in numbers.jobs}
    if cells:
        facts |= words.trained_with(numbers.jobs, measured)
    document = {
        "table": table.name,
        "dataset": table.dataset,
        "command": command,
        "facts": facts,
        "cells": cells,
        "claims": [_claim_json(one) for one in judged],
    }
    write_text(out_dir / "table.json", json.dumps(document, indent=1) + "\n")
    parts = [
        f"# {spec.title}",
        f"Data: {table.dataset}. Made by\n\n```\n{command}\n```",
        _reading(spec, rows),
        _overview(spec, rows, cells),
        _missing(numbers),
        *(f"![{picture}]({picture})" for picture in _pictures(table, numbers, out_dir)),
        _claims(judged, {attack: label_of(attack, rows[0].experiment) for attack, _ in spec.attacks}),
        _attacks(cells),
        "## Every number\n\n" + _long_table(cells, bool(published)) if cells else "",
        _warnings(measured),
        "## Made with\n\n" + "\n".join(f"- {fact}: {value}" for fact, value in facts.items() if value),
    ]
    write_text(out_dir / "README.md", "\n\n".join(part for part in parts if part) + "\n")
    return judged


def _pictures(table: Table, numbers: Numbers, out_dir: Path) -> list[str]:
    """Draws what there is to draw; the names of the files."""
    found = []
    if table.spec.curves and plots.draw_curves(table.spec, table.rows, numbers, out_dir / "curves.png"):
        found.append("curves.png")
    if table.name == "figure8" and plots.draw_growth(table.rows, numbers, "pgd", out_dir / "growth.png"):
        found.append("growth.png")
    return found


def _cell(row: Row, attack: str, theirs: float | None, numbers: Numbers) -> dict[str, Any] | None:
    """One number with its interval: over seeds where there are several, over images (Wilson) otherwise."""
    measured = numbers.at(Place(row.key, attack))
    if not measured:
        return None
    mean, half = _results.mean_interval([one["accuracy"] for one in measured])
    if half is None:
        low, high = measured[0]["accuracy_low"], measured[0]["accuracy_high"]
    else:
        low, high = max(mean - half, 0.0), min(mean + half, 1.0)
    return {
        "row": row.key,
        "model": row.title,
        "attack": attack,
        "label": measured[0]["attack"],
        "radius": measured[0]["radius"],
        "accuracy": mean,
        "low": low,
        "high": high,
        "seeds": [one["run_seed"] for one in measured],
        "n": measured[0]["n"],
        "published": theirs,
        "difference": None if theirs is None else 100 * mean - theirs,
    }


def _reading(spec: Spec, rows: Sequence[Row]) -> str:
    keys = {row.key.partition("@")[0] for row in rows}
    lines = [
        "Accuracy in percent on test images under each attack. Intervals are 95%: Student's over seeds where "
        "there are several, Wilson's over images otherwise."
    ]
    if "rt" in keys:
        lines[0] += (
            " `RT (source)` sees the labelled images of each of SRT's steps alone, as in the source's code."
        )
    if "rt_full" in keys:
        lines[0] += (
            " `RT (full batch)` sees as many labelled images as SRT sees in all, at equal cost; it is not in "
            "the source."
        )
    if spec.curves:
        lines.append(
            "The numbers are at the full radius, where an image counts as wrong that any smaller radius of "
            "the curve fools: the worst of all radii up to it."
        )
    return "\n\n".join([*lines, *([spec.about] if spec.about else [])])


def _overview(spec: Spec, rows: Sequence[Row], cells: Sequence[dict[str, Any]]) -> str:
    by_place = {(cell["row"], cell["attack"]): cell for cell in cells}
    columns = [attack for attack, _ in spec.attacks if any(c["attack"] == attack for c in cells)]
    labels = [next(c["label"] for c in cells if c["attack"] == attack) for attack in columns]
    lines = [
        [row.title, *(_percent(by_place.get((row.key, attack))) for attack in columns)]
        for row in rows
        if any(cell["row"] == row.key for cell in cells)
    ]
    if not lines:
        return ""
    return _results.markdown_table(["model", *(_results.label(label) for label in labels)], lines)


def _percent(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "–"
    mean = f"{100 * cell['accuracy']:.1f}"
    return mean if len(cell["seeds"]) == 1 else f"{mean} ± {50 * (cell['high'] - cell['low']):.1f}"


def _missing(numbers: Numbers) -> str:
    """What the table lacks, and what failed."""
    failed = {job.name: text for job in numbers.jobs if (text := numbers.failure(job)) is not None}
    missing = [job for job in numbers.jobs if not numbers.is_done(job) and job.name not in failed]
    lines = [f"**Failed: {name}.** {text}" for name, text in failed.items()]
    if missing:
        begun = {job.name for job in missing if numbers.all_of(job)}
        names = [job.name + (" (in part)" if job.name in begun else "") for job in missing]
        lines.append(f"Not measured yet: {'; '.join(names)}.")
    return "\n\n".join(lines)


def _attacks(cells: Sequence[dict[str, Any]]) -> str:
    """The radius and the number of images of each column."""
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        found.setdefault(cell["attack"], cell)
    lines = [
        [_results.label(cell["label"]), cell["radius"] or "–", f"{cell['n']:,}"] for cell in found.values()
    ]
    return "## Attacks\n\n" + _results.markdown_table(["attack", "radius", "images"], lines) if lines else ""


def _long_table(cells: Sequence[dict[str, Any]], beside: bool) -> str:
    """Every number with its interval, `beside` the source's."""
    header = ["model", "attack", "ours", "95% interval", "seeds x images"]
    lines = []
    for cell in cells:
        line = [
            cell["model"],
            _results.label(cell["label"]),
            f"{100 * cell['accuracy']:.2f}",
            f"{100 * cell['low']:.1f} to {100 * cell['high']:.1f}",
            f"{len(cell['seeds'])} x {cell['n']:,}",
        ]
        if beside:
            line.insert(2, "–" if cell["published"] is None else f"{cell['published']:.2f}")
            line.insert(5, "–" if cell["difference"] is None else f"{cell['difference']:+.1f}")
        lines.append(line)
    if beside:
        header.insert(2, f"published ({SOURCE})")
        header.insert(5, "difference")
    return _results.markdown_table(header, lines)


def _claims(judged: Sequence[Judged], labels: Mapping[str, str]) -> str:
    """The orderings that the source claims; `labels`: of the attacks, as tables print them."""
    known = [one for one in judged if one.verdict is not Verdict.UNKNOWN]
    if not known:
        return ""
    lines = [
        [
            one.claim.title,
            labels[one.claim.second.attack],
            f"{_points(one.difference)} ({_points(one.low)} to {_points(one.high)})",
            f"{one.basis}, {one.seeds} seed{'s' * (one.seeds > 1)}",
            one.verdict.value,
        ]
        for one in known
    ]
    header = ["claim", "attack", "difference, points (95%)", "interval over", "verdict"]
    note = (
        "The difference is that of the first model over the second, of a composite attack that of the "
        "single attack's accuracy over the composite's; a claim of points is judged by whether the interval "
        "is on one side of them. What is marked (ours) the source does not say, or not with this number. "
        f"Each claim is judged at 5% by itself: among {len(known)} about {0.05 * len(known):.1f} may be "
        "decided by chance where there is no difference."
    )
    return "\n\n".join(
        [
            f"## What the source claims: {_counts(one for one in known if not one.claim.ours) or 'not yet'}",
            *([f"Ours: {ours}."] if (ours := _counts(one for one in known if one.claim.ours)) else []),
            _results.markdown_table(header, lines),
            note,
        ]
    )


def _counts(judged: Iterable[Judged]) -> str:
    found = [one.verdict for one in judged]
    return ", ".join(f"{verdict.value} {found.count(verdict)}" for verdict in Verdict if verdict in found)


def _points(value: float | None) -> str:
    return f"{100 * (value or 0.0):+.1f}"


def _warnings(measured: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The trust checks that warned, by model."""
    lines = []
    for name, rows in measured.items():
        checks = dict.fromkeys(check for row in rows for check in row.get("warnings", ()))
        if checks:
            lines.append(f"- {name}: {', '.join(checks)}")
    checked = any(row["attack"] == evaluation.WORST for rows in measured.values() for row in rows)
    if not checked:
        return ""
    return "## Trust checks\n\n" + ("These warn:\n\n" + "\n".join(lines) if lines else "None warns.")


def _claim_json(one: Judged) -> dict[str, Any]:
    claim = one.claim
    return {
        "text": claim.text,
        "ours": claim.ours,
        "first": claim.first._asdict(),
        "second": claim.second._asdict(),
        "margin": claim.margin,
        "difference": one.difference,
        "low": one.low,
        "high": one.high,
        "basis": one.basis,
        "seeds": one.seeds,
        "verdict": one.verdict.value,
    }
