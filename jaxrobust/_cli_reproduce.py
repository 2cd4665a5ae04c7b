"""`jaxrobust reproduce` and `jaxrobust list`."""

import inspect
from collections.abc import Mapping
from pathlib import Path

import click

from jaxrobust import _cli_common as common

KINDS = (
    "attacks",
    "suites",
    "objectives",
    "models",
    "datasets",
    "neighbourhoods",
    "experiments",
    "reproductions",
)


@click.command()
@click.argument("name")
@common.data_dir_option
@click.option(
    "--runs-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Default: runs/NAME; of the paper's tables and figures, which share runs, runs/tables.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder of the results.")
@click.option("--seeds", type=int, multiple=True, help="Once per seed, or as --seeds 0 --seeds 1.")
@click.option("--only", help="A part of the table, or some of its rows (srt,rt_full).")
@click.option("--num", type=int, help="Test images.")
@click.option("--dataset", type=click.Choice(["mnist", "cifar10"]), help="Default: the table's first.")
@click.option(
    "--scale",
    type=click.Choice(["tiny", "small", "gpu", "paper"]),
    help="How much is spent: seconds, two cores, one GPU, or the published setting.  [default: small]",
)
@click.option(
    "--jobs",
    type=int,
    help="Models at once, each on a device and a share of the cores of its own.  [default: 1]",
)
@click.option("--dry-run", is_flag=True, help="List the runs and what they are estimated to cost.")
@click.argument("more_seeds", nargs=-1, type=int, metavar="[SEED]...")
def reproduce(name, data_dir, runs_dir, out, seeds, only, num, dataset, scale, jobs, dry_run, more_seeds):
    """Train, evaluate and tabulate everything behind one table or figure.

    What is there already is kept: a command that was interrupted goes on where it stopped.

    \b
    Examples:
      jaxrobust reproduce digits_demo
      jaxrobust reproduce table3 --scale tiny
      jaxrobust reproduce table2 --data-dir ~/tensorflow_datasets --dry-run
      jaxrobust reproduce srt_mnist --data-dir ~/tensorflow_datasets --seeds 0 1 2
      jaxrobust reproduce srt_mnist --only spatial --seeds 0
    """
    from jaxrobust import _validate, experiments

    run_fn = _validate.member("reproduction", name, experiments.REPRODUCTIONS)
    runs_dir = runs_dir or common.RUNS / ("tables" if name in experiments.tables.SPECS else name)
    options = {
        "seeds": (*seeds, *more_seeds) or None,
        "only": only,
        "num": num,
        "out_dir": out,
        "dataset": dataset,
        "scale": scale,
        "jobs": jobs,
        "dry_run": dry_run or None,
    }
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in inspect.signature(run_fn).parameters:
            raise ValueError(f"{name} takes no --{key.removesuffix('_dir').replace('_', '-')}.")
    run_fn(runs_dir=runs_dir, data_dir=data_dir, log_fn=common.say, **given)


@click.command("list")
@click.argument("kind", type=click.Choice(KINDS), required=False)
def list_(kind):
    """What there is of a kind (attacks, suites, models, ...), or of all of them."""
    from rich.table import Table

    for name in [kind] if kind else KINDS:
        table = Table(title=name, title_justify="left", show_header=False)
        for member, text in _members(name).items():
            table.add_row(member, text)
        common.say(table)


def _members(kind: str) -> dict[str, str]:
    """Names of a kind with a sentence each."""
    from jaxrobust import attacks, data, evaluation, experiments, models, neighbourhoods, objectives

    if kind == "experiments":
        return {name: experiments.summary(one) for name, one in experiments.EXPERIMENTS.items()}
    if kind == "datasets":
        embedded = {name: _first_line(load_fn) for name, load_fn in data.DATASETS.items()}
        paths = {f"{scheme}:PATH": _first_line(load_fn) for scheme, load_fn in data.SCHEMES.items()}
        return {**embedded, **paths, "mnist, cifar10, ...": "Any prepared image set of tensorflow-datasets."}
    tables: dict[str, Mapping[str, object]] = {
        "objectives": objectives.OBJECTIVES,
        "models": models.MODELS,
        "neighbourhoods": neighbourhoods.NEIGHBOURHOODS,
    }
    if kind == "reproductions":
        # The module's docstring says which table it is.
        own = {k: _first_line(inspect.getmodule(v)) for k, v in experiments.REPRODUCTIONS.items()}
        return own | {k: f"{s.title} ({', '.join(s.datasets)})" for k, s in experiments.tables.SPECS.items()}
    if kind == "attacks":
        named = {name: _first_line(member) for name, member in attacks.ATTACKS.items()}
        written = {f"--attacks {name}": f"{e.title}: {e.about}" for name, e in evaluation.SUITE.items()}
        return {**named, **written}
    if kind == "suites":
        suites = evaluation.SUITES.items()
        return {f"--attacks {name}": f"{one.about} ({', '.join(one.names)})" for name, one in suites}
    return {name: _first_line(member) for name, member in tables[kind].items()}


def _first_line(member: object) -> str:
    return (member.__doc__ or "").strip().partition("\n")[0]
