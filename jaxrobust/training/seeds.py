"""Several seeds of one experiment in one step: small models leave most of an accelerator idle."""

from collections.abc import Sequence

import jax
import numpy as np
import optax

from jaxrobust.training._carriers import Together
from jaxrobust.training.loop import Member, carry, check_divides
from jaxrobust.training.runtime import Runtime
from jaxrobust.training.state import TrainState
from jaxrobust.types import Model, Objective


def fit_seeds(
    members: Sequence[Member],
    *,
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    runtime: Runtime | None = None,
    validate_every: int = 0,
    log_every: int = 50,
    ema_decay: float = 0.0,
    vmapped: bool | None = None,
    progress: bool = True,
) -> list[TrainState]:
    """Trains runs that differ in their seed and their images together, each as `fit` alone would.

    The step is mapped over the runs, and the runs are divided over as many devices as their number allows (8
    runs on 4 devices: two on each); no batch is divided. Weights are those of `fit` up to rounding: initial
    weights, order of the images and noise follow from each run's own seed. Checkpoints, rows and validations
    are each run's own too, so that one of them can go on alone, or be left out after it diverged. Runs go on
    from the newest step of which all have a checkpoint.

    On accelerators the step is `vmap`ped: a small net's kernels grow with the number of runs and cost little
    more. On CPU, where a small net fills the cores already and convolutions with a kernel per run are slow,
    the runs of a device take turns within the step.

    Args:
        members: a run each: its `seed`, its `feed` (as many images a step and in all as the others'), and as
            in `fit` `checkpoints`, `validate_fn`, `sinks`, `init_from`.
        model, objective, optimizer, num_steps, validate_every, log_every, ema_decay, progress: as in `fit`; a
            progress row shows means over the runs.
        runtime: as in `fit`, but for `wrapper`, which has no batch to divide.
        vmapped: whether the step is `vmap`ped; None for what its devices do best.

    Returns:
        The final states in the order of `members`, each on one device.

    Raises:
        ValueError: no members, a seed twice, feeds that differ in sizes, shapes or augmentation, several
            processes, runs that have no checkpoint in common; otherwise as `fit`.
        Diverged: as `fit`, with the `seed` it happened to.
        Interrupted: as `fit`.

    >>> from jaxrobust.data import BatchSizes, ResidentFeed, load, split
    >>> from jaxrobust.models import TinyCNN, build
    >>> from jaxrobust.objectives import Standard
    >>> from jaxrobust.training import OptimizerConfig, Runtime
    >>> parts = split(load("digits").train, num_labelled=50, seed=0)
    >>> sizes = BatchSizes(labelled=16, unlabelled=0)
    >>> states = fit_seeds(
    ...     [Member(seed, ResidentFeed(parts, sizes, seed=seed)) for seed in (0, 1, 2)],
    ...     model=build(TinyCNN(), (8, 8, 1)),
    ...     objective=Standard(),
    ...     optimizer=OptimizerConfig(learning_rate=0.05).build(2),
    ...     num_steps=2,
    ...     runtime=Runtime(num_devices=1),
    ...     progress=False,
    ... )
    >>> [int(state.step) for state in states]
    [2, 2, 2]
    """
    runtime = runtime or Runtime()
    _check(members, runtime)
    if vmapped is None:
        vmapped = runtime.devices[0].platform != "cpu"
    return carry(
        members,
        Together(runtime, len(members), vmapped),
        model=model,
        objective=objective,
        optimizer=optimizer,
        num_steps=num_steps,
        runtime=runtime,
        validate_every=validate_every,
        log_every=log_every,
        ema_decay=ema_decay,
        progress=progress,
    )


def check_distinct(seeds: Sequence[int]) -> None:
    """Raises ValueError where a seed is there twice."""
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"Expected each seed once, got {', '.join(map(str, seeds))}.")


def _check(members: Sequence[Member], runtime: Runtime) -> None:
    """The checks that several runs need beside those of one."""
    if not members:
        raise ValueError("Expected at least one run to train, got no members.")
    seeds = [member.seed for member in members]
    check_distinct(seeds)
    if jax.process_count() > 1:
        raise ValueError("Several seeds train together in one process; start them without the other hosts.")
    first = members[0].feed
    for stream in ("labelled", "unlabelled"):
        who = f"{runtime.micro_batches} micro-batches"
        check_divides(getattr(first.sizes, stream), stream, runtime.micro_batches, who)
    shapes = jax.tree.map(np.shape, first.arrays)
    for member in members[1:]:
        if member.feed.sizes != first.sizes or jax.tree.map(np.shape, member.feed.arrays) != shapes:
            raise ValueError(
                f"The runs of seeds {seeds[0]} and {member.seed} have batches or sets of images of different "
                "sizes and cannot share a step. Give each seed as many images."
            )
        # The step is that of the first feed.
        ours, theirs = (getattr(feed, "augment", None) for feed in (first, member.feed))
        if ours != theirs:
            raise ValueError(
                f"The runs of seeds {seeds[0]} and {member.seed} augment their images differently ({ours}, "
                f"{theirs}) and cannot share a step. Give all the same."
            )
