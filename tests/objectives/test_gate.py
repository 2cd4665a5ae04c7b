"""The gate's table: strict, closing again, hysteresis, latch, average, validation; its report."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.neighbourhoods import LInf
from jaxrobust.objectives import FaceGated, Gate, Measure, gate_report

BALL = PGD(neighbourhood=LInf(eps=0.1), steps=1)


def trace(gate, losses, num_classes=3):
    """(state, [open after each step])."""
    state, opened = gate.start(), []
    for loss in losses:
        state = gate.after_step(state, jnp.float32(loss), gate.threshold_for(num_classes))
        opened.append(bool(state.open))
    return state, opened


BATCH = {"measure": Measure.BATCH_LOSS, "threshold": 0.5}


@pytest.mark.parametrize(
    ("options", "losses", "opened"),
    [
        (BATCH, [0.5, 0.4999, 0.5], [False, True, False]),
        (BATCH, [0.1, 0.9, 0.1], [True, False, True]),
        (BATCH | {"hysteresis": 0.25}, [0.6, 0.4, 0.6, 0.75, 0.6], [False, True, True, False, False]),
        (BATCH | {"latch": True}, [0.6, 0.4, 9.0], [False, True, True]),
        (BATCH, [math.nan, 0.4, math.nan], [False, True, False]),
        # Averages 1, .75, .375, .6875 with beta one half.
        ({"threshold": 0.5, "beta": 0.5}, [1.0, 0.5, 0.0, 1.0], [False, False, True, False]),
        ({"threshold": 0.5, "beta": 0.0}, [1.0, 0.25, 1.0], [False, True, False]),
    ],
)
def test_opens_strictly_below_the_threshold_and_closes_again(options, losses, opened):
    assert trace(Gate(**options), losses)[1] == opened


def test_the_average_begins_with_the_first_loss():
    state, _ = trace(Gate(threshold=0.1), [2.0, 1.0, 1.0])
    np.testing.assert_allclose(state.measure, 0.8 * (0.8 * 2 + 0.2) + 0.2, rtol=1e-6)


def test_counts_the_steps_that_a_decision_governed():
    # Decisions open, closed, open, open govern the steps 1 to 3 and one that is not made.
    state, _ = trace(Gate(**BATCH), [0.1, 0.9, 0.1, 0.1])
    assert [int(x) for x in state[2:]] == [4, 2, 1, 3]
    state, _ = trace(Gate(**BATCH), [0.9, 0.1])
    assert [int(x) for x in state[2:]] == [2, 0, -1, 1]


def test_automatic_threshold_is_three_tenths_of_log_k():
    assert Gate().threshold_for(24) == pytest.approx(0.3 * math.log(24))
    assert Gate(threshold=0.7).threshold_for(24) == 0.7


def test_tar_of_a_validation_opens_above_the_threshold():
    objective = FaceGated(attack=BALL, gate=Gate(measure="val_tar", threshold=0.5, hysteresis=0.25))
    state, opened = jax.device_get(objective.init({})), []
    kinds = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    for tar in (0.5, 0.75, 0.5, 0.25, 0.3):
        state = objective.on_validation(state, {"tar": tar, "accuracy": 1.0})
        opened.append(bool(state.open))
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), jax.device_get(state)) == kinds
        assert objective.gate.after_step(state, jnp.float32(0.0), 0.5).open == state.open
    assert opened == [False, True, True, False, False] and int(state.flaps) == 2
    with pytest.raises(ValueError, match=r"Unknown validation metric 'tar'. Known: accuracy"):
        objective.on_validation(state, {"accuracy": 1.0})


def test_other_measures_and_ungated_arms_ignore_a_validation():
    for gate in (Gate(), None):
        objective = FaceGated(attack=BALL, gate=gate)
        state = objective.init({})
        assert objective.on_validation(state, {"accuracy": 1.0}) is state
    latched = Gate(measure="val_tar", threshold=0.5, latch=True)
    state = latched.after_validation(jax.device_get(latched.start()), 0.6)
    assert bool(latched.after_validation(state, 0.0).open)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": "loss"}, "Unknown measure 'loss'. Known: batch_loss, ema_loss, val_tar"),
        ({"threshold": 0.0}, "Expected threshold > 0"),
        ({"threshold": math.inf}, "Expected a finite threshold, .*gate=None"),
        ({"measure": "val_tar"}, "Expected a threshold with measure=val_tar"),
        ({"measure": "val_tar", "threshold": 1.5}, "Expected 0.0 <= threshold <= 1.0"),
        ({"beta": 1.0}, "Expected 0 <= beta < 1"),
        ({"hysteresis": -1}, "Expected hysteresis >= 0"),
        ({"latch": 1}, "Expected latch to be True or False"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        Gate(**options)


def test_report_and_its_warnings():
    gated = FaceGated(attack=BALL, gate=Gate(**BATCH))
    report = gate_report(gated, trace(gated.gate, [0.1, 0.9, 0.1, 0.1])[0], num_classes=3)
    assert report == (1, 0.5, 3, ())

    automatic = FaceGated(attack=BALL)
    state, _ = trace(automatic.gate, [2.0])
    (sentence,) = gate_report(automatic, state, num_classes=3, impostor_cosine=0.9).warnings
    assert sentence.startswith(
        "The gate never opened in 1 steps: the average loss ended at 2, the threshold is"
    )
    assert "0.3296 (0.3 ln 3)" in sentence and "set a threshold above that" in sentence

    still = FaceGated(attack=PGD(neighbourhood=LInf(eps=0.0)))
    never, collapsed = gate_report(still, still.init({}), num_classes=3, impostor_cosine=math.nan).warnings
    assert "closed by definition" in never and "collapsed" in collapsed
    ungated = FaceGated(attack=BALL, gate=None)
    assert gate_report(ungated, ungated.init({}), num_classes=3).warnings == ("No step was made.",)
