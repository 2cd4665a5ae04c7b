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
    columns = ("accuracy", "interval", "8-bit", "R_adv", "R_rob", "distance", "images/s")
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
            f"{speed:,.0f}" if speed else "–",
            style="bold" if row["attack"] == WORST else None,
        )
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
