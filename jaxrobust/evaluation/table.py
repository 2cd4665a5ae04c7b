"""Reports as text tables for a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from jaxrobust.evaluation._types import WORST, Level, Report

_LABELS = {"none": "none (clean)", WORST: "worst of all"}
_STYLES = {Level.SKIPPED: "dim", Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _interval(row: dict, name: str = "accuracy") -> str:
    return f"{_percent(row[f'{name}_low'])}–{_percent(row[f'{name}_high'])}"


def rows_table(report: Report) -> Table:
    """One model: a row per attack with accuracy, its interval, the risks and the speed, in percent.

    Where there are such attacks: the median minimum norm in its own units, the share that reached its target,
    and under an ensemble a line per member.

    Args:
        report: what `robust.evaluate` gave.

    Returns:
        A rich table; print it with a rich console.
    """
    first = report.rows[0]
    title = f"{first['model']}{' on ' + first['dataset'] if first['dataset'] else ''}, n = {first['n']}"
    table = Table(title=title, caption="Percent; intervals: Wilson, 95%. every: counts every image.")
    for column in ("attack", "radius"):
        table.add_column(column)
    shown = _extra_columns(report)
    columns = ("accuracy", "interval", "8-bit", "R_adv", "R_rob", "distance", *shown, "images/s")
    for column in columns:
        table.add_column(column, justify="right")
    for row in report.rows:
        every = " (every)" if row["every_image"] else ""
        distance = row.get("distance_median")
        speed = row.get("images_per_second")
        table.add_row(
            _LABELS.get(row["attack"], row["attack"]) + every,
            row.get("radius", ""),
            _percent(row["accuracy"]),
            _interval(row),
            _percent(row["accuracy_8bit"]),
            _percent(row["r_adv"]),
            _percent(row["r_rob"]),
            "–" if distance is None else f"{distance:.2f}",
            *(_EXTRA[column](row) for column in shown),
            (f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}") if speed else "–",
            style="bold" if row["attack"] == WORST else None,
        )
        for share in row.get("broken_by") or ():
            broke = f"broke {share['broken']:,} of {share['attacked']:,}"
            table.add_row(f"  {share['member']}", broke, style="dim")
    return table


def _median_norm(row: dict) -> str:
    """`1.24`, or `–` where there is none; `none found` in half of the images or more is infinitely far."""
    if not row.get("minimum_norm"):
        return "–"
    return "∞" if row["norm_median"] is None else f"{row['norm_median']:.3g}"


_EXTRA = {
    "median norm": _median_norm,
    "on target": lambda row: _percent(row.get("targeted_success")),
    "of source": lambda row: _percent(row.get("source_accuracy")),
}


def _extra_columns(report: Report) -> list[str]:
    """The columns that only some attacks have."""
    wanted = {
        "median norm": any(row.get("minimum_norm") for row in report.rows),
        "on target": any(row.get("targeted_success") is not None for row in report.rows),
        "of source": any(row.get("source_accuracy") is not None for row in report.rows),
    }
    return [column for column, is_wanted in wanted.items() if is_wanted]


def certificate_table(report: Report) -> Table:
    """The certificate of a report: certified accuracy of the smoothed model, by l2 radius."""
    assert report.certificate is not None
    one = report.certificate
    table = Table(
        title=f"Certified by randomised smoothing, σ = {one['sigma']:g}, {one['num_certify']:,} draws",
        caption="Of the smoothed model; radii in pixels of [0, 1]; intervals: Wilson, 95%.",
    )
    for column in ("l2 radius", "certified accuracy", "interval"):
        table.add_column(column, justify="right")
    for line in one["radii"]:
        table.add_row(f"{line['radius']:.3g}", _percent(line["accuracy"]), _interval(line))
    return table


def comparison_table(reports: Sequence[Report]) -> Table:
    """Several models side by side: accuracy in percent, a row per attack, the best of each row in bold.

    Args:
        reports: one per model; an attack that a model was not tried with is left empty.
    """
    table = Table(title="Accuracy (%) with 95% Wilson interval")
    table.add_column("attack")
    for report in reports:
        table.add_column(str(report.rows[0]["model"]), justify="right")
    names = list(
        dict.fromkeys(row["attack"] for report in reports for row in report.rows if row["attack"] != WORST)
    )
    for name in [*names, WORST]:
        rows = [next((row for row in report.rows if row["attack"] == name), None) for report in reports]
        best = max(row["accuracy"] for row in rows if row)
        cells = []
        for row in rows:
            text = "–" if row is None else f"{_percent(row['accuracy'])} [dim]({_interval(row)})[/dim]"
            cells.append(f"[bold]{text}[/bold]" if row and row["accuracy"] == best else text)
        table.add_row(_LABELS.get(name, name), *cells)
    return table


def verdicts_table(report: Report) -> Table:
    """The trust checks that are not ok, and what to do; all of them where everything is ok."""
    bad = report.warnings
    table = Table(
        title=f"Trust checks of {report.rows[0]['model']}: {len(bad)} of {len(report.verdicts)} not ok"
    )
    for column in ("check", "verdict", "what to do"):
        table.add_column(column)
    for verdict in bad or report.verdicts:
        table.add_row(verdict.check, f"[{_STYLES[verdict.level]}]{verdict.level.value}[/]", verdict.advice)
    return table


def text(table: Table, width: int = 110) -> str:
    """A table as plain text, for files and tests."""
    console = Console(width=width, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()
