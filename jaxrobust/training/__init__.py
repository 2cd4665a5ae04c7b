"""Training: a pure step, the runtimes that carry it, the loop, checkpoints, optimizers and sinks."""

from jaxrobust.training._history import Diverged
from jaxrobust.training._signals import Interrupted
from jaxrobust.training.checkpoint import Checkpoints, Weights, restore_weights
from jaxrobust.training.loop import Member, fit, make_update
from jaxrobust.training.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    Constant,
    Cosine,
    OneCycle,
    OptimizerConfig,
    Steps,
)
from jaxrobust.training.runtime import Runtime, Wrapper, initialise_distributed
from jaxrobust.training.seeds import check_distinct, fit_seeds
from jaxrobust.training.sinks import SINKS, JsonLines, TensorBoard
from jaxrobust.training.state import TrainState, eval_weights, init_state
from jaxrobust.training.step import make_train_step

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "SINKS",
    "Checkpoints",
    "Constant",
    "Cosine",
    "Diverged",
    "Interrupted",
    "JsonLines",
    "Member",
    "OneCycle",
    "OptimizerConfig",
    "Runtime",
    "Steps",
    "TensorBoard",
    "TrainState",
    "Weights",
    "Wrapper",
    "check_distinct",
    "eval_weights",
    "fit",
    "fit_seeds",
    "init_state",
    "initialise_distributed",
    "make_train_step",
    "make_update",
    "restore_weights",
]
