"""The performance gate of CN116665282A: whether the model is good enough to be trained on adversaries too."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.types import Array

AUTOMATIC_SHARE = 0.3


class Measure(StrEnum):
    """What a gate looks at: the loss of one batch (the patent), its moving average, a validation's TAR."""

    BATCH_LOSS = "batch_loss"
    EMA_LOSS = "ema_loss"
    VAL_TAR = "val_tar"


class GateState(NamedTuple):
    """All that a gate remembers; scalars, which lie in checkpoints and are alike on all devices.

    Attributes:
        open: bool; governs the next step.
        measure: float32; the last value that was compared, 0 before any.
        steps: int32; steps made.
        steps_open: int32; how many of them were made with the gate open.
        first_open: int32; the number of the first of those, from 0, -1 while there is none.
        flaps: int32; how often the gate changed, the first opening included.
    """

    open: Array
    measure: Array
    steps: Array
    steps_open: Array
    first_open: Array
    flaps: Array


@dataclass(frozen=True, kw_only=True)
class Gate:
    r"""Open iff the measure m is strictly better than the threshold: equality is closed.

    The patent claims m = the total loss of the current batch and "strictly below a preset threshold"; it is
    decided after each step and governs the next, and so the gate can close again. Ours is the rest: with the
    adversarial terms in m, the loss would jump as the gate opens and shut it in the next step, so m is the
    mean loss of the *source* images alone, L(x, y), over all devices; by default its moving average

    .. math:: m_t = \beta\, m_{t-1} + (1 - \beta)\, L_t, \qquad m_0 = L_0

    Args:
        measure: `ema_loss`, `batch_loss`, or `val_tar`: the metric `tar` of each validation, in [0, 1], above
            which the gate is open until the next.
        threshold: of a loss > 0; None is 0.3 ln K of K people, three tenths of what a softmax that knows
            nothing loses. (A margin loss of scale s starts far above ln K: give it a threshold.) `val_tar`
            has no automatic threshold.
        beta: in [0, 1), of `ema_loss`.
        hysteresis: >= 0, in units of the measure: an open gate closes only where the measure is worse than
            the threshold by so much.
        latch: an open gate stays open.

    Raises:
        ValueError: for values out of range, `val_tar` without a threshold, an unknown measure.

    >>> gate = Gate(threshold=1.0, measure="batch_loss")
    >>> state = gate.start()
    >>> [bool(gate.after_step(state, jnp.float32(loss), 1.0).open) for loss in (0.9, 1.0)]
    [True, False]
    """

    measure: Measure = Measure.EMA_LOSS
    threshold: float | None = None
    beta: float = 0.8
    hysteresis: float = 0.0
    latch: bool = False

    def __post_init__(self) -> None:
        known = {measure.value: measure for measure in Measure}
        object.__setattr__(self, "measure", _validate.member("measure", self.measure, known))
        _validate.decay("beta", self.beta, "0 keeps the last batch alone.")
        _validate.non_negative("hysteresis", self.hysteresis)
        if not isinstance(self.latch, bool):
            raise ValueError(f"Expected latch to be True or False, got latch={self.latch!r}.")
        if self.threshold is None:
            if self.measure is Measure.VAL_TAR:
                raise ValueError("Expected a threshold with measure=val_tar, got None. Set one in [0, 1).")
        elif math.isinf(self.threshold):
            raise ValueError(
                f"Expected a finite threshold, got threshold={self.threshold}. "
                "gate=None trains on adversaries from the first step."
            )
        elif self.measure is Measure.VAL_TAR:
            _validate.within("threshold", self.threshold, 0.0, 1.0, "It is a true accept rate.")
        else:
            _validate.positive("threshold", self.threshold, "A loss never falls below 0.")

    def start(self) -> GateState:
        """Closed, before any step."""
        return beginning(is_open=False)

    def threshold_for(self, num_classes: int) -> float:
        """The threshold, or 0.3 ln K."""
        return AUTOMATIC_SHARE * math.log(num_classes) if self.threshold is None else self.threshold

    def after_step(self, state: GateState, loss: Array, threshold: float) -> GateState:
        """The state after a step whose mean source loss over the global batch is `loss`, `[]`."""
        if self.measure is Measure.VAL_TAR:
            return counted(state, state.measure, state.open)
        measure = jnp.asarray(loss, jnp.float32)
        if self.measure is Measure.EMA_LOSS:
            average = self.beta * state.measure + (1 - self.beta) * measure
            measure = jnp.where(state.steps == 0, measure, average)
        good = measure < jnp.where(state.open, threshold + self.hysteresis, threshold)
        return counted(state, measure, good | state.open if self.latch else good)

    def after_validation(self, state: GateState, tar: float) -> GateState:
        """The state after a validation, on the host; other measures than `val_tar` ignore it."""
        if self.measure is not Measure.VAL_TAR:
            return state
        assert self.threshold is not None
        was_open = bool(state.open)
        is_open = tar > self.threshold - (self.hysteresis if was_open else 0.0) or (self.latch and was_open)
        changed = jnp.asarray(is_open != was_open, jnp.int32)
        return state._replace(open=jnp.array(is_open), measure=jnp.float32(tar), flaps=state.flaps + changed)


def beginning(is_open: bool) -> GateState:
    """The state before the first step."""
    # Each count has a buffer of its own: a training step donates them, and none can be given twice.
    return GateState(
        open=jnp.array(is_open),
        measure=jnp.zeros((), jnp.float32),
        steps=jnp.zeros((), jnp.int32),
        steps_open=jnp.zeros((), jnp.int32),
        first_open=jnp.full((), -1, jnp.int32),
        flaps=jnp.zeros((), jnp.int32),
    )


def counted(state: GateState, measure: Array, is_open: Array) -> GateState:
    """The state after a step that `state.open` governed; the next one is governed by `is_open`."""
    first = jnp.where((state.first_open < 0) & state.open, state.steps, state.first_open)
    return GateState(
        open=is_open,
        measure=measure,
        steps=state.steps + 1,
        steps_open=state.steps_open + state.open,
        first_open=first,
        flaps=state.flaps + (is_open != state.open),
    )
