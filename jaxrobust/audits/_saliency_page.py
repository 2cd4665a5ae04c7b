"""The page of a saliency audit: verdict, flips with controls, curves, pictures, what is known of the maps."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.figure import Figure

from jaxrobust.audits._saliency_report import WORST_MAP, Case, SaliencyReport
from jaxrobust.evaluation import Estimate, _pages
from jaxrobust.evaluation._figures import DARK, LIGHT, Ink, svg
from jaxrobust.evaluation._pictures import data_uri, png_uri, to_rgb

_CONTROLS = {"rolled": "a random place", "others": "another's region", "centre_disc": "the centre"}
_SMALL = 48


class SaliencyPaths(NamedTuple):
    """Where `write_saliency_report` put things."""

    html: Path
    json: Path
    markdown: Path
    flags: Path


def write_saliency_report(
    report: SaliencyReport,
    folder: Path | str,
    *,
    title: str,
    command: str = "",
    facts: Mapping[str, str] | None = None,
    pictures: bool = True,
) -> SaliencyPaths:
    """Writes `saliency.html` (one file, no network, no script), `saliency.json`, `saliency.md`, `flags.npz`.

    Args:
        report: from `audit_pairs` or `audit_classifier`.
        folder: made if need be; files of the same names are replaced.
        title: of the page.
        command: what to type to get this again, for the footer.
        facts: short facts about model and data for the head of the page.
        pictures: whether the page shows images; False where they must not be shown, as of people.

    Returns:
        The paths of the files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = SaliencyPaths(
        folder / "saliency.html", folder / "saliency.json", folder / "saliency.md", folder / "flags.npz"
    )
    found = {"title": title, "command": command, "given": dict(facts or {}), **report.to_json()}
    paths.json.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    paths.markdown.write_text(_pages.with_command(title, command, report.summary()), encoding="utf-8")
    arrays: dict[str, Any] = dict(report.flags)
    np.savez_compressed(paths.flags, **arrays)
    page = saliency_html(report, title=title, command=command, facts=facts, pictures=pictures)
    paths.html.write_text(page, encoding="utf-8")
    return paths


def saliency_html(
    report: SaliencyReport,
    *,
    title: str,
    command: str = "",
    facts: Mapping[str, str] | None = None,
    pictures: bool = True,
) -> str:
    """The page as text; see `write_saliency_report`."""
    environment = _pages.environment("jaxrobust.audits", share=_share, number=_number)
    controls = list(report.rows[0].controls)
    first = report.maps[0]
    return environment.get_template("saliency.html").render(
        title=title,
        report=report,
        command=command,
        facts=_facts(report, facts or {}),
        words=_words(report),
        worst=WORST_MAP,
        controls=controls,
        groups=_groups(report),
        pairs=report.form == "pairs",
        panels=_panels(report),
        cases=[shown(case) for case in report.cases] if pictures else [],
        noise={
            "insertion": _number(first.random_insertion),
            "deletion": _number(first.random_deletion),
        },
        layers=list(first.cascade),
        made=_made(report),
    )


def _share(value: Estimate | None) -> str:
    if value is None or value.value is None:
        return "–"
    interval = (
        ""
        if value.low is None or value.high is None
        else f"<span class='interval'>{100 * value.low:.1f} – {100 * value.high:.1f}</span>"
    )
    return Markup(f"{100 * value.value:.1f}{interval}")


def _number(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:.2f}"


