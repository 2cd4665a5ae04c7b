"""The files of a table: `README.md` for people, `table.json` for programs, both made from `rows.jsonl`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrobust import evaluation
from jaxrobust.experiments import _results
from jaxrobust.experiments._files import read_rows, write_text
from jaxrobust.experiments.tables.claims import Judged, Measured, Verdict, judge
from jaxrobust.experiments.tables.plan import CURVE, FAST, SLOW, label_of
from jaxrobust.experiments.tables.published import PUBLISHED
from jaxrobust.experiments.tables.specs import Place, Row, Spec

SOURCE = "arXiv 2003.06974"


def write(
    name: str,
    spec: Spec,
    rows: Sequence[Row],
    out_dir: Path,
    *,
    dataset: str,
    scale: str,
    facts: dict[str, str],
    command: str,
    pictures: Sequence[str] = (),
) -> list[Judged]:
    """Writes the page of what has been measured so far, and returns the judged claims.

    Args:
        name: of the table, e.g. `table3`.
        spec: the table.
        rows: its models.
        out_dir: has `rows.jsonl`, receives the rest.
        dataset: `mnist` or `cifar10`, or what `tiny` has.
        scale: a sentence about it.
        facts: further lines of provenance by name.
        command: that makes it.
        pictures: files in `out_dir` to show.
    """
    found = [row for row in read_rows(out_dir / "rows.jsonl") if row["model"] in {r.title for r in rows}]
    titles = {row.key: row.title for row in rows}
    parts_of = {column.attack: SLOW if column.slow else FAST for column in spec.columns}

    def find(place: Place) -> list[Measured]:
        """The measured rows, one a seed; of a curve its end, the full radius."""
        label = label_of(place.attack, rows[0].experiment)
        part = parts_of.get(place.attack, CURVE)
        return [
            row
            for row in found
            if (row["model"], row["attack"], row["part"]) == (titles[place.row], label, part)
            and row.get("factor", 1.0) == 1.0
        ]

    published = PUBLISHED.get(name, {}).get(dataset, {})
    places = [(row, column) for row in rows for column in _columns(spec)]
    cells = [cell for place in places if (cell := _cell(*place, published, find)) is not None]
    judged = [judge(claim, find) for claim in spec.claims(rows)]
    document = {
        "table": name,
        "dataset": dataset,
        "command": command,
        "facts": facts,
        "cells": cells,
        "claims": [_claim_json(one) for one in judged],
    }
    write_text(out_dir / "table.json", json.dumps(document, indent=1) + "\n")
    parts = [
        f"# {spec.title}",
        f"Made by\n\n```\n{command}\n```",
        f"Data: {dataset}. Scale: {scale}",
        _reading(spec),
        _overview(spec, rows, cells),
        *(f"![{picture}]({picture})" for picture in pictures),
        _claims(judged, {attack: label_of(attack, rows[0].experiment) for attack, _ in _columns(spec)}),
    ]
    if published:
        parts.append("## Beside the source\n\n" + _long_table(cells))
    lines = [f"- {fact}: {value}" for fact, value in {**facts, **_provenance(found)}.items()]
    parts.append("## Made with\n\n" + "\n".join(lines))
    write_text(out_dir / "README.md", "\n\n".join(part for part in parts if part) + "\n")
    return judged


def _provenance(found: Sequence[Measured]) -> dict[str, str]:
    """Versions, hardware, and the hours of training and attacks."""
    if not found:
        return {}
    trained = {(row["model"], row["run_seed"]): row for row in found}
    resumed = sum(bool(row["train_resumed_at"]) for row in trained.values())
    attacks = sum(row["seconds"] for row in found if row["attack"] == evaluation.WORST)
    attacks += sum(row["seconds"] for row in found if row.get("factor") == 1.0)
    note = f" ({resumed} of them resumed; their time is that of the last part)" if resumed else ""
    training = sum(row["train_seconds"] for row in trained.values())
    return {
        "versions": ", ".join(f"{name} {version}" for name, version in found[-1]["versions"].items()),
        "hardware": ", ".join(sorted({row["hardware"] for row in found})),
        "wall-clock": f"training {training / 3600:.2f} hours for {len(trained)} models{note}, attacks "
        f"{attacks / 3600:.2f} hours, compilation included",
    }


def _columns(spec: Spec) -> list[tuple[str, str | None]]:
    columns: list[tuple[str, str | None]] = [(column.attack, column.published) for column in spec.columns]
    return columns + [(curve, None) for curve in spec.curves]


def _cell(row: Row, column: tuple[str, str | None], published: Any, find: Any) -> dict[str, Any] | None:
    """One number with its interval: over seeds where there are several, over images (Wilson) otherwise."""
    attack, theirs = column
    measured = find(Place(row.key, attack))
    if not measured:
        return None
    mean, half = _results.mean_interval([one["accuracy"] for one in measured])
    if half is None:
        low, high = measured[0]["accuracy_low"], measured[0]["accuracy_high"]
    else:
        low, high = max(mean - half, 0.0), min(mean + half, 1.0)
    # The source's RT is the labelled share of each batch.
    number = published.get(row.key, {}).get(theirs) if theirs else None
    return {
        "row": row.key,
        "model": row.title,
        "attack": attack,
        "label": measured[0]["attack"],
        "accuracy": mean,
        "low": low,
        "high": high,
        "seeds": [one["run_seed"] for one in measured],
        "n": measured[0]["n"],
        "published": number,
        "difference": None if number is None else 100 * mean - number,
    }


def _reading(spec: Spec) -> str:
    lines = [
        "Accuracy in percent on test images under each attack, at the checkpoint with the best robust "
        "accuracy on validation images of the training set. Intervals are 95%: Student's over seeds where "
        "there are several, Wilson's over images otherwise. `RT (source)` sees the labelled images of each "
        "of SRT's steps alone, as in the source's code; `RT (full batch)` as many labelled images as SRT "
        "sees in all, at equal cost.",
        spec.about,
    ]
    return "\n\n".join(line for line in lines if line)


def _overview(spec: Spec, rows: Sequence[Row], cells: Sequence[dict[str, Any]]) -> str:
    by_place = {(cell["row"], cell["attack"]): cell for cell in cells}
    columns = [attack for attack, _ in _columns(spec) if any(c["attack"] == attack for c in cells)]
    labels = [next(c["label"] for c in cells if c["attack"] == attack) for attack in columns]
    lines = [
        [row.title, *(_percent(by_place.get((row.key, attack))) for attack in columns)]
        for row in rows
        if any(cell["row"] == row.key for cell in cells)
    ]
    header = ["model", *(_results.label(label) for label in labels)]
    return _results.markdown_table(header, lines)


def _percent(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "–"
    mean = f"{100 * cell['accuracy']:.1f}"
    return mean if len(cell["seeds"]) == 1 else f"{mean} ± {50 * (cell['high'] - cell['low']):.1f}"


def _long_table(cells: Sequence[dict[str, Any]]) -> str:
    lines = [
        [
            cell["model"],
            _results.label(cell["label"]),
            "–" if cell["published"] is None else f"{cell['published']:.2f}",
            f"{100 * cell['accuracy']:.2f}",
            f"{100 * cell['low']:.1f} to {100 * cell['high']:.1f}",
            "–" if cell["difference"] is None else f"{cell['difference']:+.1f}",
            f"{len(cell['seeds'])} x {cell['n']:,}",
        ]
        for cell in cells
    ]
    header = [
        "model",
        "attack",
        f"published ({SOURCE})",
        "ours",
        "95% interval",
        "difference",
        "seeds x images",
    ]
    return _results.markdown_table(header, lines)


def _claims(judged: Sequence[Judged], labels: Mapping[str, str]) -> str:
    """The orderings that the source claims; `labels`: of the attacks, as tables print them."""
    known = [one for one in judged if one.verdict is not Verdict.UNKNOWN]
    if not known:
        return ""
    counts = {verdict: sum(one.verdict is verdict for one in known) for verdict in Verdict}
    summary = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items() if count)
    lines = [
        [
            one.claim.text,
            labels[one.claim.second.attack],
            f"{100 * (one.difference or 0.0):+.1f} ± {100 * (one.half or 0.0):.1f}",
            one.basis,
            one.verdict.value,
        ]
        for one in known
    ]
    header = ["claim", "attack", "difference, points", "interval over", "verdict"]
    return f"## What the source claims: {summary}\n\n" + _results.markdown_table(header, lines)


def _claim_json(one: Judged) -> dict[str, Any]:
    return {
        "text": one.claim.text,
        "first": one.claim.first._asdict(),
        "second": one.claim.second._asdict(),
        "margin": one.claim.margin,
        "difference": one.difference,
        "half": one.half,
        "basis": one.basis,
        "verdict": one.verdict.value,
    }
