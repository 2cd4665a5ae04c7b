"""All that a run carries from one step to the next."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxrobust import _validate
from jaxrobust.types import Array, Model, Objective, PyTree


class TrainState(NamedTuple):
    """A pytree; together with the seed and the configuration it determines the rest of the run.

    Attributes:
        step: int32 `[]`, the number of steps made; also the position in the data.
        params: the model's parameters.
        stats: the BatchNorm statistics, `{}` without BatchNorm.
        opt_state: the optimizer's state.
        obj_state: the objective's state, `()` mostly.
        ema: (params, stats) averaged over the steps, or `()` without averaging.
    """

    step: Array
    params: PyTree
    stats: PyTree
    opt_state: PyTree
    obj_state: PyTree
    ema: PyTree


def init_state(
    key: Array,
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float = 0.0,
    init_from: tuple[PyTree, PyTree] | None = None,
) -> TrainState:
    """The state before the first step.

    Args:
        key: draws the initial parameters.
        model: the model.
        objective: the objective.
        optimizer: see `OptimizerConfig.build`.
        ema_decay: in [0, 1); 0 keeps no average.
        init_from: (params, stats) to start from instead, e.g. from `restore_weights`.

    Raises:
        ValueError: if `init_from` does not fit the model, naming the parameters that differ.
    """
    _validate.decay("ema_decay", ema_decay, "0 keeps no average of the weights.")
    params, stats = model.init(key)
    if init_from is not None:
        _check_same_shapes((params, stats), tuple(init_from))
        params, stats = jax.tree.map(
            # A copy: the state is donated step by step, the caller's arrays are not.
            lambda own, given: jnp.array(given, own.dtype, copy=True),
            (params, stats),
            tuple(init_from),
        )
    ema = jax.tree.map(jnp.copy, (params, stats)) if ema_decay else ()
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats=stats,
        opt_state=optimizer.init(params),
        obj_state=objective.init(params),
        ema=ema,
    )


def eval_weights(state: TrainState) -> tuple[PyTree, PyTree]:
    """The (params, stats) to evaluate: the average where there is one."""
    return state.ema if state.ema else (state.params, state.stats)


def _check_same_shapes(own: Any, given: Any) -> None:
    """Raises ValueError naming the leaves that are missing, left over, or of another shape."""
    ours = {jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(own)}
    theirs = {
        jax.tree_util.keystr(path): jnp.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(given)
    }
    wrong = [f"{name} is missing" for name in ours.keys() - theirs.keys()]
    wrong += [f"{name} is not in the model" for name in theirs.keys() - ours.keys()]
    wrong += [
        f"{name} has shape {theirs[name]}, the model wants {shape}"
        for name, shape in ours.items()
        if name in theirs and theirs[name] != shape
    ]
    if wrong:
        raise ValueError(
            f"The weights given do not fit the model: {'; '.join(sorted(wrong)[:8])}. "
            "Use the model that they were trained with."
        )
