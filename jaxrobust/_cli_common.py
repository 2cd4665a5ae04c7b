"""What the commands share: the console, arguments of the runtime, the table of results."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

RUNS = Path("runs")


def console(stderr: bool = False):
    """A rich console; made late, so that `--help` stays quick."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def data_dir_option(command):
    """`--data-dir`, else TFDS_DATA_DIR."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="TFDS_DATA_DIR",
        show_envvar=True,
        help="Folder of prepared tensorflow-datasets; digits, orl, folder:PATH and npz:PATH need none.",
    )(command)


def names(text: str | None) -> list[str] | None:
    """`a,b c` to `[a, b, c]`; None stays None."""
    if text is None:
        return None
    found = [name for part in text.split(",") for name in part.split() if name]
    if not found:
        raise ValueError("Expected at least one name, separated by commas; see `jaxrobust list attacks`.")
    return found


def results_table(rows: Iterable[Mapping[str, Any]], title: str):
    """Accuracy per attack with its 95% Wilson interval."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("attack")
    table.add_column("radius")
    for name in ("accuracy %", "95% interval", "after 8 bits %", "images", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["attack"],
            str(row.get("radius", "")),
            f"{100 * row['accuracy']:.2f}",
            f"{100 * row['accuracy_low']:.2f} to {100 * row['accuracy_high']:.2f}",
            f"{100 * row['accuracy_8bit']:.2f}",
            str(row["n"]),
            f"{row['seconds']:.1f}",
        )
    return table


def print_warnings(report: Any, screen: Any) -> None:
    """The trust checks that were not passed, each with what to do."""
    for verdict in report.warnings:
        style = "red" if verdict.level.value == "fail" else "yellow"
        screen.print(f"[{style}]{verdict.level.value}[/] {verdict.check}: {verdict.advice}")
