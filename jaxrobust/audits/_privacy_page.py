"""The page of a privacy audit: verdict, acceptance, likeness, strips of pictures, mitigations as a curve."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from jaxrobust.audits._privacy_report import Case, MitigationRow, PrivacyReport, number
from jaxrobust.evaluation import Band, Estimate, _pages
from jaxrobust.evaluation._figures import DARK, LIGHT, Ink, svg
from jaxrobust.evaluation._pictures import data_uri, png_uri, to_rgb

REPORT_FILE, DRAWS_FILE = "privacy.json", "draws.npz"
_SMALL = 48
_MARKERS = "os^DvPX*"
_WORDS = {
    "people": {
        "whose": "a person",
        "them": "the person",
        "unit": "people",
        "photo": "photo of the person",
        "another": "photos of other people",
    },
    "classes": {
        "whose": "a class",
        "them": "the class",
        "unit": "images",
        "photo": "image of the class",
        "another": "images of other classes",
    },
}


class PrivacyPaths(NamedTuple):
    """Where `write_privacy_report` put things."""

    html: Path
    json: Path
    markdown: Path
    draws: Path


def write_privacy_report(
    report: PrivacyReport,
    folder: Path | str,
    *,
    title: str,
    command: str = "",
    facts: Mapping[str, str] | None = None,
    pictures: bool = True,
) -> PrivacyPaths:
    """Writes `privacy.html` (one file, no network, no script), `privacy.json`, `privacy.md` and `draws.npz`.

    Args:
        report: from `audit_privacy` or `audit_classifier_privacy`.
        folder: made if need be; files of the same names are replaced.
        title: of the page.
        command: what to type to get this again, for the footer.
        facts: short facts about model and data for the head of the page.
        pictures: whether the page shows victims and their reconstructions; False where people must not be
            shown. The other files have none.

    Returns:
        The paths of the files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = PrivacyPaths(
        folder / "privacy.html", folder / REPORT_FILE, folder / "privacy.md", folder / DRAWS_FILE
    )
    found = {"title": title, "command": command, "given": dict(facts or {}), **report.to_json()}
    paths.json.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    paths.markdown.write_text(_pages.with_command(title, command, report.summary()), encoding="utf-8")
    arrays: dict[str, Any] = report.draws()
    np.savez_compressed(paths.draws, **arrays)
    page = privacy_html(report, title=title, command=command, facts=facts, pictures=pictures)
    paths.html.write_text(page, encoding="utf-8")
    return paths


def privacy_html(
    report: PrivacyReport,
    *,
    title: str,
    command: str = "",
    facts: Mapping[str, str] | None = None,
    pictures: bool = True,
) -> str:
    """The page as text; see `write_privacy_report`."""
    environment = _pages.environment(
        "jaxrobust.audits",
        share=lambda value: cell(value, 100, 1),
        number=lambda value: cell(value, 1, 3),
        decibels=lambda value: cell(value, 1, 1),
        plain=number,
    )
    first = next(iter(report.attacks.values()))
    strips: dict[str, list[dict[str, Any]]] = {}
    for case in report.cases if pictures else ():
        strips.setdefault(case.attack, []).append(strip_of(case))
    given = {"model": report.model, "data": report.dataset, "published": report.threat, **(facts or {})}
    return environment.get_template("privacy.html").render(
        title=title,
        report=report,
        command=command,
        facts={name: value for name, value in given.items() if value},
        words=_WORDS[report.form],
        window=first.window,
        perceptual=first.likeness[0].perceptual is not None,
        strips=strips,
        curve=mitigation_curve(report) if report.mitigations else None,
        made=_made(report),
    )


def cell(value: Estimate | None, factor: float = 100, digits: int = 1) -> str:
    """A number of a table with its interval below it."""
    if value is None or value.value is None:
        return "–"
    interval = ""
    if value.low is not None and value.high is not None:
        low, high = (f"{factor * one:.{digits}f}" for one in (value.low, value.high))
        interval = f"<span class='interval'>{low} – {high}</span>"
    return Markup(f"{factor * value.value:.{digits}f}{interval}")


def _made(report: PrivacyReport) -> dict[str, str]:
    meta = report.meta
    return {
        "seed": str(meta["seed"]),
        "decoders": f"{report.facts['num_decoder_seeds']} for each setting that attacks",
        "victim's hash": ", ".join(report.facts["victims"]),
        "data": ", ".join(filter(None, (report.facts["fingerprint"], *report.facts["images"]))),
        "versions": ", ".join(f"{name} {version}" for name, version in meta["versions"].items()),
        "hardware": str(meta["hardware"]),
        "seconds": f"{meta['seconds']:.0f}",
    }


def strip_of(case: Case) -> dict[str, Any]:
    """A row of pictures."""
    pictures = (
        (case.image, "original"),
        (case.reconstruction, "reconstruction"),
        (case.mean_face, "mean image"),
        (case.wrong, "reconstruction of somebody else"),
        (case.other, "another photo"),
    )
    return {
        "kind": case.kind,
        "ssim": case.ssim,
        "crisp": max(case.image.shape[:2]) < _SMALL,
        "pictures": [
            {"uri": png_uri(to_rgb(image)), "text": f"{text}, {case.kind}"} for image, text in pictures
        ],
    }


def mitigation_curve(report: PrivacyReport) -> dict[str, str]:
    """Leak against recognition, drawn for light and dark, and in words."""
    rows = report.mitigations
    text = "; ".join(f"{row.name}: leak {row.leak.percent()}, {row.utility.percent()}" for row in rows)
    drawn = {
        name: data_uri(_curve_svg(rows, report.utility, ink), "image/svg+xml")
        for name, ink in (("light", LIGHT), ("dark", DARK))
    }
    return {**drawn, "text": f"Leak against {report.utility}. {text}."}


def _curve_svg(rows: tuple[MitigationRow, ...], utility: str, ink: Ink) -> bytes:
    figure = Figure(figsize=(5.2, 3.9), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    for at, row in enumerate(rows):
        if row.leak.value is None or row.utility.value is None:
            continue
        colour = ink.lines[at % len(ink.lines)]
        axes.errorbar(
            100 * row.leak.value,
            100 * row.utility.value,
            xerr=_ends(row.leak),
            yerr=_ends(row.utility),
            color=colour,
            marker=_MARKERS[at % len(_MARKERS)],
            markersize=7,
            markerfacecolor="none" if row.band is Band.UNDETERMINED else colour,
            elinewidth=0.8,
            linestyle="none",
            label=row.name,
        )
    axes.set_xlim(-3, 103)
    axes.set_ylim(-3, 103)
    axes.set_xlabel("leak, %", color=ink.text)
    axes.set_ylabel(f"{utility}, %", color=ink.text)
    axes.tick_params(colors=ink.text, labelsize=8)
    axes.grid(color=ink.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(ink.faint)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        # Below the axes: mitigations lie anywhere on them.
        style = {"fontsize": 7, "frameon": False, "labelcolor": ink.text}
        figure.legend(handles, labels, loc="outside lower center", ncols=3, **style)
    return svg(figure)


def _ends(value: Estimate) -> list[list[float]] | None:
    """How far the interval reaches to both sides, in percent."""
    if value.value is None or value.low is None or value.high is None:
        return None
    return [[100 * max(value.value - value.low, 0.0)], [100 * max(value.high - value.value, 0.0)]]
