"""The report: one self-contained HTML page, the same as PNG, and the numbers as JSON lines and npz.

The page needs no network, no script and no other file; it reads in light and dark, on paper and on a phone.
"""

import dataclasses
import datetime
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.evaluation import _figures, _pages, _pictures, _provenance
from jaxrobust.evaluation._types import CLEAN, WORST, Level, Report
from jaxrobust.evaluation.breakage import breakage

_SYMBOLS = {Level.SKIPPED: "–", Level.OK: "✓", Level.WARN: "!", Level.FAIL: "✗"}
_LABELS = {CLEAN: "none (clean)", WORST: "worst of all"}


class Paths(NamedTuple):
    """Where `write_report` put things; `images` is None unless adversarial images were kept."""

    html: Path
    png: Path
    rows: Path
    flags: Path
    summary: Path
    images: Path | None


def write_report(
    reports: Report | Sequence[Report],
    folder: Path | str,
    *,
    title: str,
    command: str = "",
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> Paths:
    """Writes `report.html`, `report.png`, `rows.jsonl`, `flags.npz` and `report.json` into a folder.

    Args:
        reports: one, or several of different models on the same images, to be compared side by side. The
            gallery of the last is open.
        folder: made if need be; files of the same names are replaced.
        title: of the page.
        command: what to type to get this again, for the footer.
        facts: short facts about model and data for the head of the page, e.g. `{"labelled images": "100"}`.
        notes: sentences for the reader, e.g. that a set is a lossy copy.

    Returns:
        The paths of the files.

    Raises:
        ValueError: no report, or two of one model name.
    """
    reports = [reports] if isinstance(reports, Report) else list(reports)
    names = [str(report.meta["model"]) for report in reports]
    if not reports:
        raise ValueError("Expected at least one report, got none. Evaluate a model first.")
    if len(set(names)) < len(names):
        raise ValueError(
            f"Expected different model names, got {', '.join(names)}. Set model_name in evaluate."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kept = any(report.images for report in reports)
    paths = Paths(
        html=folder / "report.html",
        png=folder / "report.png",
        rows=folder / "rows.jsonl",
        flags=folder / "flags.npz",
        summary=folder / "report.json",
        images=folder / "adversarial.npz" if kept else None,
    )
    lines = [json.dumps(row, allow_nan=False) for report in reports for row in report.rows]
    paths.rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    paths.summary.write_text(
        json.dumps(_summary(reports, title, command, facts, notes), indent=1), encoding="utf-8"
    )
    np.savez_compressed(paths.flags, **_named(reports, "flags"))
    if paths.images is not None:
        np.savez_compressed(paths.images, **_named(reports, "images"))
    paths.html.write_text(
        html(reports, title=title, command=command, facts=facts, notes=notes), encoding="utf-8"
    )
    paths.png.write_bytes(_figures.page_png(reports, title))
    return paths


def _named(reports: Sequence[Report], kind: str) -> dict[str, Any]:
    return {
        f"{report.meta['model']}/{name}": value
        for report in reports
        for name, value in getattr(report, kind).items()
    }


def _summary(reports, title, command, facts, notes) -> dict[str, Any]:
    """All but the arrays, for a program that compares runs."""

    def clean(record: Any) -> dict[str, Any]:
        found = dataclasses.asdict(record)
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in found.items()
        }

    models = [
        {
            "meta": dict(report.meta),
            "rows": list(report.rows),
            "verdicts": [clean(verdict) for verdict in report.verdicts],
            "curves": [clean(curve) for curve in report.curves],
            "certificate": report.certificate,
        }
        for report in reports
    ]
    return {
        "title": title,
        "command": command,
        "facts": dict(facts or {}),
        "notes": list(notes),
        "models": models,
    }


def html(
    reports: Sequence[Report],
    *,
    title: str,
    command: str = "",
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The page as text; see `write_report`."""
    environment = _pages.environment(percent=_percent, number=_number)
    first = reports[0].meta
    return environment.get_template("report.html").render(
        title=title,
        facts=_facts(first, facts or {}),
        notes=list(notes),
        models=[str(report.meta["model"]) for report in reports],
        headlines=[_headline(report) for report in reports],
        comparison=_comparison(reports),
        details=[_detail(report) for report in reports],
        panels=_panels(reports),
        norms=[found for report in reports if (found := _norms(report))["rows"]],
        breakages=[found for report in reports if (found := _breakage(report))["rows"]],
        certificates=[
            {"model": report.meta["model"], **report.certificate} for report in reports if report.certificate
        ],
        galleries=[_gallery(report) for report in reports],
        trust=_trust(reports),
        command=command,
        made=_made(reports),
        n=first["n"],
        has_r_rob=any(row["r_rob"] is not None for report in reports for row in report.rows),
        has_every=any(row["every_image"] for report in reports for row in report.rows),
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _unbroken(radius: str) -> str:
    """A number and its unit stay on one line."""
    return radius.replace(" px", "\u00a0px").replace("ℓ∞ ", "ℓ∞\u00a0").replace("ℓ2 ", "ℓ2\u00a0")


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _facts(meta: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    height, width, channels = meta["image_shape"]
    colour = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
    found = {"data": meta["dataset"]} if meta["dataset"] else {}
    return {
        **found,
        "test images": f"{meta['n']:,} of {height}×{width} pixels, {colour}",
        "classes": str(meta["num_classes"]),
        **given,
    }


def _headline(report: Report) -> dict[str, Any]:
    worst, clean = report.row(WORST), report.row(CLEAN)
    attacked = [row for row in report.rows if row["attack"] not in (CLEAN, WORST)]
    level = max((verdict.level for verdict in report.verdicts), key=list(Level).index, default=Level.OK)
    return {
        "model": report.meta["model"],
        "worst": worst,
        "clean": clean,
        "groups": _worst_by_radius(report, attacked),
        "num_attacks": len(attacked),
        "warnings": len(report.warnings),
        "skipped": sum(verdict.level == Level.SKIPPED for verdict in report.verdicts),
        "level": level.value,
        "checked": len(report.verdicts),
    }


def _worst_by_radius(report: Report, attacked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy under the per-example worst of the attacks of one neighbourhood, the clean image included."""
    groups: dict[str, list[str]] = {}
    for row in attacked:
        groups.setdefault(row["radius"] or row["attack"], []).append(row["attack"])
    right = report.flags[f"correct/{CLEAN}"]
    return [
        {"radius": radius, "accuracy": float(np.mean(np.logical_and.reduce([right, *flags])))}
        for radius, names in groups.items()
        if (flags := [report.flags[f"correct/{name}"] for name in names])
    ]


def _comparison(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """A row per attack, a cell per model; `best` marks the highest accuracy where models are compared."""
    names = dict.fromkeys(
        row["attack"] for report in reports for row in report.rows if row["attack"] != WORST
    )
    lines = []
    for name in [*names, WORST]:
        rows = [next((row for row in report.rows if row["attack"] == name), None) for report in reports]
        best = _figures.best_of(rows)
        lines.append(
            {
                "attack": _LABELS.get(name, name),
                "radius": _unbroken(next((row["radius"] for row in rows if row and row.get("radius")), "")),
                "every": any(row["every_image"] for row in rows if row),
                "last": name == WORST,
                "cells": [
                    {"row": row, "best": row is not None and best is not None and row["accuracy"] == best}
                    for row in rows
                ],
            }
        )
    return lines


def _detail(report: Report) -> dict[str, Any]:
    rows = [{**row, "label": _LABELS.get(row["attack"], row["attack"])} for row in report.rows]
    return {"model": report.meta["model"], "rows": rows, "r_stand": report.row(CLEAN)}


def _norms(report: Report) -> dict[str, Any]:
    """The minimum norms that a report has, a row per attack."""
    rows = [row for row in report.rows if row.get("minimum_norm")]
    return {"model": report.meta["model"], "rows": rows}


def _breakage(report: Report) -> dict[str, Any]:
    """Which attack broke which image, drawn and counted; of one attack there is nothing to compare."""
    found = breakage(report)
    if len(found.attacks) < 2 or not found.broken.any():
        return {"rows": []}
    alone = found.alone
    right = int(report.flags[f"correct/{CLEAN}"].sum())
    return {
        "model": report.meta["model"],
        "light": _pictures.data_uri(_figures.breakage_svg(found, _figures.LIGHT), "image/svg+xml"),
        "dark": _pictures.data_uri(_figures.breakage_svg(found, _figures.DARK), "image/svg+xml"),
        "rows": [
            {
                "attack": name,
                "broke": int(line.sum()),
                "alone": alone[name],
                "members": report.row(name).get("broken_by") or [],
            }
            for name, line in zip(found.attacks, found.broken)
        ],
        "right": right,
        "none": right - int((found.by_how_many > 0).sum()),
    }


def _panels(reports: Sequence[Report]) -> list[dict[str, str]]:
    return [
        {
            "title": panel.title,
            "images": " / ".join(dict.fromkeys(f"{curve.n:,}" for _, curve in panel.lines)),
            "light": _pictures.data_uri(_figures.panel_svg(panel, _figures.LIGHT), "image/svg+xml"),
            "dark": _pictures.data_uri(_figures.panel_svg(panel, _figures.DARK), "image/svg+xml"),
            "text": "; ".join(
                f"{label}: {_percent(curve.accuracy[0])}% clean, "
                f"{_percent(curve.accuracy[-1])}% at the largest radius, {curve.n:,} images"
                for label, curve in panel.lines
            ),
        }
        for panel in _figures.panels(reports)
    ]


def _gallery(report: Report) -> dict[str, Any]:
    """Columns of the clean image, then per attack a row of cells (attacked, difference)."""
    names = report.meta["class_names"]

    def caption(seen, label):
        return {
            "name": names[seen.prediction],
            "confidence": f"{100 * seen.confidence:.0f}%",
            "wrong": seen.prediction != label,
        }

    attacks = []
    for attack in report.samples[0].attacked if report.samples else ():
        gain = _pictures.gain(report, attack)
        cells = [
            {
                "image": _pictures.png_uri(_pictures.to_rgb(sample.attacked[attack].image)),
                "difference": _pictures.png_uri(_pictures.difference(sample, attack, gain)),
                **caption(sample.attacked[attack], sample.label),
            }
            for sample in report.samples
        ]
        radius = _unbroken(report.meta["radius"].get(attack, ""))
        attacks.append({"name": attack, "radius": radius, "gain": f"{gain:.3g}", "cells": cells})
    clean = [
        {
            "image": _pictures.png_uri(_pictures.to_rgb(sample.clean.image)),
            "index": sample.index,
            "label": names[sample.label],
            **caption(sample.clean, sample.label),
        }
        for sample in report.samples
    ]
    crisp = max(report.meta["image_shape"][:2]) <= 64
    return {"model": report.meta["model"], "clean": clean, "attacks": attacks, "crisp": crisp}


def _trust(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """A line per check, a cell per model, and what to do about each that is not ok."""
    checks = dict.fromkeys(verdict.check for report in reports for verdict in report.verdicts)
    lines = []
    for check in checks:
        found = [next((v for v in report.verdicts if v.check == check), None) for report in reports]
        bad = [(r.meta["model"], v) for r, v in zip(reports, found) if v in r.warnings]
        measured = [v for v in found if v is not None]
        advice = [(model if len(reports) > 1 else "", v.advice) for model, v in bad]
        lines.append(
            {
                "check": check.replace("_", " ").capitalize(),
                "unit": measured[0].unit,
                "cells": [
                    None
                    if v is None
                    else {"level": v.level.value, "symbol": _SYMBOLS[v.level], "evidence": v.evidence}
                    for v in found
                ],
                "advice": advice or [("", measured[0].advice)],
                "bad": bool(bad),
            }
        )
    return lines


def _made(reports: Sequence[Report]) -> dict[str, str]:
    seeds = ", ".join(dict.fromkeys(str(report.meta["seed"]) for report in reports))
    seconds = sum(
        report.row(WORST)["seconds"] + sum(curve.seconds for curve in report.curves) for report in reports
    )
    versions = ", ".join(f"{name} {version}" for name, version in _provenance.versions().items())
    precisions = ", ".join(dict.fromkeys(report.meta.get("precision", "float32") for report in reports))
    batches = ", ".join(dict.fromkeys(str(report.meta["batch_size"]) for report in reports))
    return {
        "seed": seeds,
        "batch size": f"{batches} (results do not depend on it)",
        "hardware": str(reports[0].meta["hardware"]),
        "precision": precisions,
        "attacks took": f"{seconds:,.1f} s, compilation included",
        "versions": versions,
        "written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
