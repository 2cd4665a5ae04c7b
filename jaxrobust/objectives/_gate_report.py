"""What a gate did in a run, and what to be warned of where the run ends."""

import math
from typing import Any, NamedTuple

import jax

from jaxrobust.objectives._gate import GateState, Measure

COLLAPSE = 0.9


class GateReport(NamedTuple):
    """A run's gate in a few numbers; the whole trace is in the metrics `gate_open` and `gate_measure`.

    Attributes:
        first_open: the number of the first step with the gate open, None if there was none.
        share_open: the share of steps with the gate open, in [0, 1].
        flaps: how often it changed, the first opening included.
        warnings: sentences; empty where there is nothing to warn of.
    """

    first_open: int | None
    share_open: float
    flaps: int
    warnings: tuple[str, ...]


def gate_report(
    objective: Any, state: GateState, *, num_classes: int, impostor_cosine: float | None = None
) -> GateReport:
    """The report of a run of `FaceGated`.

    Args:
        objective: the `FaceGated`.
        state: its final state, `TrainState.obj_state`.
        num_classes: K, the number of people trained on, for an automatic threshold.
        impostor_cosine: the last value of that metric in [-1, 1], or None: above .9 the embeddings of
            different people are nearly one, and the run has collapsed.

    Returns:
        A `GateReport`.

    >>> from jaxrobust.attacks import PGD
    >>> from jaxrobust.neighbourhoods import LInf
    >>> from jaxrobust.objectives import FaceGated
    >>> objective = FaceGated(attack=PGD(neighbourhood=LInf(eps=0.1)))
    >>> gate_report(objective, objective.init({}), num_classes=24, impostor_cosine=0.95).warnings[-1]
    'The embeddings collapsed: the mean cosine between different people is 0.950, above 0.9.'
    """
    state = jax.device_get(state)
    steps, first = int(state.steps), int(state.first_open)
    warnings = []
    if first < 0:
        warnings.append(_never_opened(objective, state, num_classes))
    if impostor_cosine is not None and not impostor_cosine <= COLLAPSE:
        warnings.append(
            f"The embeddings collapsed: the mean cosine between different people is {impostor_cosine:.3f}, "
            f"above {COLLAPSE}."
        )
    return GateReport(
        first_open=None if first < 0 else first,
        share_open=int(state.steps_open) / max(steps, 1),
        flaps=int(state.flaps),
        warnings=tuple(warnings),
    )


def _never_opened(objective: Any, state: GateState, num_classes: int) -> str:
    if objective.always is False:
        return (
            "The gate is closed by definition (eps = 0, or weight = lam = 0): this was training on clean "
            "faces."
        )
    if objective.always is True or not int(state.steps):
        return "No step was made."
    gate = objective.gate
    what, cure = {
        Measure.EMA_LOSS: ("average loss", "above"),
        Measure.BATCH_LOSS: ("batch loss", "above"),
        Measure.VAL_TAR: ("validation TAR", "below"),
    }[gate.measure]
    threshold = gate.threshold_for(num_classes)
    share = "" if gate.threshold is not None else f" (0.3 ln {num_classes})"
    value = float(state.measure)
    last = "nothing finite" if not math.isfinite(value) else f"{value:.4g}"
    return (
        f"The gate never opened in {int(state.steps)} steps: the {what} ended at {last}, the threshold is "
        f"{threshold:.4g}{share}. This was training on clean faces; train longer, or set a threshold {cure} "
        "that."
    )
