"""The files of a verification: everything as JSON, a page of Markdown, the ROC as a picture."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxrobust.evaluation import VerificationReport
from jaxrobust.experiments._files import write_text
from jaxrobust.experiments.judge_faces import FaceReport


def write_face_report(
    report: FaceReport, folder: Path, *, title: str, command: str, facts: Mapping[str, str]
) -> Path:
    """Writes `verification.json`, `verification.md` and `roc.png` into the folder; the path of the page.

    Args:
        report: from `evaluate_faces`.
        folder: made if absent.
        title: of the page.
        command: that made it.
        facts: lines for the reader.
    """
    attacked = None if report.attacked is None else report.attacked.to_json()
    found = {"command": command, "facts": dict(facts), "clean": report.clean.to_json(), "attacked": attacked}
    write_text(folder / "verification.json", json.dumps(found, indent=1) + "\n")
    parts = [f"# {title}", f"```\n{command}\n```", *(f"- {name}: {text}" for name, text in facts.items())]
    lines = report.clean.summary().splitlines()
    parts += ["", "## Clean", "", "\n".join(f"- {line.strip()}" for line in lines)]
    if report.attacked is not None:
        parts += ["", "## Under attack", "", report.attacked.summary()]
    versions = ", ".join(f"{name} {version}" for name, version in report.clean.meta["versions"].items())
    parts += ["", "![ROC](roc.png)", "", f"{versions}; {report.clean.meta['hardware']}"]
    write_text(folder / "verification.md", "\n".join(parts) + "\n")
    draw_roc({title: report.clean}, folder / "roc.png")
    return folder / "verification.md"


def draw_roc(reports: Mapping[str, VerificationReport], path: Path) -> None:
    """The pooled ROC of each model, FAR in logarithms down to what its impostor pairs resolve."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    least = min(1 / max(one.num_impostor, 1) for one in reports.values())
    for name, one in reports.items():
        far, tar = (np.asarray(values) for values in one.roc)
        axes.step(np.maximum(far, least), tar, where="post", label=name)
    axes.plot(np.geomspace(least, 1), 1 - np.geomspace(least, 1), ls=":", c="0.5", label="FAR = FRR")
    axes.set(
        xscale="log", xlim=(least, 1), ylim=(0, 1.01), xlabel="false accept rate", ylabel="true accept rate"
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
