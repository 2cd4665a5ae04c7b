"""The one training loop: every objective, every runtime, resumable at any step."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils

from jaxrobust import _validate
from jaxrobust.data import Feed
from jaxrobust.data.composition import sharers
from jaxrobust.models import with_precision, with_remat
from jaxrobust.training._carriers import Alone, Carrier
from jaxrobust.training._display import Display
from jaxrobust.training._history import Diverged, History, mean_row
from jaxrobust.training._keys import row_keys
from jaxrobust.training._resume import restored
from jaxrobust.training._signals import Interrupted, Termination
from jaxrobust.training.checkpoint import Checkpoints
from jaxrobust.training.runtime import Runtime, agree
from jaxrobust.training.sinks import Sink
from jaxrobust.training.state import TrainState, init_state
from jaxrobust.training.step import StepFn, make_train_step
from jaxrobust.types import Array, Model, Objective, PyTree

ValidateFn = Callable[[TrainState], Mapping[str, float]]


class Member(NamedTuple):
    """What a run has of its own among those that go together; the fields are those of `fit`."""

    seed: int
    feed: Feed
    checkpoints: Checkpoints | None = None
    validate_fn: ValidateFn | None = None
    sinks: Sequence[Sink] = ()
    init_from: tuple[PyTree, PyTree] | None = None


def make_update(feed: Feed, step_fn: StepFn, axis_name: str | None) -> Callable[..., tuple[TrainState, dict]]:
    """The function that `Runtime.compile` takes: reads the batch, makes the step, with a sub-key for each."""

    def update(state: TrainState, arrays: PyTree, cursor: Any, words: Array) -> tuple[TrainState, dict]:
        key = jax.random.wrap_key_data(words)
        data_key, step_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
        labelled, unlabelled = (
            jax.tree.leaves(rows)[0].shape[0] for rows in (cursor.labelled, cursor.unlabelled)
        )
        keys = row_keys(jax.random.fold_in(data_key, state.step), labelled, unlabelled, axis_name)
        return step_fn(state, feed.batch(arrays, cursor, keys), step_key)

    return update


def fit(
    *,
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    feed: Feed,
    num_steps: int,
    seed: int,
    runtime: Runtime | None = None,
    checkpoints: Checkpoints | None = None,
    validate_fn: ValidateFn | None = None,
    validate_every: int = 0,
    log_every: int = 50,
    sinks: Sequence[Sink] = (),
    ema_decay: float = 0.0,
    init_from: tuple[PyTree, PyTree] | None = None,
    progress: bool = True,
) -> TrainState:
    """Trains for `num_steps` steps, from the newest checkpoint if there is one.

    All randomness follows from the seed and the step, so a run that was killed and resumed ends, bit for bit,
    with the parameters of one that was not (on the same machine and runtime). A value that is not finite is
    noticed at the next log or checkpoint, before anything is saved, and the error names the step it began at.

    Args:
        model: the model.
        objective: the defence.
        optimizer: see `OptimizerConfig.build`.
        feed: the data; its sizes are those of the global batch.
        num_steps: length of the run, >= 1.
        seed: of everything random in the run.
        runtime: where and how it executes; None for the default.
        checkpoints: None to keep nothing. They are closed when `fit` returns or raises.
        validate_fn: `validate_fn(state) -> metrics`, on images held out of the training set, never on the
            test set; the state lies on one device and may be kept, `eval_weights(state)` picks what to
            evaluate.
        validate_every: steps between validations; one more is made at the end. 0 for none at all.
        log_every: steps between rows of metrics, >= 1; a row holds means over its interval.
        sinks: receive the rows (process 0 only).
        ema_decay: see `make_train_step`.
        init_from: (params, stats) to start a new run from; a resumed run ignores it.
        progress: show a bar on a terminal, a line per row elsewhere.

    Returns:
        The final state, on one device.

    Raises:
        ValueError: on arguments out of range or data that do not fit the devices.
        Diverged: if a metric, of training or validation, is not finite; it has `step` and `metrics`.
        Interrupted: after SIGTERM, once the state is saved; it has `step` and `exit_code` 143, with which the
            command line ends. (SIGTERM to one of several processes stops all, at the next row.)

    >>> from jaxrobust.data import BatchSizes, ResidentFeed, load, split
    >>> from jaxrobust.models import TinyCNN, build
    >>> from jaxrobust.objectives import Standard
    >>> from jaxrobust.training import OptimizerConfig
    >>> parts = split(load("digits").train, num_labelled=50, seed=0)
    >>> state = fit(
    ...     model=build(TinyCNN(), (8, 8, 1)),
    ...     objective=Standard(),
    ...     optimizer=OptimizerConfig(learning_rate=0.05).build(4),
    ...     feed=ResidentFeed(parts, BatchSizes(labelled=16, unlabelled=0), seed=0),
    ...     num_steps=4,
    ...     seed=0,
    ...     progress=False,
    ... )
    >>> int(state.step)
    4
    """
    runtime = runtime or Runtime()
    parts = runtime.device_count * runtime.micro_batches
    for stream in ("labelled", "unlabelled"):
        check_divides(
            getattr(feed.sizes, stream), stream, parts, sharers(runtime.device_count, runtime.micro_batches)
        )
    (state,) = carry(
        [Member(seed, feed, checkpoints, validate_fn, sinks, init_from)],
        Alone(runtime),
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
    return state


def carry(
    members: Sequence[Member],
    carrier: Carrier,
    *,
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    runtime: Runtime,
    validate_every: int,
    log_every: int,
    ema_decay: float,
    progress: bool,
) -> list[TrainState]:
    """The loop of `fit` for one run, or for several that take their steps together."""
    _check(members, num_steps, log_every, validate_every)
    model = with_precision(model, runtime.precision)
    model = with_remat(model) if runtime.remat else model
    states, words = [], []
    for member in members:
        init_key, run_key = jax.random.split(jax.random.key(member.seed))
        words.append(jax.random.key_data(run_key))
        states.append(
            init_state(init_key, model, objective, optimizer, ema_decay=ema_decay, init_from=member.init_from)
        )
    states, pending = restored([member.checkpoints for member in members], states)
    start = int(states[0].step)
    history = History(carrier, runtime.prefetch, start, pending, [member.seed for member in members])

    step_fn = make_train_step(
        model,
        objective,
        optimizer,
        num_steps=num_steps,
        axis_name=carrier.axis_name,
        ema_decay=ema_decay,
        micro_batches=runtime.micro_batches,
    )
    feeds = [member.feed for member in members]
    update = carrier.compile(make_update(feeds[0], step_fn, carrier.axis_name))
    arrays = [feed.arrays for feed in feeds]
    state, arrays, words = carrier.replicate(list(zip(states, arrays, words)))
    del states

    sinks = [tuple(member.sinks) if runtime.is_main else () for member in members]
    for sink in (sink for own in sinks for sink in own):
        sink.rewind(start)
    display = Display(num_steps, start, enabled=progress and runtime.is_main)

    def due(step: int, every: int) -> bool:
        return every > 0 and (step % every == 0 or step == num_steps)

    def record(step: int, rows: Sequence[Mapping[str, float]]) -> None:
        for own, row in zip(sinks, rows):
            for sink in own:
                sink.write(step, row)
        display.row(step, mean_row(rows))

    def save(scores: Sequence[Mapping[str, float] | None]) -> None:
        if not any(member.checkpoints for member in members):
            return
        rows = history.settle()
        for member, own, pending, metrics in zip(members, carrier.fetch(state), rows, scores):
            if member.checkpoints:
                member.checkpoints.save(own, pending=pending, metrics=metrics)

    none = [None] * len(members)
    saving = [member.checkpoints for member in members if member.checkpoints]
    with contextlib.ExitStack() as stack:
        for resource in (*feeds, *(sink for own in sinks for sink in own), display, *saving):
            stack.callback(getattr(resource, "close", lambda: None))
        termination = stack.enter_context(Termination())

        for cursors in _ahead(feeds, carrier, runtime.prefetch, start, num_steps):
            with jax.transfer_guard("disallow"):
                state, metrics = update(state, arrays, cursors, words)
            step = history.add(metrics)
            display.advance(step)

            if due(step, log_every):
                record(step, history.row())
            scores: Sequence[Mapping[str, float] | None] = none
            if due(step, validate_every):
                history.settle()
                found = [
                    _validated(member, own, step, len(members) > 1)
                    for member, own in zip(members, carrier.local(state))
                ]
                record(step, [{f"validation/{name}": value for name, value in row.items()} for row in found])
                state, scores = _told(objective, state, found, carrier), found
            if scores is not none or any(due(step, one.save_every) for one in saving) or step == num_steps:
                save(scores)
            if step < num_steps and _stopped(termination, due(step, log_every)):
                save(none)
                raise Interrupted(step, saved=bool(saving))
        history.settle()
        return carrier.local(state)


def _check(members: Sequence[Member], num_steps: int, log_every: int, validate_every: int) -> None:
    """The checks of `fit`'s arguments."""
    _validate.at_least("num_steps", num_steps, 1)
    _validate.at_least("log_every", log_every, 1)
    _validate.at_least("validate_every", validate_every, 0)
    if validate_every and any(member.validate_fn is None for member in members):
        raise ValueError(f"Expected validate_fn with validate_every={validate_every}; set it, or use 0.")


