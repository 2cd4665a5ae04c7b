"""The figures of a report: accuracy-against-radius panels, and one page with table, curves and gallery."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from jaxrobust.evaluation import _pictures
from jaxrobust.evaluation._types import WORST, Curve, Report, Seen
from jaxrobust.evaluation.breakage import Breakage


@dataclass(frozen=True, kw_only=True)
class Ink:
    """Colours for one background. The lines are Okabe and Ito's, which colour-blind readers tell apart."""

    text: str
    faint: str
    lines: tuple[str, ...]


LIGHT = Ink(
    text="#1c1c1c",
    faint="#d9d9d9",
    lines=("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555"),
)
DARK = Ink(
    text="#e4e4e4",
    faint="#45484d",
    lines=("#5AB4F0", "#F08A45", "#35C495", "#E29AC4", "#F0C94A", "#A5D8FF", "#BBBBBB"),
)
# Lines differ in colour, marker and dash, so that print in grey keeps them apart.
_MARKERS = "os^DvPX"
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One set of axes: labelled curves over one x axis.

    `norm`: p of the ball in whose own units x is; None: x is the share of each curve's full radius.
    """

    title: str
    lines: tuple[tuple[str, Curve], ...]
    norm: float | None

    @property
    def unit(self) -> str:
        """What x is."""
        return _UNITS[self.norm]

    def radii(self, curve: Curve) -> np.ndarray:
        """The x values of one of its curves."""
        return np.array(curve.factors) * (1.0 if self.norm is None or curve.eps is None else curve.eps)


_UNITS: dict[float | None, str] = {
    None: "share of the full radius",
    math.inf: "ℓ∞ radius (pixels in [0, 1])",
    2.0: "ℓ2 radius (pixels in [0, 1])",
    1.0: "ℓ1 radius (pixels in [0, 1])",
    0.0: "ℓ0 radius (a count)",
}
_NORMS: dict[float | None, str] = {
    math.inf: "ℓ∞",
    2.0: "ℓ2",
    1.0: "ℓ1",
    0.0: "ℓ0",
    None: "geometry, colour, composites",
}


def panels(reports: Sequence[Report]) -> list[Panel]:
    """Several models: a panel per attack, a line per model. One model: per norm, a line per attack."""
    if len(reports) == 1:
        curves = reports[0].curves
        return [
            Panel(title=title, lines=tuple((c.attack, c) for c in curves if c.norm == norm), norm=norm)
            for norm, title in _NORMS.items()
            if any(curve.norm == norm for curve in curves)
        ]
    names = dict.fromkeys(curve.attack for report in reports for curve in report.curves)
    found = []
    for name in names:
        lines = tuple(
            (str(report.meta["model"]), curve)
            for report in reports
            for curve in report.curves
            if curve.attack == name
        )
        radius = lines[0][1].radius
        norms = {curve.norm for _, curve in lines}
        title = f"{name} ({radius})" if radius else name
        found.append(Panel(title=title, lines=lines, norm=norms.pop() if len(norms) == 1 else None))
    return found


def draw(axes: Axes, panel: Panel, ink: Ink) -> None:
    """Draws a panel: percent against radius, with 95% bands."""
    for at, (label, curve) in enumerate(panel.lines):
        colour = ink.lines[at % len(ink.lines)]
        x = panel.radii(curve)
        axes.fill_between(
            x,
            100 * np.array(curve.low),
            100 * np.array(curve.high),
            color=colour,
            alpha=0.15,
            lw=0,
            step="post" if panel.norm == 0 else None,
        )
        axes.plot(
            x,
            100 * np.array(curve.accuracy),
            color=colour,
            marker=_MARKERS[at % len(_MARKERS)],
            linestyle=_DASHES[at % len(_DASHES)],
            markersize=5,
            linewidth=1.8,
            # Between two counts nothing can be changed.
            drawstyle="steps-post" if panel.norm == 0 else "default",
            label=label,
        )
    axes.set_title(panel.title, color=ink.text, fontsize=11)
    axes.set_xlabel(panel.unit, color=ink.text)
    counts = " / ".join(dict.fromkeys(f"{curve.n:,}" for _, curve in panel.lines))
    axes.set_ylabel(f"accuracy (%), {counts} images", color=ink.text)
    axes.set_ylim(-2, 102)
    axes.set_xlim(left=0)
    axes.grid(color=ink.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=ink.text)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("bottom", "left"):
        axes.spines[side].set_color(ink.text)
    axes.legend(frameon=False, labelcolor=ink.text, fontsize=9, loc="upper right")


def panel_svg(panel: Panel, ink: Ink) -> bytes:
    """A panel as SVG on a transparent ground; the same bytes for the same numbers."""
    figure = Figure(figsize=(4.6, 3.3), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    draw(axes, panel, ink)
    return svg(figure)


def breakage_svg(found: Breakage, ink: Ink) -> bytes:
    """Which attack broke which image: a line per attack, images ordered by how many attacks broke them.

    Images that were wrong from the start are left out.
    """
    figure = Figure(figsize=(9.0, 0.6 + 0.24 * len(found.attacks)), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    # Images that the same attacks broke stand side by side.
    order = np.lexsort((*found.broken[::-1], -found.by_how_many))
    order = order[found.right[order]]
    shades = ListedColormap([ink.faint, ink.lines[1]])
    axes.imshow(found.broken[:, order], cmap=shades, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(found.attacks)), found.attacks, fontsize=8)
    axes.set_yticks(np.arange(len(found.attacks) - 1) + 0.5, minor=True)
    axes.grid(which="minor", axis="y", color=ink.text, linewidth=0.5)
    axes.set_xticks([])
    axes.tick_params(which="both", colors=ink.text, length=0)
    axes.set_xlabel(f"{len(order):,} images, right from the start", color=ink.text, fontsize=9)
    axes.spines[:].set_visible(False)
    return svg(figure)


def svg(figure: Figure) -> bytes:
    """The same bytes for the same figure."""
    out = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "jaxrobust"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def best_of(rows: Sequence[dict | None]) -> float | None:
    """The highest accuracy of a line of a table; None where nothing stands out."""
    found = {row["accuracy"] for row in rows if row}
    return max(found) if len(found) > 1 else None


def _draw_table(axes: Axes, reports: Sequence[Report], names: list[str]) -> None:
    """Accuracy with intervals in booktabs' manner: three rules and no boxes."""
    axes.axis("off")
    axes.set_xlim(0, 1)
    axes.set_ylim(len(names) + 1, -0.6)
    columns = np.linspace(0.34, 0.98, len(reports) + 1)[1:] if len(reports) > 1 else [0.78]
    axes.text(0.0, 0, "attack", weight="bold", va="center")
    for x, report in zip(columns, reports):
        axes.text(x, 0, str(report.meta["model"]), weight="bold", ha="right", va="center")
    for y, name in enumerate(names, start=1):
        rows = [next((row for row in report.rows if row["attack"] == name), None) for report in reports]
        best = best_of(rows)
        radius = next((row.get("radius") for row in rows if row and row.get("radius")), "")
        label = {"none": "none (clean)", WORST: "worst of all"}.get(name, name)
        axes.text(
            0.0, y, _shortened(f"{label}  {radius}".rstrip(), 60 if len(reports) == 1 else 42), va="center"
        )
        for x, row in zip(columns, rows):
            if row is None:
                axes.text(x, y, "–", ha="right", va="center")
                continue
            interval = f"[{100 * row['accuracy_low']:.1f}, {100 * row['accuracy_high']:.1f}]"
            bold = best is not None and row["accuracy"] == best
            axes.text(x, y, f"{100 * row['accuracy']:.1f}  {interval}", ha="right", va="center",
                      weight="bold" if bold else "normal")  # fmt: skip
    right = 1.0 if len(reports) > 1 else 0.8
    for height, width in ((-0.55, 1.3), (0.5, 0.7), (len(names) - 0.5, 0.4), (len(names) + 0.55, 1.3)):
        axes.plot([0, right], [height, height], color=LIGHT.text, linewidth=width, clip_on=False)