def _groups(report: SaliencyReport) -> list[list[Any]]:
    """Rows of one region and perturbation together, the headline's first."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for row in report.rows:
        groups.setdefault((row.region, row.perturbation), []).append(row)
    keys = sorted(groups, key=lambda key: key != report.headline)
    return [groups[key] for key in keys]


def _facts(report: SaliencyReport, given: Mapping[str, str]) -> dict[str, str]:
    pairs = report.form == "pairs"
    found = {"model": report.model, "data": report.dataset, **given}
    asked = f"{report.num_rows:,} images"
    if report.unit != "images":
        asked += f" of {report.num_units} {report.unit}"
    if pairs:
        asked += f": each of the two of {report.num_rows // 2:,} pairs in turn"
    found["asked about"] = asked
    wrong = report.num_rows - report.num_right
    found["decided rightly before"] = (
        f"{report.num_right:,}; {wrong:,} were wrong from the start and left out"
    )
    return {name: value for name, value in found.items() if value}


def _words(report: SaliencyReport) -> dict[str, Any]:
    pairs = report.form == "pairs"
    before = ", ".join(
        f"{name.upper() if len(name) == 3 else name} {value.percent()}"
        for name, value in report.before.items()
    )
    under = "; ".join(
        f"{curve.map}, {curve.perturbation}: {curve.area_under.percent()}"
        for curve in report.curves
        if curve.map == WORST_MAP
    )
    asked = (
        "Genuine pairs are to stay accepted, impostor pairs to stay refused."
        if pairs
        else "Another class must not come out."
    )
    return {
        "asked": asked,
        "sample": report.unit,
        "controls": _CONTROLS,
        "before": before,
        "under": f"Mean of the curve: {under}." if under else "",
        "target": "what supports the decision (a cosine)" if pairs else "the probability of the class",
    }


def _made(report: SaliencyReport) -> dict[str, str]:
    meta = report.meta
    found = {
        "seed": str(meta["seed"]),
        "versions": ", ".join(f"{name} {version}" for name, version in meta["versions"].items()),
        "hardware": str(meta["hardware"]),
        "seconds": f"{meta['seconds']:.0f}",
    }
    if "folds" in report.facts:
        found["thresholds"] = "; ".join(
            f"fold {one['fold']}: tau {one['tau']:.3f}, FAR {100 * one['far']:.2f}% on validation pairs"
            for one in report.facts["folds"]
        )
    return found


def _panels(report: SaliencyReport) -> list[dict[str, str]]:
    """A pair of pictures, light and dark, for each perturbation."""
    found = []
    for kind in dict.fromkeys(curve.perturbation for curve in report.curves):
        curves = [curve for curve in report.curves if curve.perturbation == kind]
        text = "; ".join(f"{c.map}: {', '.join(f'{100 * v:.0f}%' for v in c.flips)}" for c in curves)
        found.append(
            {
                "light": data_uri(_curves_svg(kind, curves, LIGHT), "image/svg+xml"),
                "dark": data_uri(_curves_svg(kind, curves, DARK), "image/svg+xml"),
                "text": f"Flips against the region's share of the image, {kind}. {text}.",
            }
        )
    return found


def _curves_svg(kind: str, curves: list[Any], ink: Ink) -> bytes:
    figure = Figure(figsize=(4.6, 3.3), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    for number, curve in enumerate(curves):
        colour = ink.lines[number % len(ink.lines)]
        x = [100 * one for one in curve.areas]
        style: dict[str, Any] = {"color": colour, "marker": "os^DvPX"[number % 7], "markersize": 4}
        width = 2.2 if curve.map == WORST_MAP else 1.4
        axes.plot(x, [100 * one for one in curve.flips], label=curve.map, linewidth=width, **style)
        if curve.control:
            axes.plot(
                x, [100 * one for one in curve.control], linewidth=1.0, linestyle=(0, (4, 2)), color=colour
            )
    axes.set_xlabel("region, % of the image")
    axes.set_ylabel("decisions that flip, %")
    axes.set_title(kind, fontsize=10)
    axes.set_ylim(-3, 103)
    axes.set_xlim(left=0)
    axes.legend(fontsize=7, frameon=False, labelcolor=ink.text)
    for part in (axes.xaxis.label, axes.yaxis.label, axes.title):
        part.set_color(ink.text)
    axes.tick_params(colors=ink.text, labelsize=8)
    axes.grid(color=ink.faint, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(ink.faint)
    return svg(figure)


def shown(case: Case) -> dict[str, Any]:
    """A case with its pictures."""
    shape = case.image.shape
    pictures = [
        (to_rgb(case.image), "the image"),
        (_heat(case.heat), "the heat map"),
        (_outlined(case.image, case.inside), "the region"),
        (to_rgb(case.perturbed), "the perturbed image"),
    ]
    if case.partner is not None:
        pictures.append((to_rgb(case.partner), "the other image of the pair"))
    return {
        **{name: getattr(case, name) for name in ("name", "kind", "map", "before", "after", "flipped")},
        "crisp": max(shape[:2]) <= _SMALL,
        "pictures": [{"uri": png_uri(rgb), "text": f"{text}, {case.name}"} for rgb, text in pictures],
    }


def _heat(heat: np.ndarray) -> np.ndarray:
    """Red supports the decision, blue speaks against it, white is nothing."""
    top = np.abs(heat).max()
    scaled = 0.5 + 0.5 * heat / top if top > 0 else np.full(heat.shape, 0.5)
    return (colormaps["RdBu_r"](scaled)[..., :3] * 255).round().astype(np.uint8)


def _outlined(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The image, pale but for the region, which is tinted red."""
    rgb = to_rgb(image).astype(float)
    pale = 0.35 * rgb + 0.65 * 235
    tinted = 0.6 * rgb + 0.4 * np.array([214, 39, 40])
    return np.where(inside[..., None], tinted, pale).round().astype(np.uint8)
