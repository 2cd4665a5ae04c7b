"""The command `jaxrobust audit privacy`."""

from pathlib import Path
from typing import Any

import click

from jaxrobust import _cli_common as common
from jaxrobust import _cli_privacy


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), metavar="RUN|CHECKPOINT...", nargs=-1, required=True)
@click.option(
    "--attacker-split",
    type=click.Choice(["train", "held-out"]),
    help="Who attacks the test people (images): those that the run was trained on (the default), or half of "
    "the tested.",
)
@click.option(
    "--attackers",
    metavar="NAME",
    help="The attacker's own set instead, such as folder:PATH, brought to the run's images; all of it "
    "attacks all test people (images).",
)
@common.data_dir_option
@click.option(
    "--features",
    default="embedding",
    show_default=True,
    metavar="embedding|logits|LAYER",
    help="What is published: the embedding, the logits, or an activation that the net names, such as conv4.",
)
@click.option(
    "--protections",
    metavar="NAMES",
    help="What is done to it before it is published: truncated:keep=32, principal:keep=16, quantised:bits=4, "
    "noisy:ratio=0.5, top_k:keep=3, one after the other with +.",
)
@click.option(
    "--white-box/--features-only",
    default=True,
    show_default=True,
    help="Whether the attacker has the model, and its gradients.",
)
@click.option(
    "--mitigations",
    metavar="default|NAMES",
    help="Also measure these, separated by commas: leak against recognition, a decoder trained anew "
    "behind each.",
)
@click.option(
    "--steps", type=int, help="Of a decoder's training; default 1000, of images under 16 pixels 400."
)
@click.option("--width", type=int, default=32, show_default=True, help="Of the decoder.")
@click.option(
    "--optimise",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    metavar="N",
    help="Invert so many victims' images of each fold by optimisation too; 0 for none.",
)
@click.option(
    "--optimise-steps", type=int, default=300, show_default=True, help="Of inversion by optimisation."
)
@click.option(
    "--num-attackers",
    type=click.IntRange(min=2),
    default=5000,
    show_default=True,
    help="Classes: images at most.",
)
@click.option(
    "--num-victims",
    type=click.IntRange(min=2),
    default=500,
    show_default=True,
    help="Classes: images at most.",
)
@click.option(
    "--perceptual",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Also measure the perceptual distance by this run's net, another than those audited.",
)
@click.option("--far", type=float, default=0.01, show_default=True, help="That thresholds shall have.")
@click.option(
    "--pictures/--no-pictures",
    default=True,
    show_default=True,
    help="Victims and reconstructions on the page; leave them out where people must not be shown.",
)
@click.option("--batch-size", type=int, default=64, show_default=True, help="Images at once.")
@click.option(
    "--seeds",
    default="0",
    show_default=True,
    callback=common.integers,
    metavar="N,...",
    help="A decoder for each; the first is that of everything else that is drawn.",
)
@click.option("--num-draws", type=int, default=1000, show_default=True, help="Of the bootstrap.")
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the report and of the decoders, from which a killed audit goes on. Default RUN/privacy.",
)
@common.which_option
def privacy(
    runs, attacker_split, attackers, data_dir, features, protections, white_box, mitigations, steps, width,
    optimise, optimise_steps, num_attackers, num_victims, perceptual, far, pictures, batch_size, seeds,
    num_draws, report, which,
):  # fmt: skip
    """How much of a person do a model's features give away?

    Decoders are trained on attackers' images to turn features back into images; they, and inversion by
    optimisation, reconstruct victims whom no attacker has seen; critics that are independent of the model say
    whether the person is recognised. Prints the leak with 95% intervals; writes privacy.html, privacy.json
    and privacy.md. A killed audit goes on where it stopped.

    \b
    Examples:
      jaxrobust audit privacy runs/digits_srt-seed0 --features logits
      jaxrobust audit privacy runs/fold0 runs/fold1 runs/fold2 runs/fold3 --no-pictures
      jaxrobust audit privacy runs/fold0 --mitigations truncated:keep=32,quantised:bits=1,noisy:ratio=0.5
      jaxrobust audit privacy runs/fold0 --features conv4 --features-only --attacker-split held-out
      jaxrobust audit privacy runs/fold0 --attackers folder:celebrities
    """
    from jaxrobust import audits, experiments

    if attackers is not None and attacker_split is not None:
        raise ValueError("--attacker-split divides the run's own set, --attackers brings another; leave one.")
    every = [experiments.load_run(run, which=which) for run in runs]
    first = every[0]
    plan = privacy_plan(
        first,
        features=features,
        protections=audits.parse_protections(protections)[1] if protections else (),
        mitigations=mitigations_of(mitigations, features, first),
        white_box=white_box,
        width=width,
        steps=steps,
        optimise=optimise,
        optimise_steps=optimise_steps,
        far=far,
        batch_size=batch_size,
        seeds=tuple(seeds),
        num_draws=num_draws,
    )
    folder = report or first.folder / "privacy"
    with common.progress() as tell:
        found = _cli_privacy.audit_runs(
            every,
            plan,
            attacker_split=attacker_split or "train",
            attackers=attackers,
            data_dir=data_dir,
            num_attackers=num_attackers,
            num_victims=num_victims,
            perceptual=None if perceptual is None else experiments.load_run(perceptual, which=which),
            folder=folder / "decoders",
            progress_fn=tell,
            log_fn=common.say,
        )
    common.say(found.summary())
    paths = audits.write_privacy_report(
        found,
        folder,
        title=f"{found.model}: what its features give away",
        command=common.command_line(),
        facts={
            "checkpoint": ", ".join(f"step {run.step}" for run in every),
            "training": experiments.summary(first.experiment),
            "attackers": attackers or attacker_split or "train",
        },
        pictures=pictures,
    )
    common.say(f"Report: {paths.html}")