def check_divides(rows: int, stream: str, parts: int, who: str) -> None:
    """Raises ValueError where a stream's rows of a step cannot be shared."""
    if rows % parts:
        raise ValueError(
            f"{rows} {stream} images a step cannot be divided over {who}. "
            f"{_validate.nearest_multiples(rows, parts)}"
        )


def _ahead(feeds: Sequence[Feed], carrier: Carrier, prefetch: int, start: int, stop: int) -> Iterator[Any]:
    """The cursors of steps `start` to `stop - 1`, placed on the devices `prefetch` steps ahead of use."""
    placed: deque[Any] = deque()
    for step in range(start, stop):
        placed.append(carrier.shard([feed.cursor(step) for feed in feeds]))
        if len(placed) > prefetch:
            yield placed.popleft()
    yield from placed


def _validated(member: Member, state: TrainState, step: int, among_others: bool) -> dict[str, float]:
    """The validation metrics, process 0's on every process, so that decisions made on them agree."""
    assert member.validate_fn is not None
    scores = {name: float(value) for name, value in member.validate_fn(state).items()}
    values = agree(np.array([scores[name] for name in sorted(scores)], np.float64))
    if not np.isfinite(values).all():
        metrics = {f"validation/{k}": v for k, v in zip(sorted(scores), values.tolist())}
        raise Diverged(step, metrics, member.seed if among_others else None)
    return dict(zip(sorted(scores), values.tolist()))


def _told(
    objective: Objective, state: TrainState, scores: Sequence[Mapping[str, float]], carrier: Carrier
) -> TrainState:
    """The state after the objective has seen the validation, for objectives that want to."""
    on_validation = getattr(objective, "on_validation", None)
    if on_validation is None:
        return state
    told = [on_validation(own, seen) for own, seen in zip(carrier.fetch(state.obj_state), scores)]
    return state._replace(obj_state=carrier.replicate(told))


def _stopped(termination: Termination, at_row: bool) -> bool:
    """Whether to stop now; several processes decide together, at rows only, since asking costs a message."""
    if jax.process_count() == 1:
        return termination.received
    return at_row and bool(multihost_utils.process_allgather(np.array(termination.received)).any())