def _shortened(text: str, length: int) -> str:
    """What fits before the numbers; the page has it whole."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _draw_gallery(figure, report: Report, names: list[str]) -> None:
    """A column per image; a clean row, then two rows per attack: attacked, magnified difference."""
    class_names = report.meta["class_names"]
    grid = figure.subplots(1 + 2 * len(names), len(report.samples), squeeze=False)
    for column, sample in enumerate(report.samples):
        pictures: list[tuple[Seen | None, np.ndarray]] = [
            (sample.clean, _pictures.to_rgb(sample.clean.image))
        ]
        for name in names:
            seen = sample.attacked[name]
            gain = _pictures.gain(report, name)
            pictures += [
                (seen, _pictures.to_rgb(seen.image)),
                (None, _pictures.difference(sample, name, gain)),
            ]
        for axes, (shown, picture) in zip(grid[:, column], pictures):
            axes.imshow(picture, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
            if shown is not None:
                wrong = shown.prediction != sample.label
                mark = "✗ " if wrong else ""
                title = f"{mark}{class_names[shown.prediction]} {100 * shown.confidence:.0f}%"
                axes.set_title(title, fontsize=7, pad=2, color=LIGHT.lines[1] if wrong else LIGHT.text)
    labels = ["clean"]
    for name in names:
        labels += [name, f"difference ×{_pictures.gain(report, name):.3g}"]
    for axes, label in zip(grid[:, 0], labels):
        axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)


def page_png(reports: Sequence[Report], title: str) -> bytes:
    """One page: table, curves, and the gallery of the last model."""
    names = list(dict.fromkeys(row["attack"] for r in reports for row in r.rows if row["attack"] != WORST))
    names.append(WORST)
    shown, last = panels(reports), reports[-1]
    attacked = list(last.samples[0].attacked) if last.samples else []
    heights = [0.3 * (len(names) + 2)]
    rows_of_panels = -(-len(shown) // 2)
    # An empty part is left out: the layout's solver aborts the process on some slivers.
    heights += [3.1 * rows_of_panels] if shown else []
    heights += [0.85 * (1 + 2 * len(attacked))] if attacked else []
    layout = ConstrainedLayoutEngine(rect=(0.02, 0.01, 0.96, 0.98))
    figure = Figure(figsize=(10, sum(heights) + 0.8), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=14, weight="bold", color=LIGHT.text)
    parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    _draw_table(parts[0].subplots(), reports, names)
    if shown:
        for axes, panel in zip(_panel_axes(parts[1], len(shown), rows_of_panels), shown):
            draw(axes, panel, LIGHT)
    if attacked:
        parts[-1].suptitle(f"Images as {last.meta['model']} sees them", fontsize=10, color=LIGHT.text)
        _draw_gallery(parts[-1], last, attacked)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=150, metadata={"Software": None})
    return out.getvalue()


def _panel_axes(figure, count: int, rows: int) -> list[Axes]:
    axes = list(figure.subplots(rows, min(count, 2), squeeze=False).ravel())
    for spare in axes[count:]:
        spare.set_visible(False)
    return axes
