"""`jaxrobust export`."""

from pathlib import Path

import click

from jaxrobust import _cli_common as common


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN|CHECKPOINT")
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of the released model.",
)
@click.option(
    "--evaluate/--no-evaluate",
    default=True,
    show_default=True,
    help="Measure accuracy for the card; without, the card says that nothing was measured.",
)
@click.option("--attacks", metavar="NAMES", help="As in `jaxrobust evaluate`; default the experiment's own.")
@click.option("--num", type=int, help="The first N test images; default all.")
@common.data_dir_option
@click.option("--batch-size", type=int, default=250, show_default=True, help="Images at once.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the attacks' randomness.")
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE|DIR",
    help="Take accuracy from the report.json that `jaxrobust evaluate` wrote (RUN/evaluation), and attack "
    "nothing.",
)
@click.option(
    "--gradients/--no-gradients",
    default=True,
    show_default=True,
    help="With gradients with respect to the images, which attacks need; they double the file.",
)
@click.option("--force", is_flag=True, help="Write into a folder that has files, over an export there.")
@common.which_option
def export(
    run, out, evaluate, attacks, num, data_dir, batch_size, seed, report, gradients, force, which
):  # fmt: skip
    """Write a run as a folder to release: program, weights and model card.

    model.stablehlo is read by jax.export without this library, on CPU, CUDA and TPU, for any number of
    images; checkpoint/ by orbax; model_card.json and model_card.md say how the model was made, what it holds
    against, and what was not tried.

    \b
    Examples:
      jaxrobust export runs/digits_srt-seed0 --out released
      jaxrobust export runs/digits_srt-seed0 --out released --attacks table3,autoattack --num 1000
      jaxrobust export runs/mine --out released --report runs/mine/evaluation
      jaxrobust export runs/mine --out released --no-evaluate --force
    """
    from jaxrobust import experiments

    loaded = experiments.load_run(run, which=which)
    found = experiments.export_run(
        loaded,
        out,
        evaluate=evaluate,
        attacks=common.names(attacks),
        num=num,
        data_dir=data_dir,
        batch_size=batch_size,
        seed=seed,
        report=report,
        gradients=gradients,
        force=force,
        log_fn=common.say,
    )
    measured = found.card["evaluation"]
    shown = {row["attack"]: row["accuracy"] for row in measured["attacks"]} if measured else {}
    if measured and measured["worst"]:
        shown["worst of all"] = measured["worst"]["accuracy"]
    text = ", ".join(f"{name} {value:.1%}" for name, value in shown.items()) or "no accuracy measured"
    common.say(f"Exported step {loaded.step} of {loaded.folder.name}: {text}.")
    common.say(f"Card: {out / 'model_card.md'}")
