"""`jaxrobust train`."""

from pathlib import Path

import click

from jaxrobust import _cli_common as common


@click.command()
@click.argument("name")
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--run-dir", type=click.Path(file_okay=False, path_type=Path), help="Default: runs/NAME-seedN.")
@common.data_dir_option
@click.option(
    "--init-from",
    type=click.Path(path_type=Path),
    metavar="RUN|CHECKPOINT|FILE",
    help="Start from another run's weights, or from a PyTorch state dict (.safetensors, .npz).",
)
@click.option(
    "--teacher-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the teacher's run, for experiments that have one (uat, rst), so that several share it; "
    "default RUN-DIR/teacher. With --seeds: TEACHER-DIR-seedN.",
)
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Go on from the run's last checkpoint if it has one.",
)
@click.option("--seed", type=int, help="Seed of the run and of the split; the same as seed=N data.seed=N.")
@click.option(
    "--seeds",
    metavar="N,N,...",
    callback=common.integers,
    help="Several seeds at once, in steps that they take together: for small models on an accelerator. Each "
    "gets a folder, as --seed would give it (RUN-DIR-seedN).",
)
@click.option("--steps", type=int, help="Length of the run; the same as num_steps=N.")
@click.option(
    "--wrapper",
    type=click.Choice(["auto", "jit", "pmap", "shard_map"]),
    default="auto",
    show_default=True,
    help="How the step is mapped over devices; auto is jit on one and pmap on several (CPUs: shard_map).",
)
@click.option("--devices", type=int, help="Local devices to use; default all.")
@common.precision_option
@click.option(
    "--micro-batches",
    type=int,
    default=1,
    show_default=True,
    help="Gradient accumulation: each device takes its images of a step in so many parts, one at a time.",
)
@click.option("--remat", is_flag=True, help="Compute activations again in the backward pass, to save memory.")
@common.distributed_option
@click.option("--checkpoint-every", type=int, help="Steps between checkpoints; default a tenth of the run.")
@click.option("--no-progress", is_flag=True, help="No progress bar, e.g. in a log file.")
def train(
    name, overrides, run_dir, data_dir, init_from, teacher_dir, resume, seed, seeds, steps, wrapper, devices,
    precision, micro_batches, remat, distributed, checkpoint_every, no_progress,
):  # fmt: skip
    """Train the experiment NAME, changed by FIELD=VALUE.

    The resolved configuration, checkpoints and metrics go into the run's folder; the same command again goes
    on where it stopped. SIGTERM saves a checkpoint and exits with code 143. Where the experiment has a
    teacher, that is trained first; its settings are changed by teacher.FIELD=VALUE.

    \b
    Examples:
      jaxrobust train digits_srt
      jaxrobust train mnist1k_srt --data-dir ~/tensorflow_datasets --seed 1
      jaxrobust train digits_srt --seeds 0,1,2,3
      jaxrobust train digits_srt objective=rt objective.lam=0.5 --run-dir runs/mine
      jaxrobust train digits_rst teacher.num_steps=300
      jaxrobust train digits_at 'objective.attack=pgd(neighbourhood=l2(eps=1.0), steps=10, step_size=0.25)'
      jaxrobust train digits_srt data.dataset=folder:photos data.size=8,8 model.num_classes=4

    `jaxrobust list experiments` names them; a wrong FIELD is answered with the fields there are.
    """
    from jaxrobust.training import Runtime, Wrapper, initialise_distributed

    if seeds and (seed is not None or distributed):
        raise ValueError(
            f"--seeds goes without {'--distributed' if distributed else '--seed'}; leave one out."
        )
    if distributed:
        initialise_distributed()
    from jaxrobust import experiments

    experiment = experiments.apply_overrides(experiments.get(name), overrides)
    if seed is not None:
        experiment = experiment.seeded(seed)
    if steps is not None:
        experiment = experiments.apply_overrides(experiment, [f"num_steps={steps}"])
    runtime = Runtime(
        wrapper=Wrapper(wrapper),
        precision=common.precision(precision),
        micro_batches=micro_batches,
        remat=remat,
        num_devices=devices,
    )
    options = {
        "runtime": runtime,
        "data_dir": data_dir,
        "resume": resume,
        "init_from": init_from,
        "checkpoint_every": checkpoint_every,
        "progress": not no_progress,
        "log_fn": common.say if runtime.is_main else (lambda text: None),
    }
    if seeds:
        stem = run_dir or common.RUNS / name
        run_dirs = _one_per_seed(stem, seeds)
        teacher_dirs = None if teacher_dir is None else _one_per_seed(teacher_dir, seeds)
        runs = experiments.train_seeds(experiment, seeds, run_dirs, teacher_dirs=teacher_dirs, **options)
    else:
        run_dirs = [run_dir or common.RUNS / f"{name}-seed{experiment.seed}"]
        run = experiments.train(experiment, run_dirs[0], teacher_dir=teacher_dir, **options)
        if run is None:  # Not the first process, which alone has the folder.
            return
        runs = [run]
    for run, folder in zip(runs, run_dirs):
        shown = ", ".join(f"{key} {value:.4f}" for key, value in run.validation.items())
        common.say(
            f"Finished {experiment.num_steps} steps in {folder}. Kept checkpoint: step {run.step}; {shown}"
        )
    common.say(f"Next: jaxrobust evaluate {run_dirs[0]}")


def _one_per_seed(stem: Path, seeds: list[int]) -> list[Path]:
    return [stem.with_name(f"{stem.name}-seed{one}") for one in seeds]
