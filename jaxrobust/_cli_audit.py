"""`jaxrobust audit`: what an engineer signs before a model is released."""

from pathlib import Path

import click

from jaxrobust import _cli_audit_all, _cli_audit_privacy, _cli_saliency
from jaxrobust import _cli_common as common


@click.group()
def audit():
    """Audit a trained model: how robust it is where it looks, how much its features give away."""


audit.add_command(_cli_audit_privacy.privacy)
audit.add_command(_cli_audit_privacy.privacy_compare)
audit.add_command(_cli_audit_all.everything)


@audit.command()
@click.argument("runs", type=click.Path(path_type=Path), metavar="RUN|CHECKPOINT...", nargs=-1, required=True)
@click.option(
    "--maps",
    metavar="NAMES",
    help="Saliency maps separated by commas, with parameters like occlusion:window=8,stride=4; "
    "grad_cam@LAYER chooses the layer. Default: occlusion (of images under 16 pixels with a quarter of the "
    "side as its window), integrated_gradients, grad_cam.",
)
@click.option(
    "--regions",
    default="top_fraction",
    show_default=True,
    metavar="KIND",
    help="top_fraction, largest_component, best_box, or threshold:level=L.",
)
@click.option(
    "--fraction",
    default="0.05,0.1,0.2",
    show_default=True,
    metavar="Q,...",
    help="Shares of the image that a region has; the verdict is of the middle one.",
)
@click.option(
    "--perturb",
    default="mean",
    show_default=True,
    metavar="NAMES",
    help="What is done there: mean (of the training images), grey, blur, noise, region_pgd, patch, or any "
    "attack by the name that `evaluate --attacks` takes; the verdict is of the first.",
)
@click.option(
    "--controls",
    default="rolled,others,centre_disc",
    show_default=True,
    metavar="NAMES",
    help="Where else the region is laid: a random place, where another image's lies, the centre.",
)
@click.option(
    "--dataset",
    metavar="NAME",
    help="Another set with images of the same shape; default the run's own test images, or test people.",
)
@click.option(
    "--pairs",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Faces: a list of LFW's format for --dataset folder:PATH; default PATH/pairs.txt.",
)
@common.data_dir_option
@click.option(
    "--num",
    type=click.IntRange(min=2),
    default=100,
    show_default=True,
    help="Images; of faces so many genuine and as many impostor pairs, each image of a pair in turn.",
)
@click.option(
    "--target",
    type=click.Choice(["label", "predicted"]),
    help="Classes: label (the default) leaves out images that are wrong from the start; predicted asks about "
    "all.",
)
@click.option("--eps", type=float, help="Radius of attacks in the run's ball, in pixels of [0, 1].")
@click.option("--far", type=float, help="Faces: that thresholds shall have; default 0.01.")
@click.option(
    "--explained",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="RUN",
    help="Take the regions from this other run's maps (one for each RUN): what do they do to this one?",
)
@click.option(
    "--randomise/--no-randomise",
    default=True,
    show_default=True,
    help="Compare the maps with those of the model with layers drawn anew.",
)
@click.option(
    "--num-sanity",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    help="Images for insertion, deletion and randomised layers.",
)
@click.option(
    "--pictures/--no-pictures",
    default=True,
    show_default=True,
    help="Images on the page; leave them out where people must not be shown.",
)
@click.option("--batch-size", type=int, default=64, show_default=True, help="Images at once.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is drawn.")
@click.option("--num-draws", type=int, default=1000, show_default=True, help="Of the bootstrap.")
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the report; default RUN/saliency.",
)
@common.which_option
def saliency(
    runs, maps, regions, fraction, perturb, controls, dataset, pairs, data_dir, num, target, eps, far,
    explained, randomise, num_sanity, pictures, batch_size, seed, num_draws, report, which,
):  # fmt: skip
    """How robust is a model where its own heat maps say that it is most sensitive?

    Of each image (of a pair of faces each in turn): a heat map of the decision, a region of it, a
    perturbation there, the decision again; and the same with the region laid elsewhere. Prints the flips
    with 95% intervals; writes saliency.html, saliency.json, saliency.md and flags.npz.

    \b
    Examples:
      jaxrobust audit saliency runs/digits_srt-seed0
      jaxrobust audit saliency runs/digits_srt-seed0 --maps rise:num=1000,smooth_grad --fraction 0.1
      jaxrobust audit saliency runs/mnist1k_srt-seed0 --perturb mean,blur,region_pgd:eps=0.3,patch
      jaxrobust audit saliency runs/mnist1k_srt-seed0 --maps occlusion,rise,grad_cam@conv3 --regions best_box
      jaxrobust audit saliency runs/fold0 runs/fold1 runs/fold2 runs/fold3 --no-pictures
    """
    import dataclasses

    from jaxrobust import audits, experiments
    from jaxrobust import saliency as rooms

    every = [experiments.load_run(run, which=which) for run in runs]
    first = every[0]
    height, width, _ = first.model.image_shape
    found_maps, layers = {}, {}
    for text in _split(maps or _cli_saliency.default_maps(min(height, width))):
        title, method, layer = audits.parse_map(text)
        found_maps[title] = method
        if isinstance(method, rooms.GradCAM):
            layers[title] = layer
    threat = first.experiment.threat
    threat = threat if eps is None else dataclasses.replace(threat, eps=eps)
    plan = audits.SaliencyAudit(
        maps=found_maps,
        regions=audits.parse_regions(regions, _fractions(fraction), height, width),
        perturbations=dict(audits.parse_perturbation(text, threat) for text in _split(perturb)),
        controls=tuple(_split(controls)) if controls.strip() else (),
        num_sanity=num_sanity,
        batch_size=batch_size,
        num_draws=num_draws,
        seed=seed,
    )
    others = [experiments.load_run(run, which=which) for run in explained]
    with common.progress() as tell:
        found = _cli_saliency.audit_runs(
            every,
            plan,
            layers,
            dataset=dataset,
            pairs=pairs,
            data_dir=data_dir,
            num=num,
            target=target,
            randomise=randomise and num_sanity > 0,
            explained=others,
            far=far,
            progress_fn=tell,
            log_fn=common.say,
        )
    common.say(found.summary())
    paths = audits.write_saliency_report(
        found,
        report or first.folder / _cli_saliency.folder_name(dataset, others),
        title=f"{found.model}: where it looks",
        command=common.command_line(),
        facts={
            "checkpoint": ", ".join(f"step {run.step}" for run in every),
            "training": experiments.summary(first.experiment),
            **({"regions from": ", ".join(map(str, explained))} if explained else {}),
        },
        pictures=pictures,
    )
    common.say(f"Report: {paths.html}")


