"""What the commands share: the console, the folder of runs, lists of names."""

from pathlib import Path

import click

RUNS = Path("runs")


def console():
    """A rich console; made late, so that `--help` stays quick. Tables are not cut in files."""
    from rich.console import Console

    screen = Console(highlight=False)
    return screen if screen.is_terminal else Console(highlight=False, width=140)


def say(message) -> None:
    """Prints a line as it is, however narrow the terminal, or a table."""
    if isinstance(message, str):
        click.echo(message)
    else:
        console().print(message)


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
    """`none,pgd:steps=100,restarts=5` to `[none, pgd:steps=100,restarts=5]`; None stays None."""
    if text is None:
        return None
    found: list[str] = []
    for part in (piece.strip() for piece in text.split(",")):
        # `restarts=5` belongs to the attack before it.
        if "=" in part and ":" not in part and found:
            found[-1] += f",{part}"
        elif part:
            found.append(part)
    if not found:
        raise ValueError("Expected at least one name, separated by commas; see `jaxrobust list attacks`.")
    return found
