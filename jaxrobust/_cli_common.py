"""What the commands share: the console, the folder of runs, lists of names."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


def image_options(command):
    """`--size` and `--channels`, as `data.load` takes them."""
    command = click.option(
        "--channels",
        type=click.Choice(["1", "3"]),
        callback=_integer,
        help="Convert to grey (1) or colour (3).",
    )(command)
    return click.option(
        "--size",
        metavar="N|H,W",
        callback=_size,
        help="Resize images to this height and width in pixels, e.g. where a folder has several sizes.",
    )(command)


def which_option(command):
    """`--which`, a checkpoint of a run."""
    return click.option(
        "--which",
        type=click.Choice(["best", "last"]),
        default="best",
        show_default=True,
        help="Checkpoint of RUN.",
    )(command)


def distributed_option(command):
    """`--distributed`."""
    return click.option(
        "--distributed",
        is_flag=True,
        help="Join the other hosts of this run (Slurm, TPU pods, or JAX_* variables).",
    )(command)


def precision_option(command):
    """`--precision`, a name for `precision`."""
    return click.option(
        "--precision",
        type=click.Choice(["float32", "highest", "bf16"]),
        default="float32",
        show_default=True,
        help="float32: products as the device makes them (TF32 on NVIDIA GPUs); highest: those in full "
        "float32; bf16: the layers in bfloat16, all else in float32.",
    )(command)


def precision(name: str):
    """The `models.Precision` of a name."""
    from jaxrobust.models import Precision

    return Precision(name)


def integers(context, option, text):
    """`0,1,2` to `[0, 1, 2]`."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise click.BadParameter(f"expected numbers separated by commas, like 0,1,2, got {text!r}.")
    return [int(part) for part in parts]


def _integer(context, option, text):
    return None if text is None else int(text)


def _size(context, option, text):
    if text is None:
        return None
    parts = [part.strip() for part in text.replace("x", ",").split(",")]
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"expected pixels as 28 or 28,32 (height, width), got {text!r}.")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def names(text: str | None) -> list[str] | None:
    """`none,pgd:steps=100,restarts=5` to `[none, pgd:steps=100,restarts=5]`; None stays None."""
    from jaxrobust.evaluation import split_names

    return None if text is None else split_names(text)


def command_line() -> str:
    """What was typed, so that it can be typed again."""
    return click.get_current_context().find_root().obj["line"]


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, nothing elsewhere: gives `tell(what, done, total)`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    screen = console()
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield tell
