"""Optimizers and learning-rate schedules by name; lengths are fractions of the run, so they scale with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import optax

from jaxrobust import _validate
from jaxrobust.types import PyTree


@runtime_checkable
class Schedule(Protocol):
    """A shape of the learning rate over the run."""

    def build(self, learning_rate: float, num_steps: int) -> optax.Schedule:
        """`schedule(step) -> learning rate` that peaks at `learning_rate`."""
        ...


def _after_warmup(schedule: optax.Schedule, learning_rate: float, warmup: int) -> optax.Schedule:
    """A linear rise over `warmup` steps, (step + 1) / warmup of the peak, then `schedule` from its start."""
    if not warmup:
        return schedule
    rise = optax.linear_schedule(learning_rate / warmup, learning_rate, max(warmup - 1, 1))
    return optax.join_schedules([rise, schedule], [warmup])


def _check_warmup(warmup: float) -> None:
    _validate.within("warmup", warmup, 0.0, 1.0, "It is the fraction of the run with a rising learning rate.")


@dataclass(frozen=True, kw_only=True)
class Constant:
    """The same learning rate throughout, after a linear warm-up over the fraction `warmup` of the run.

    >>> float(Constant().build(0.1, 100)(50))
    0.1
    """

    warmup: float = 0.0

    def __post_init__(self):
        _check_warmup(self.warmup)

    def build(self, learning_rate: float, num_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        return _after_warmup(
            optax.constant_schedule(learning_rate), learning_rate, round(self.warmup * num_steps)
        )


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Multiplied by `factor` at each boundary; the paper divides by 10 at 55%, 75% and 90% of the run.

    Args:
        boundaries: increasing; below 1 a fraction of the run, from 1 on a step number.
        factor: in (0, 1].
        warmup: the fraction of the run with a linear rise.

    >>> schedule = Steps(boundaries=(0.5,)).build(0.1, 100)
    >>> [round(float(schedule(step)), 3) for step in (49, 50)]
    [0.1, 0.01]
    """

    boundaries: tuple[float, ...] = (0.55, 0.75, 0.9)
    factor: float = 0.1
    warmup: float = 0.0

    def __post_init__(self):
        _check_warmup(self.warmup)
        _validate.positive("factor", self.factor)
        _validate.within("factor", self.factor, 0.0, 1.0)
        for boundary in self.boundaries:
            _validate.positive("boundaries", boundary, "Give fractions of the run or step numbers.")
        if list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(f"Expected increasing boundaries, got {self.boundaries}.")

    def build(self, learning_rate: float, num_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        warmup = round(self.warmup * num_steps)
        at = [round(b * num_steps) if b < 1 else round(b) for b in self.boundaries]
        drops: dict[int, float] = {}
        for boundary in at:
            # Two boundaries may round to one step in a short run: both drops count.
            place = max(boundary - warmup, 0)
            drops[place] = drops.get(place, 1.0) * self.factor
        plain = optax.piecewise_constant_schedule(learning_rate, drops)
        return _after_warmup(plain, learning_rate, warmup)


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Half a cosine from the peak down to `final` times the peak (SGDR, arXiv 1608.03983, eq. (5)).

    >>> round(float(Cosine().build(0.1, 100)(50)), 3)
    0.05
    """

    final: float = 0.0
    warmup: float = 0.0

    def __post_init__(self):
        _check_warmup(self.warmup)
        _validate.within("final", self.final, 0.0, 1.0)

    def build(self, learning_rate: float, num_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        warmup = round(self.warmup * num_steps)
        fall = optax.cosine_decay_schedule(learning_rate, max(num_steps - warmup, 1), self.final)
        return _after_warmup(fall, learning_rate, warmup)


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """Linear rise to the peak over `rise` of the run, linear fall to zero (1cycle, arXiv 1708.07120).

    Args:
        rise: the fraction of the run before the peak, in [0, 1).
        start: the first learning rate over the peak's.

    >>> schedule = OneCycle(rise=0.4, start=0.0).build(0.1, 100)
    >>> [round(float(schedule(step)), 3) for step in (0, 20, 40, 70, 100)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """

    rise: float = 0.4
    start: float = 0.04

    def __post_init__(self):
        _validate.within("rise", self.rise, 0.0, 0.999)
        _validate.within("start", self.start, 0.0, 1.0)

    def build(self, learning_rate: float, num_steps: int) -> optax.Schedule:
        """See `Schedule`."""
        top = round(self.rise * num_steps)
        fall = optax.linear_schedule(learning_rate, 0.0, max(num_steps - top, 1))
        if not top:
            return fall
        return optax.join_schedules(
            [optax.linear_schedule(self.start * learning_rate, learning_rate, top), fall], [top]
        )


SCHEDULES = {"constant": Constant, "steps": Steps, "cosine": Cosine, "one_cycle": OneCycle}


def _decays(params: PyTree) -> PyTree:
    """True for kernels, False for what has fewer than two axes: biases and BatchNorm's scale and shift."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _decay(config: "OptimizerConfig") -> optax.GradientTransformation:
    if not config.weight_decay:
        return optax.identity()
    return optax.add_decayed_weights(config.weight_decay, None if config.decay_all else _decays)


def _sgd(config: "OptimizerConfig") -> optax.GradientTransformation:
    if not config.momentum:
        return _decay(config)
    return optax.chain(_decay(config), optax.trace(config.momentum, nesterov=config.nesterov))


def _adam(config: "OptimizerConfig") -> optax.GradientTransformation:
    return optax.chain(_decay(config), optax.scale_by_adam(config.beta1, config.beta2, config.epsilon))


def _adamw(config: "OptimizerConfig") -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_adam(config.beta1, config.beta2, config.epsilon), _decay(config))


OPTIMIZERS: dict[str, Callable[["OptimizerConfig"], optax.GradientTransformation]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
}


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An optimizer as a value.

    `sgd` and `adam` add weight_decay * w to the gradient *before* momentum and moments, as PyTorch's SGD and
    Adam do, which the reference code used; `adamw` decays the weights themselves (arXiv 1711.05101).

    Args:
        name: a name in `OPTIMIZERS`.
        learning_rate: the peak of the schedule, > 0.
        schedule: a member of `SCHEDULES`.
        momentum: of `sgd`, in [0, 1).
        nesterov: of `sgd`.
        beta1: of `adam` and `adamw`.
        beta2: of `adam` and `adamw`.
        epsilon: of `adam` and `adamw`.
        weight_decay: >= 0.
        decay_all: False exempts biases and BatchNorm's scale and shift (all leaves with fewer than two axes).
        clip: the largest global norm of the gradient, applied before weight decay; None for no clipping.

    Raises:
        ValueError: on an unknown name (the known ones are listed) or a value out of range.

    >>> optimizer = OptimizerConfig(learning_rate=0.01, weight_decay=5e-4, schedule=Steps()).build(100)
    """

    name: str = "sgd"
    learning_rate: float = 0.01
    schedule: Schedule = Constant()
    momentum: float = 0.9
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decay_all: bool = True
    clip: float | None = None

    def __post_init__(self):
        _validate.member("optimizer", self.name, OPTIMIZERS)
        _validate.positive("learning_rate", self.learning_rate)
        if not isinstance(self.schedule, Schedule):
            raise ValueError(
                f"Expected schedule to be one of {_validate.listing(SCHEDULES)}, got {self.schedule!r}."
            )
        for field in ("momentum", "beta1", "beta2"):
            _validate.within(field, getattr(self, field), 0.0, 0.9999999)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0; set momentum=0.9, or nesterov=False.")
        _validate.positive("epsilon", self.epsilon)
        _validate.non_negative("weight_decay", self.weight_decay)
        if self.clip is not None:
            _validate.positive("clip", self.clip)

    def build(self, num_steps: int) -> optax.GradientTransformation:
        """The optax transformation for a run of `num_steps` steps."""
        _validate.at_least("num_steps", num_steps, 1)
        return optax.chain(
            optax.identity() if self.clip is None else optax.clip_by_global_norm(self.clip),
            OPTIMIZERS[self.name](self),
            optax.scale_by_learning_rate(self.schedule.build(self.learning_rate, num_steps)),
        )