@click.command("privacy-compare")
@click.argument("first", type=click.Path(file_okay=False, path_type=Path), metavar="REPORT")
@click.argument("second", type=click.Path(file_okay=False, path_type=Path), metavar="REPORT")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.md", help="Also into this file."
)
def privacy_compare(first, second, out):
    """Two privacy reports on the same people: the second model less the first, with paired intervals.

    \b
    Example:
      jaxrobust audit privacy-compare runs/clean/privacy runs/robust/privacy
    """
    from jaxrobust import audits

    rows, notes = audits.compare_privacy(first, second), audits.privacy_comparison_notes(first, second)
    text = audits.privacy_comparison_markdown(rows, str(first), str(second), notes)
    common.say(text)
    if out is not None:
        out.write_text(f"```\n{common.command_line()}\n```\n\n{text}\n", encoding="utf-8")


def privacy_plan(
    run: Any,
    *,
    features: str,
    mitigations: dict[str, Any],
    steps: int | None,
    optimise: int,
    far: float,
    batch_size: int,
    seeds: tuple[int, ...],
    num_draws: int,
    protections: tuple[Any, ...] = (),
    white_box: bool = True,
    width: int = 32,
    optimise_steps: int = 300,
) -> Any:
    """The audit that options ask for, with what follows from the run; what does not fit it is refused."""
    from jaxrobust import audits, experiments, inversion

    small = min(run.model.image_shape[:2])
    plan = audits.PrivacyAudit(
        threat=inversion.Features(layer=features, protections=protections),
        white_box=white_box,
        width=width,
        steps=(1000 if small >= 16 else 400) if steps is None else steps,
        # A face stays one in the mirror; a digit does not.
        flip=isinstance(run.experiment.data, experiments.FaceData),
        optimisation=audits.priors(optimise_steps),
        num_optimised=optimise,
        mitigations=mitigations,
        far=far,
        # The window of the SSIM is odd, and no larger than the image.
        window=min(11, small - 1 + small % 2),
        batch_rows=batch_size,
        num_draws=num_draws,
        seeds=seeds,
    )
    for extra in ((), *mitigations.values()):
        behind = (*protections, *extra)
        # What is fitted needs images, which are not there yet.
        if not any(one.fitted for one in behind):
            threat = inversion.Features(layer=features, protections=behind)
            inversion.victim_features(threat, run.model, run.params, run.stats)
    return plan


def mitigations_of(text: str | None, layer: str, run: Any) -> dict[str, Any]:
    """What is typed; `default` for the usual ones."""
    from jaxrobust import audits
    from jaxrobust.evaluation import split_names

    if text is None or not text.strip():
        return {}
    if text.strip() == "default":
        return audits.default_mitigations(layer, _shape(run, layer))
    return dict(audits.parse_protections(name) for name in split_names(text))


def _shape(run: Any, layer: str) -> tuple[int, ...]:
    """The shape of an image's features there."""
    import jax
    import jax.numpy as jnp

    from jaxrobust import inversion

    fn = inversion.victim_features(inversion.Features(layer=layer), run.model, run.params, run.stats)
    found = jax.eval_shape(fn, jax.ShapeDtypeStruct((1, *run.model.image_shape), jnp.float32))
    return tuple(found.shape[1:])
