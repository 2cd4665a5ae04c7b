"""One step of training as a pure function, the same under `jit`, `pmap`, `shard_map` and on several hosts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrobust import _validate
from jaxrobust.models.heads import check_scale
from jaxrobust.training._keys import row_keys
from jaxrobust.training.state import TrainState
from jaxrobust.types import Array, Aux, Batch, Model, Net, Objective, PyTree, RowKeys

StepFn = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]


def make_train_step(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    axis_name: str | None = None,
    ema_decay: float = 0.0,
    micro_batches: int = 1,
) -> StepFn:
    """Builds the step: keys, the objective's loss (eq. (16) of CN111401445A for RT and SRT), update, average.

    Under a mapped axis each device sees an equal share of the global batch; gradients and metrics are
    averaged over the axis, so the step computes what one device would on the whole batch. The average of
    weights is ema <- d * ema + (1 - d) * w, d = min(ema_decay, (1 + t) / (10 + t)): early weights fade fast.

    With micro-batches (gradient accumulation) the local rows are taken in as many equal parts, one after the
    other, whose activations alone are in memory. Every part has the two streams in the batch's proportion and
    its rows keep their keys, so the means over the parts are those over the batch: a net without batch
    normalisation takes the same step up to rounding. Batch normalisation normalises by each micro-batch's own
    statistics (over all devices) and advances the running ones once per part, as elsewhere. The objective is
    given its state of the step's start for every part; what the last one makes of it is kept. `Net.mean` is
    over a micro-batch.

    Args:
        model: the model.
        objective: the defence.
        optimizer: see `OptimizerConfig.build`.
        num_steps: the length of the run, >= 1; `Net.progress` is step / num_steps.
        axis_name: the mapped axis, None where there is none (one device, or `jit` on sharded data).
        ema_decay: in [0, 1); 0 keeps no average.
        micro_batches: in how many parts the rows of a device are taken, >= 1, dividing both streams.

    Returns:
        `step(state, batch, key) -> (state, metrics)`; `key` is the run's, the same at every step. Metrics are
        float32 scalars: the objective's, and `grad_norm`, which is not finite as soon as any gradient is not.

    Raises:
        ValueError: if `num_steps` < 1, `ema_decay` is outside [0, 1), a margin loss has another scale than
            the model, or `micro_batches` < 1 or do not divide the rows (at the first call).
    """
    _validate.at_least("num_steps", num_steps, 1)
    _validate.decay("ema_decay", ema_decay, "0 keeps no average of the weights.")
    _validate.at_least("micro_batches", micro_batches, 1)
    check_scale(model, objective)

    def step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, dict[str, Array]]:
        step_key = jax.random.fold_in(key, state.step)
        keys = row_keys(step_key, batch.image.shape[0], batch.unlabelled.shape[0], axis_name)
        progress = state.step.astype(jnp.float32) / num_steps
        weights = _varying(state.params, axis_name)

        def gradients(stats: PyTree, keys: RowKeys, batch: Batch) -> tuple[PyTree, Aux]:
            def loss_fn(params: PyTree) -> tuple[Array, Aux]:
                net = Net(model, params, stats, progress, axis_name)
                return objective(keys, net, batch, state.obj_state)

            return jax.grad(loss_fn, has_aux=True)(weights)

        if micro_batches == 1:
            grads, aux = gradients(state.stats, keys, batch)
        else:
            zeros = _varying(jax.tree.map(jnp.zeros_like, state.params), axis_name)
            start = (zeros, state.stats, state.obj_state)
            grads, aux = _accumulated(gradients, start, (keys, batch), micro_batches)
        grads, metrics = _mean((grads, aux.metrics), axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
        new = TrainState(
            step=state.step + 1,
            params=params,
            stats=aux.stats,
            opt_state=opt_state,
            obj_state=aux.obj_state,
            ema=_average(state.ema, (params, aux.stats), state.step, ema_decay),
        )
        return new, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}

    return step


def _accumulated(
    gradients: Callable[..., tuple[PyTree, Aux]],
    start: tuple[PyTree, PyTree, PyTree],
    rows: tuple[RowKeys, Batch],
    parts: int,
) -> tuple[PyTree, Aux]:
    """Means over micro-batches; `start`: zeros for the gradients, the statistics, the objective's state."""

    def add(carry: tuple[PyTree, PyTree, PyTree], rows: tuple[RowKeys, Batch]) -> tuple[Any, Any]:
        total, stats, _ = carry
        grads, aux = gradients(stats, *rows)
        return (jax.tree.map(jnp.add, total, grads), aux.stats, aux.obj_state), aux.metrics

    rows = jax.tree.map(lambda leaf: _parted(leaf, parts), rows)
    (total, stats, obj_state), metrics = jax.lax.scan(add, start, rows)
    means = {name: jnp.mean(values, axis=0, dtype=jnp.float32) for name, values in metrics.items()}
    return jax.tree.map(lambda leaf: leaf / parts, total), Aux(stats, obj_state, means)


def _parted(rows: Array, parts: int) -> Array:
    """`[m, ...]` to `[parts, m / parts, ...]`; part i has the rows i, i + parts, i + 2 parts, ...

    So a part has rows of every device where the compiler divides the batch, and the same rows of the global
    batch whatever their number; contiguous parts would have to move between devices.
    """
    if rows.shape[0] % parts:
        raise ValueError(
            f"{rows.shape[0]} rows of a device cannot be taken in {parts} micro-batches. "
            f"{_validate.nearest_multiples(rows.shape[0], parts)}"
        )
    return rows.reshape(-1, parts, *rows.shape[1:]).swapaxes(0, 1)


def _varying(tree: PyTree, axis_name: str | None) -> PyTree:
    """Marks replicated parameters as per-device, or `shard_map` gives gradients that are already summed."""
    if axis_name is None:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.pcast(leaf, axis_name, to="varying"), tree)


def _mean(tree: PyTree, axis_name: str | None) -> PyTree:
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def _average(ema: PyTree, weights: tuple[PyTree, PyTree], step: Array, ema_decay: float) -> PyTree:
    """The next average; `()` stays `()`."""
    if not ema:
        return ema
    decay = jnp.minimum(ema_decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: (decay * old + (1 - decay) * new).astype(old.dtype), ema, weights)
