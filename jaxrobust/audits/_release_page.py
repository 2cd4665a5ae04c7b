"""The page of a release report: one file that needs no network, and prints."""

import json
from pathlib import Path
from typing import NamedTuple

from jaxrobust.audits._privacy_page import cell, mitigation_curve, strip_of
from jaxrobust.audits._saliency_page import shown
from jaxrobust.audits.release import ReleaseReport
from jaxrobust.evaluation import _pages


class ReleasePaths(NamedTuple):
    """Where `write_release_report` put things."""

    html: Path
    json: Path
    markdown: Path


def write_release_report(
    report: ReleaseReport, folder: Path | str, *, title: str, command: str = "", pictures: bool = True
) -> ReleasePaths:
    """Writes `release.html` (one file, no network, no script; a browser prints it), `release.json` and `.md`.

    Args:
        report: from `release_of_classifier` or `release_of_faces`.
        folder: made if need be; files of the same names are replaced.
        title: of the page.
        command: what to type to get this again, for the footer.
        pictures: whether the page shows images; False where people must not be shown.

    Returns:
        The paths of the files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = ReleasePaths(folder / "release.html", folder / "release.json", folder / "release.md")
    found = {"title": title, "command": command, **report.to_json()}
    paths.json.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    paths.markdown.write_text(_pages.with_command(title, command, report.summary()), encoding="utf-8")
    page = release_html(report, title=title, command=command, pictures=pictures)
    paths.html.write_text(page, encoding="utf-8")
    return paths


def release_html(report: ReleaseReport, *, title: str, command: str = "", pictures: bool = True) -> str:
    """The page as text; see `write_release_report`."""
    environment = _pages.environment("jaxrobust.audits", share=cell)
    rows = [row for row in report.saliency.rows if (row.region, row.perturbation) == report.saliency.headline]
    worst = [case for case in report.saliency.cases if case.kind == "worst"]
    strips = [case for case in report.privacy.cases if case.attack == report.privacy.headline]
    meta = report.meta
    return environment.get_template("release.html").render(
        title=title,
        report=report,
        command=command,
        facts={"data": report.dataset, **report.data, "model": report.model, **report.training},
        bands={
            "Where it looks": report.saliency.verdict.sensitivity,
            "What features give away": report.privacy.band,
        },
        saliency_rows=rows,
        controls=list(rows[0].controls) if rows else [],
        cases=[shown(case) for case in worst[:4]] if pictures else [],
        strips=[strip_of(case) for case in strips] if pictures else [],
        curve=mitigation_curve(report.privacy) if report.privacy.mitigations else None,
        made={
            "seeds": ", ".join(f"{name} {seed}" for name, seed in meta["seeds"].items()),
            "versions": ", ".join(f"{name} {version}" for name, version in meta["versions"].items()),
            "hardware": str(meta["hardware"]),
            "seconds": f"{meta['seconds']:.0f}",
        },
    )