@audit.command("saliency-compare")
@click.argument("first", type=click.Path(file_okay=False, path_type=Path), metavar="REPORT")
@click.argument("second", type=click.Path(file_okay=False, path_type=Path), metavar="REPORT")
@click.option("--num-draws", type=int, default=1000, show_default=True, help="Of the bootstrap.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.md", help="Also into this file."
)
def saliency_compare(first, second, num_draws, seed, out):
    """Two saliency reports of the same images: the second model less the first, with paired intervals.

    \b
    Example:
      jaxrobust audit saliency-compare runs/standard/saliency runs/srt/saliency
    """
    from jaxrobust import audits

    rows = audits.compare_saliency(
        audits.load_flags(first), audits.load_flags(second), num_draws=num_draws, seed=seed
    )
    text = audits.comparison_markdown(rows, str(first), str(second))
    common.say(text)
    if out is not None:
        out.write_text(f"```\n{common.command_line()}\n```\n\n{text}\n", encoding="utf-8")


def _split(text: str) -> list[str]:
    from jaxrobust.evaluation import split_names

    return split_names(text)


def _fractions(text: str) -> list[float]:
    try:
        return [float(part) for part in text.replace(" ", ",").split(",") if part]
    except ValueError:
        raise ValueError(f"Expected --fraction as numbers like 0.05,0.1,0.2, got {text!r}.") from None
