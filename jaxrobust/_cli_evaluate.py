"""`jaxrobust evaluate` and `jaxrobust predict`."""

from pathlib import Path

import click

from jaxrobust import _cli_common as common
from jaxrobust import _cli_faces


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), metavar="RUN|CHECKPOINT...", nargs=-1, required=True)
@click.option(
    "--task",
    type=click.Choice(["classification", "verification"]),
    help="Default: verification for a run on faces. Several runs, of different folds of the same people, are "
    "verified together.",
)
@click.option(
    "--pairs",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Verification: a list of LFW's format for --dataset folder:PATH; default PATH/pairs.txt.",
)
@click.option(
    "--minimum-eps", is_flag=True, help="Verification: also the least radius per pair, by bisection of PGD."
)
@click.option(
    "--attacks",
    metavar="NAMES",
    help="Attacks and suites separated by commas, also as a table prints them (see `jaxrobust list attacks`, "
    "`list suites`); default the experiment's own.",
)
@click.option(
    "--dataset",
    metavar="NAME",
    help="Another set with images of the same shape, resized as the run's were; default the run's own.",
)
@common.image_options
@click.option(
    "--num",
    type=int,
    help="The first N test images; default all. Verification: attack N genuine and as many impostor pairs.",
)
@common.data_dir_option
@click.option(
    "--eps",
    type=float,
    help="Radius of the run's pixel ball, in pixels of [0, 1]: l_inf unless the experiment says l2; "
    "default the run's.",
)
@click.option("--eps-l2", type=float, help="Radius of l2 attacks, in pixels; default the run's.")
@click.option("--eps-l0", type=int, help="Pixels that sparse attacks may change; default the run's.")
@click.option("--max-angle", type=float, help="Degrees; default the run's.")
@click.option("--max-shift", type=float, help="Pixels; default the run's.")
@click.option("--steps", type=int, help="Steps of PGD; default the suite's.")
@click.option("--restarts", type=int, help="Restarts of PGD; default the suite's.")
@click.option(
    "--batch-size", type=int, default=250, show_default=True, help="Images at once, on all devices together."
)
@click.option("--devices", type=int, help="Local devices to use; default all.")
@common.distributed_option
@common.precision_option
@click.option("--seed", type=int, default=0, show_default=True, help="Of the attacks' randomness.")
@click.option("--robust-risk", is_flag=True, help="Also R_rob: attack every image against the prediction.")
@click.option(
    "--allow-batch-dependent",
    is_flag=True,
    help="Warn, not stop, where the model's logits of an image depend on the others of its batch.",
)
@click.option(
    "--save-adversarial",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    help="Keep the adversarial images, float and 8-bit, in this file (a folder: in adversarial.npz there).",
)
@click.option(
    "--adversarial",
    type=click.Path(path_type=Path),
    metavar="FILE.npz",
    help="Attack nothing: measure the model on images that --save-adversarial kept.",
)
@click.option(
    "--transfer-from",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="RUN",
    help="Another run: do its adversarial images break this one? A trust check; may be given again.",
)
@click.option(
    "--certify",
    type=float,
    metavar="SIGMA",
    help="Also certificates by randomised smoothing, under noise of this deviation in pixels of [0, 1].",
)
@click.option(
    "--certify-draws", type=int, default=1_000, show_default=True, help="Noisy copies of each image."
)
@click.option("--no-curves", is_flag=True, help="Leave accuracy against the radius out of the report.")
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the report; default RUN/evaluation, of a verification RUN/verification.",
)
@common.which_option
def evaluate(
    runs, task, pairs, minimum_eps, attacks, dataset, size, channels, num, data_dir, eps, eps_l2, eps_l0,
    max_angle, max_shift, steps, restarts, batch_size, devices, distributed, precision, seed, robust_risk,
    allow_batch_dependent, save_adversarial, adversarial, transfer_from, certify, certify_draws, no_curves,
    report, which,
):  # fmt: skip
    """Measure a run, or one checkpoint of it, under attack.

    Prints accuracy with 95% Wilson intervals and what the trust checks say; writes rows.jsonl, report.html
    and report.png. Of a run on faces: EER, TAR at FAR, dodging and impersonation with intervals over people;
    writes verification.json, verification.md and roc.png.

    \b
    Examples:
      jaxrobust evaluate runs/digits_srt-seed0
      jaxrobust evaluate runs/digits_srt-seed0 --attacks none,fgsm,pgd:steps=100,restarts=5 --eps 0.1
      jaxrobust evaluate runs/digits_srt-seed0 --attacks "none,PGD-40 (restarts=5)"
      jaxrobust evaluate runs/digits_srt-seed0 --attacks table3,fab.l2,cw:searches=9,steps=1000
      jaxrobust evaluate runs/digits_srt-seed0 --attacks "pgd>grid_adv>colour,pgd:target=least_likely"
      jaxrobust evaluate runs/digits_srt-seed0 --save-adversarial images.npz
      jaxrobust evaluate runs/digits_at-seed0 --adversarial images.npz
      jaxrobust evaluate runs/digits_srt-seed0 --certify 0.1 --transfer-from runs/digits_at-seed0
      jaxrobust evaluate runs/mine --dataset npz:other.npz --report out/
      jaxrobust evaluate runs/mine --dataset folder:photos --size 8 --channels 1
      jaxrobust evaluate runs/mine --distributed      # the same line on every host, which must see the run
      jaxrobust evaluate runs/face_orl_gated-seed0 --task verification --minimum-eps
      jaxrobust evaluate runs/face_orl_gated-seed0 --dataset folder:lfw --pairs lfw/pairs.txt
    """
    if distributed and task != "verification":
        from jaxrobust.training import initialise_distributed

        initialise_distributed()
    import jax

    from jaxrobust import evaluation, experiments

    is_main = jax.process_index() == 0
    say = common.say if is_main else (lambda text: None)
    every = [experiments.load_run(run, which=which) for run in runs]
    loaded = every[0]
    changes = {
        "eps": eps,
        "eps_l2": eps_l2,
        "eps_l0": eps_l0,
        "max_angle": max_angle,
        "max_shift": max_shift,
        "steps": steps,
        "restarts": restarts,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    transfer = [experiments.load_run(other) for other in transfer_from]
    verified = isinstance(loaded.experiment.data, experiments.FaceData)
    task = task or ("verification" if verified else "classification")
    if task == "verification":
        _refuse_in_verification(
            {
                "--robust-risk": robust_risk or None,
                "--save-adversarial": save_adversarial,
                "--adversarial": adversarial,
                "--certify": certify,
                "--size": size,
                "--channels": channels,
                "--distributed": distributed or None,
                "--devices": devices,
                "--precision": None if precision == "float32" else precision,
                "--allow-batch-dependent": allow_batch_dependent or None,
                "--no-curves": no_curves or None,
            }
        )
        _cli_faces.verification(
            every,
            attacks=attacks,
            dataset=dataset,
            pairs=pairs,
            num=num,
            data_dir=data_dir,
            changes=changes,
            minimum_eps=minimum_eps,
            transfer_from=transfer,
            batch_size=batch_size,
            seed=seed,
            report=report,
        )
        return
    if len(every) > 1 or pairs is not None or minimum_eps:
        raise ValueError("Several runs, --pairs and --minimum-eps are for verification, of faces.")
    folder = report or loaded.folder / "evaluation"
    if adversarial is not None:
        _refuse_beside_adversarial(
            {
                "--attacks": attacks,
                "--dataset": dataset,
                "--save-adversarial": save_adversarial,
                "--transfer-from": transfer_from or None,
                "--certify": certify,
                **changes,
            }
        )
        found = experiments.evaluate_stored(
            loaded,
            adversarial,
            num=num,
            batch_size=batch_size,
            precision=common.precision(precision),
            num_devices=devices,
            log_fn=say,
        )
        folder = report or loaded.folder / "evaluation" / adversarial.stem
    else:
        found = experiments.evaluate_run(
            loaded,
            attacks=common.names(attacks),
            dataset=dataset,
            num=num,
            data_dir=data_dir,
            changes=changes,
            batch_size=batch_size,
            precision=common.precision(precision),
            seed=seed,
            robust_risk=robust_risk,
            curves=not no_curves,
            size=size,
            channels=channels,
            refuse_batch_dependent=not allow_batch_dependent,
            save_adversarial=save_adversarial,
            transfer_from=transfer,
            certify=certify,
            certify_draws=certify_draws,
            num_devices=devices,
            log_fn=say,
        )
    if not is_main:  # Every process has the whole report; one writes it.
        return
    common.say(evaluation.rows_table(found))
    if found.certificate is not None:
        common.say(evaluation.certificate_table(found))
    if found.verdicts:
        common.say(evaluation.verdicts_table(found))
    evaluation.write_report(
        found,
        folder,
        title=f"{loaded.folder.name} under attack",
        command=common.command_line(),
        facts={"checkpoint": f"step {loaded.step}", "training": experiments.summary(loaded.experiment)},
    )
    common.say(f"Report: {folder / 'report.html'}")


def _refuse_in_verification(options: dict) -> None:
    given = ", ".join(name for name, value in options.items() if value is not None)
    if given:
        raise ValueError(f"Verification takes no {given}; leave it out.")


def _refuse_beside_adversarial(options: dict) -> None:
    """Stored images are what they are: options that would make others are refused."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        names = ", ".join(name if name.startswith("--") else f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(f"--adversarial takes images and radii from its file; leave out {names}.")


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN|CHECKPOINT")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="Classes to show.")
@click.option("--resize", is_flag=True, help="Resize images to the size that the net takes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with the whole distribution.")
def predict(run, images, top, resize, as_json):
    """Class and distribution of image files, on the device at hand.

    \b
    Examples:
      jaxrobust predict runs/digits_srt-seed0 digit.png
      jaxrobust predict runs/digits_srt-seed0 *.png --json
    """
    import dataclasses
    import json

    from jaxrobust import experiments

    loaded = experiments.load_run(run)
    predictions = experiments.predict(loaded, images, resize=resize)
    if as_json:
        for one in predictions:
            click.echo(json.dumps(dataclasses.asdict(one)))
        return
    from rich.table import Table

    for one in predictions:
        order = sorted(one.distribution, key=lambda name: -one.distribution[name])[:top]
        table = Table(title=f"{one.path}: {one.label}", title_justify="left")
        table.add_column("class")
        table.add_column("probability", justify="right")
        for name in order:
            table.add_row(name, f"{one.distribution[name]:.4f}")
        common.say(table)
