"""Whole runs behind the gate: any number of devices decides as one, and a resumed run as one unbroken."""

import itertools

import chex
import jax
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.neighbourhoods import LInf
from jaxrobust.objectives import FaceGated, Gate, Standard
from jaxrobust.training import Checkpoints, Member, OptimizerConfig, Runtime, Wrapper, fit_seeds
from tests.common.objectives_table import Shift
from tests.common.tiny import tiny_feed
from tests.objectives.face_net import MODEL, PAIRS, face_fit

STEPS = 8


class Rows:
    """A sink that remembers, and can act on a step."""

    def __init__(self, act=None):
        self.rows, self._act = [], act

    def rewind(self, step):
        pass

    def write(self, step, metrics):
        self.rows.append((step, dict(metrics)))
        if self._act:
            self._act(step)

    def close(self):
        pass


def trace(rows, name="gate_open"):
    return [row[name] for _, row in rows.rows if name in row]


def gated(threshold):
    return FaceGated(attack=PAIRS, gate=Gate(measure="batch_loss", threshold=threshold))


def run(objective, **options):
    """(final state, rows of every step)."""
    rows = Rows()
    options = {"runtime": Runtime(wrapper=Wrapper.JIT, num_devices=1), **options}
    state = jax.device_get(face_fit(STEPS, objective, sinks=(rows,), log_every=1, **options))
    return state, rows


@pytest.fixture(scope="module")
def one_device():
    """A run whose threshold lies within what its losses are, so that the gate opens and closes."""
    _, clean = run(Standard())
    objective = gated(float(np.median(trace(clean, "loss"))))
    return objective, *run(objective)


def test_the_gate_opens_and_closes_again(one_device):
    objective, state, rows = one_device
    opened, measures = trace(rows), trace(rows, "gate_measure")
    flaps = sum(a != b for a, b in itertools.pairwise(opened))
    assert flaps >= 2, f"The threshold is {objective.gate.threshold}, the measures are {measures}."
    # Decided after a step, for the next.
    assert opened == [0.0] + [float(measure < objective.gate.threshold) for measure in measures[:-1]]
    gate = state.obj_state
    assert int(gate.steps) == STEPS and int(gate.steps_open) == sum(opened)
    assert int(gate.first_open) == opened.index(1.0)
    assert int(gate.flaps) == flaps + (bool(gate.open) != bool(opened[-1]))
    for adversarial, is_open in zip(trace(rows, "adversarial_loss"), opened):
        assert (adversarial > 0) == bool(is_open)


@pytest.mark.parametrize(
    "wrapper",
    [
        Wrapper.PMAP,
        pytest.param(Wrapper.JIT, marks=pytest.mark.slow),
        pytest.param(Wrapper.SHARD_MAP, marks=pytest.mark.slow),
    ],
)
def test_four_devices_decide_as_one(wrapper, one_device):
    objective, expected, rows = one_device
    state, found = run(objective, runtime=Runtime(wrapper=wrapper, num_devices=4))
    assert trace(found) == trace(rows)
    for name in ("loss", "regulariser", "impostor_cosine", "gate_measure"):
        np.testing.assert_allclose(trace(found, name), trace(rows, name), atol=2e-5, err_msg=name)
    chex.assert_trees_all_close(state, expected, atol=2e-5)


@pytest.mark.slow
def test_built_targets_are_the_same_on_four_devices():
    built = PGD(neighbourhood=LInf(eps=0.3), steps=3, step_size=0.5, targeted=True)
    objective = FaceGated(attack=PAIRS, built_attack=built, gate=None)
    expected, rows = run(objective)
    state, found = run(objective, runtime=Runtime(wrapper=Wrapper.SHARD_MAP, num_devices=4))
    np.testing.assert_allclose(trace(found, "regulariser"), trace(rows, "regulariser"), atol=2e-5)
    chex.assert_trees_all_close(state, expected, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("vmapped", [True, False])
def test_runs_side_by_side_each_have_a_gate(vmapped, one_device):
    objective, expected, _ = one_device
    optimizer = OptimizerConfig(learning_rate=0.05, weight_decay=5e-4).build(STEPS)
    members = [Member(seed, tiny_feed(8, 0)) for seed in (1, 2)]
    options = {"runtime": Runtime(num_devices=1), "ema_decay": 0.9, "progress": False, "vmapped": vmapped}
    first, other = fit_seeds(
        members, model=MODEL, objective=objective, optimizer=optimizer, num_steps=STEPS, **options
    )
    chex.assert_trees_all_close(jax.device_get(first), expected, atol=2e-5)
    assert float(other.obj_state.measure) != float(first.obj_state.measure)


def test_a_resumed_run_keeps_the_trace(tmp_path, one_device):
    class Gone(Exception):
        pass

    def leave(step):
        if step == 5:
            raise Gone

    objective, expected, rows = one_device
    before, after = Rows(leave), Rows()
    options = {"runtime": Runtime(wrapper=Wrapper.JIT, num_devices=1), "log_every": 1}
    with pytest.raises(Gone):
        face_fit(
            STEPS, objective, sinks=(before,), checkpoints=Checkpoints(tmp_path, save_every=4), **options
        )
    state = face_fit(
        STEPS, objective, sinks=(after,), checkpoints=Checkpoints(tmp_path, save_every=4), **options
    )
    chex.assert_trees_all_equal(jax.device_get(state), expected)
    assert trace(before)[:4] + trace(after) == trace(rows)


def test_a_validations_tar_opens_the_gate():
    objective = FaceGated(attack=Shift(), gate=Gate(measure="val_tar", threshold=0.5), lam=0.0)
    tars = iter([0.5, 0.75, 0.25, 0.25])
    state, rows = run(objective, validate_fn=lambda state: {"tar": next(tars)}, validate_every=2)
    assert trace(rows) == [0.0] * 4 + [1.0] * 2 + [0.0] * 2
    assert trace(rows, "gate_measure") == [0.0] * 2 + [0.5] * 2 + [0.75] * 2 + [0.25] * 2
    assert [int(x) for x in state.obj_state[2:]] == [8, 2, 4, 2]
