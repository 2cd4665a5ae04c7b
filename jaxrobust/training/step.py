"""One step of training as a pure function, the same under `jit`, `pmap`, `shard_map` and on several hosts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxrobust import _validate
from jaxrobust.training._keys import row_keys
from jaxrobust.training.state import TrainState
from jaxrobust.types import Array, Batch, Model, Net, Objective, PyTree

StepFn = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]


def make_train_step(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    num_steps: int,
    axis_name: str | None = None,
    ema_decay: float = 0.0,
) -> StepFn:
    """Builds the step: keys, the objective's loss (eq. (16) of CN111401445A for RT and SRT), update, average.

    Under a mapped axis each device sees an equal share of the global batch; gradients and metrics are
    averaged over the axis, so the step computes what one device would on the whole batch. The average of
    weights is ema <- d * ema + (1 - d) * w, d = min(ema_decay, (1 + t) / (10 + t)): early weights fade fast.

    Args:
        model: the model.
        objective: the defence.
        optimizer: see `OptimizerConfig.build`.
        num_steps: the length of the run, >= 1; `Net.progress` is step / num_steps.
        axis_name: the mapped axis, None where there is none (one device, or `jit` on sharded data).
        ema_decay: in [0, 1); 0 keeps no average.

    Returns:
        `step(state, batch, key) -> (state, metrics)`; `key` is the run's, the same at every step. Metrics are
        float32 scalars: the objective's, and `grad_norm`, which is not finite as soon as any gradient is not.

    Raises:
        ValueError: if `num_steps` < 1 or `ema_decay` is outside [0, 1).
    """
    _validate.at_least("num_steps", num_steps, 1)
    _validate.decay("ema_decay", ema_decay, "0 keeps no average of the weights.")

    def step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, dict[str, Array]]:
        step_key = jax.random.fold_in(key, state.step)
        keys = row_keys(step_key, batch.image.shape[0], batch.unlabelled.shape[0], axis_name)
        progress = state.step.astype(jnp.float32) / num_steps

        def loss_fn(params: PyTree) -> tuple[Array, Any]:
            net = Net(model, params, state.stats, progress, axis_name)
            return objective(keys, net, batch, state.obj_state)

        grads, aux = jax.grad(loss_fn, has_aux=True)(_varying(state.params, axis_name))
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
