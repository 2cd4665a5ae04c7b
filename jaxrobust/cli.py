"""The command `jaxrobust`.

Exit codes: 0 done, 1 a mistake that a sentence explains, 2 wrong usage, 130 interrupted, 143 after SIGTERM
with a checkpoint saved. JAX is imported inside the commands, so that `--help` answers at once.
"""

import shlex
import sys
from collections.abc import Sequence

import click

from jaxrobust._cli_audit import audit
from jaxrobust._cli_data import data
from jaxrobust._cli_evaluate import evaluate, predict
from jaxrobust._cli_export import export
from jaxrobust._cli_reproduce import list_, reproduce
from jaxrobust._cli_serve import serve
from jaxrobust._cli_train import train

SIGTERM_CODE = 143


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="jaxrobust")
@click.pass_context
def cli(context, debug):
    """Semi-supervised robust training of image classifiers, attacks, and honest evaluation.

    \b
    A first run, about a minute, no data needed:
      jaxrobust train digits_srt
      jaxrobust evaluate runs/digits_srt-seed0
    """
    context.ensure_object(dict).setdefault("line", shlex.join(["jaxrobust", *sys.argv[1:]]))


for command in (train, evaluate, predict, audit, export, serve, data, reproduce, list_):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with its code; `arguments` default to the process's own."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments
    # Wherever it stands: who sees an error appends the flag to the command.
    arguments = ["--debug", *(a for a in arguments if a != "--debug")] if debug else arguments
    try:
        line = shlex.join(["jaxrobust", *(a for a in arguments if a != "--debug")])
        code = cli.main(args=arguments, prog_name="jaxrobust", standalone_mode=False, obj={"line": line})
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        code = 130
    except Exception as error:
        code = _code(error)
        if debug or code is None:
            raise
        click.echo(f"{'Stopped' if code == SIGTERM_CODE else 'Error'}: {_sentence(error)}", err=True)
    sys.exit(code if isinstance(code, int) else 0)


def _code(error: Exception) -> int | None:
    """The exit code of an error that a sentence explains; None for one that needs its traceback."""
    from jaxrobust.training import Diverged, Interrupted

    if isinstance(error, Interrupted):
        return error.exit_code
    return 1 if isinstance(error, (ValueError, OSError, Diverged)) else None


def _sentence(error: Exception) -> str:
    """The error on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__
