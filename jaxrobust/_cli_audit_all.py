"""The command `jaxrobust audit all`: everything that is read before a release, on one page."""

import hashlib
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from jaxrobust import _cli_common as common
from jaxrobust import _cli_privacy, _cli_saliency
from jaxrobust._cli_audit_privacy import mitigations_of, privacy_plan


@click.command("all")
@click.argument("runs", type=click.Path(path_type=Path), metavar="RUN|CHECKPOINT...", nargs=-1, required=True)
@common.data_dir_option
@click.option("--attacks", metavar="NAMES", help="As `evaluate --attacks`; default the experiment's.")
@click.option("--eps", type=float, help="Radius of attacks in the run's ball, in pixels of [0, 1].")
@click.option(
    "--num", type=int, default=500, show_default=True, help="Test images, or pairs of a kind, attacked."
)
@click.option(
    "--num-saliency",
    type=click.IntRange(min=2),
    default=100,
    show_default=True,
    help="Images, or pairs, for heat maps.",
)
@click.option("--steps", type=int, help="Of each decoder's training, as `audit privacy`.")
@click.option(
    "--optimise", type=click.IntRange(min=0), default=20, show_default=True, help="As `audit privacy`."
)
@click.option("--features", default="embedding", show_default=True, help="As `audit privacy`.")
@click.option(
    "--mitigations", default="default", show_default=True, help="As `audit privacy`; empty for none."
)
@click.option("--far", type=float, default=0.01, show_default=True, help="That thresholds shall have.")
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="Images on the page.")
@click.option("--batch-size", type=int, default=64, show_default=True, help="Images at once.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is drawn.")
@click.option("--num-draws", type=int, default=1000, show_default=True, help="Of the bootstrap.")
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the report and of its decoders, which are taken again. Default RUN/release.",
)
@common.which_option
def everything(
    runs, data_dir, attacks, eps, num, num_saliency, steps, optimise, features, mitigations, far, pictures,
    batch_size, seed, num_draws, report, which,
):  # fmt: skip
    """One report for a release: accuracy, robustness, saliency, privacy, and what could not be said.

    Evaluates the run (the folds of one experiment on faces), audits where it looks and what its features give
    away, and writes release.html (one page, which a browser prints), release.json and release.md, with each
    audit's own report in a folder beside.

    \b
    Examples:
      jaxrobust audit all runs/digits_srt-seed0
      jaxrobust audit all runs/fold0 runs/fold1 runs/fold2 runs/fold3 --no-pictures --num 200
    """
    from jaxrobust import audits, experiments

    start = time.perf_counter()
    every = [experiments.load_run(run, which=which) for run in runs]
    first = every[0]
    faces = isinstance(first.experiment.data, experiments.FaceData)
    if len(every) > 1 and not faces:
        raise ValueError("Several runs are for folds of faces. Audit one classifier at a time.")
    folder = report or first.folder / "release"
    # Refused before anything is computed.
    privacy_audit = privacy_plan(
        first,
        features=features,
        mitigations=mitigations_of(mitigations, features, first),
        steps=steps,
        optimise=optimise,
        far=far,
        batch_size=batch_size,
        seeds=(seed,),
        num_draws=num_draws,
    )
    changes = {} if eps is None else {"eps": eps}
    shared: dict[str, Any] = {"data_dir": data_dir, "log_fn": common.say}
    common.say("Accuracy, clean and under attack.")
    measured: dict[str, Any] = {"attacks": common.names(attacks), "changes": changes, "seed": seed}
    if faces:
        verified = experiments.evaluate_faces(
            every,
            **_at_most(num, experiments.asked(every, None, None, data_dir, lambda text: None).pairs),
            far=far,
            batch_size=batch_size,
            num_draws=num_draws,
            **measured,
            **shared,
        )
    else:
        evaluated = experiments.evaluate_run(first, num=num, **measured, **shared)
    common.say("Where it looks.")
    saliency_audit, layers = _saliency_plan(first, batch_size, num_draws, seed)
    with common.progress() as tell:
        looked = _cli_saliency.audit_runs(
            every,
            saliency_audit,
            layers,
            num=num_saliency,
            far=far if faces else None,
            progress_fn=tell,
            **shared,
        )
    common.say("What its features give away.")
    with common.progress() as tell:
        leaked = _cli_privacy.audit_runs(
            every, privacy_audit, folder=folder / "privacy" / "decoders", progress_fn=tell, **shared
        )
    given: dict[str, Any] = {
        "data": _people(every, data_dir) if faces else _images(first, data_dir),
        "training": {
            "training": experiments.summary(first.experiment),
            "checkpoint": ", ".join(f"step {run.step}" for run in every),
        },
        "seconds": time.perf_counter() - start,
    }
    if faces:
        found = audits.release_of_faces(verified.clean, verified.attacked, looked, leaked, **given)
    else:
        found = audits.release_of_classifier(evaluated, looked, leaked, **given)
    line = {"command": common.command_line(), "pictures": pictures}
    audits.write_saliency_report(looked, folder / "saliency", title=f"{found.model}: where it looks", **line)
    audits.write_privacy_report(
        leaked, folder / "privacy", title=f"{found.model}: what its features give away", **line
    )
    paths = audits.write_release_report(found, folder, title=f"{found.model}: release report", **line)
    common.say(found.summary())
    common.say(f"Report: {paths.html}")


def _at_most(num: int, pairs: Any) -> dict[str, Any]:
    """So many pairs of each kind, or as many as there are."""
    genuine = int(pairs.genuine.sum())
    return {
        "num_genuine": min(num, genuine),
        "num_impostor": min(num, len(pairs.genuine) - genuine),
    }


def _saliency_plan(run: Any, batch_size: int, num_draws: int, seed: int) -> tuple[Any, dict[str, str | None]]:
    """The audit's defaults, with Grad-CAM, and a window that fits small images."""
    from jaxrobust import audits
    from jaxrobust.evaluation import split_names

    height, width, _ = run.model.image_shape
    names = split_names(_cli_saliency.default_maps(min(height, width)))
    maps = dict(audits.parse_map(name)[:2] for name in names)
    plan = audits.SaliencyAudit(
        maps=maps,
        regions=audits.parse_regions("top_fraction", (0.05, 0.1, 0.2), height, width),
        batch_size=batch_size,
        num_draws=num_draws,
        seed=seed,
    )
    return plan, {"grad_cam": None}


def _images(run: Any, data_dir: Path | None) -> dict[str, str]:
    """A classifier's splits, with hashes of which images are in them."""
    from jaxrobust import experiments

    found = experiments.test_set(run, None, data_dir, {}, lambda text: None)
    parts = run.experiment.image_data.split(found).indices
    said = {"fingerprint": found.fingerprint}
    said |= {name: f"{len(index):,} images (hash {_hash(index)})" for name, index in parts.items()}
    return {**said, "test": f"{len(found.test.labels):,} images"}


def _people(runs: Any, data_dir: Path | None) -> dict[str, str]:
    """The people of each fold, with hashes of who they are."""
    said = {}
    for run in runs:
        found = run.experiment.data.load(data_dir)
        said["fingerprint"] = found.fingerprint
        parts = {**found.part._asdict(), "unlabelled": found.unlabelled}
        said[f"fold {run.experiment.data.fold}"] = ", ".join(
            f"{len(people)} {name} (hash {_hash(people)})" for name, people in parts.items() if len(people)
        )
    return said


def _hash(index: Any) -> str:
    return hashlib.sha256(np.sort(np.asarray(index, np.int64)).tobytes()).hexdigest()[:12]
