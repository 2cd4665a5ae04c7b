"""What is kept, what is restored, what is refused."""

import gc
import json
import shutil
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust.objectives import Standard
from jaxrobust.training import Checkpoints, init_state, restore_weights
from tests.common.objectives_table import LINEAR


class Counting(Standard):
    """An objective with a state."""

    def init(self, params):
        return {"seen": jnp.zeros((2,), jnp.int32)}


def state_at(step, ema_decay=0.9, optimizer=None):
    """A state with values that tell its step."""
    optimizer = optimizer or optax.chain(optax.clip(1.0), optax.adam(0.1))
    state = init_state(jax.random.key(0), LINEAR, Counting(), optimizer, ema_decay=ema_decay)
    state = jax.tree.map(lambda leaf: np.asarray(leaf + step).astype(leaf.dtype), state)
    return state._replace(step=np.asarray(step, np.int32))


def steps_in(directory):
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def test_restores_every_part_of_the_newest(tmp_path):
    saved = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        saved.save(state_at(step), pending=[{"loss": 1 / 3}])
    saved.close()
    assert steps_in(tmp_path) == [2, 3]
    again = Checkpoints(tmp_path)
    assert again.latest_step() == 3
    restored = again.restore(state_at(0))
    again.close()
    chex.assert_trees_all_equal(restored.state, state_at(3))
    chex.assert_trees_all_equal_dtypes(restored.state, state_at(3))
    assert restored.pending == [{"loss": 1 / 3}]


def test_without_checkpoints_there_is_nothing_to_restore(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new")
    assert checkpoints.restore(state_at(0)) is None and checkpoints.latest_step() is None
    checkpoints.close()


@pytest.mark.parametrize(("lower_is_better", "best"), [(False, 2), (True, 3)])
def test_the_best_by_validation_stays(tmp_path, lower_is_better, best):
    checkpoints = Checkpoints(tmp_path, keep=1, best_metric="score", lower_is_better=lower_is_better)
    for step, score in ((1, 0.5), (2, 0.9), (3, 0.1), (4, 0.6), (5, None)):
        checkpoints.save(state_at(step), metrics=None if score is None else {"score": score, "other": 1.0})
    checkpoints.close()
    assert steps_in(tmp_path) == [best, 5]
    assert restore_weights(tmp_path).step == best
    assert restore_weights(tmp_path, best=False).step == 5


def test_a_score_that_is_nan_is_no_score(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=1, best_metric="score")
    for step, score in ((1, np.nan), (2, 0.3), (3, np.nan), (4, 0.1)):
        checkpoints.save(state_at(step), metrics={"score": score})
    checkpoints.close()
    assert steps_in(tmp_path) == [2, 4] and restore_weights(tmp_path).step == 2


def test_the_best_is_remembered_by_the_next_session(tmp_path):
    first = Checkpoints(tmp_path, keep=1, best_metric="score")
    first.save(state_at(1), metrics={"score": 0.9})
    first.close()
    second = Checkpoints(tmp_path, keep=1, best_metric="score")
    for step in (2, 3):
        second.save(state_at(step), metrics={"score": 0.1})
    second.close()
    assert steps_in(tmp_path) == [1, 3]


def test_a_metric_that_validation_does_not_give_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path, best_metric="score")
    with pytest.raises(ValueError, match=r"Unknown validation metric 'score'. Known: accuracy"):
        checkpoints.save(state_at(1), metrics={"accuracy": 0.5})
    checkpoints.close()


@pytest.fixture
def quiet_orbax(monkeypatch):
    """Orbax leaves futures of a closed event loop behind when a read fails; they are collected here."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    yield
    gc.collect()


def damage(folder):
    """Cuts the weights short, as a full disk would."""
    for file in (folder / "weights").rglob("*"):
        if file.is_file() and file.name != "_METADATA":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_damaged_newest_is_set_aside(tmp_path, caplog, quiet_orbax):
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2):
        checkpoints.save(state_at(step))
    checkpoints.close()
    damage(tmp_path / "2")
    again = Checkpoints(tmp_path, keep=3)
    restored = again.restore(state_at(0))
    assert int(restored.state.step) == 1
    assert "Checkpoint 2" in caplog.text and (tmp_path / "unreadable" / "2").is_dir()
    # The step can be saved anew.
    again.save(state_at(2))
    again.close()
    chex.assert_trees_all_equal(restore_weights(tmp_path).params, state_at(2).ema[0])


def test_if_none_can_be_read_it_says_so(tmp_path, quiet_orbax):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(1))
    checkpoints.close()
    damage(tmp_path / "1")
    again = Checkpoints(tmp_path)
    with pytest.raises(ValueError, match=r"None of the checkpoints \[1\]"):
        again.restore(state_at(0))
    # Whatever was in the way may pass; nothing was moved, so the run can go on then.
    assert steps_in(tmp_path) == [1] and not (tmp_path / "unreadable").exists()
    again.close()


def test_a_half_written_checkpoint_is_ignored(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(1))
    checkpoints.close()
    # Orbax writes under such a name and renames at the end.
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    again = Checkpoints(tmp_path)
    assert int(again.restore(state_at(0)).state.step) == 1
    again.close()
    assert restore_weights(tmp_path).step == 1


def test_another_configuration_is_refused_with_the_fields_that_differ(tmp_path):
    config = {"seed": 1, "objective": {"kind": "srt", "lam": 1.0}}
    checkpoints = Checkpoints(tmp_path, config=config)
    checkpoints.save(state_at(1))
    checkpoints.close()
    assert json.loads((tmp_path / "config.json").read_text()) == config
    assert json.loads((tmp_path / "1" / "config" / "metadata").read_text()) == {"config": config}
    Checkpoints(tmp_path, config=config).close()
    with pytest.raises(ValueError, match=r"objective.lam: 1.0 -> 0.5; seed: 1 -> null"):
        Checkpoints(tmp_path, config={"objective": {"kind": "srt", "lam": 0.5}})


def test_before_the_first_checkpoint_the_configuration_may_change(tmp_path):
    Checkpoints(tmp_path, config={"seed": 1}).close()
    Checkpoints(tmp_path, config={"seed": 2}).close()
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 2}


def test_another_optimizer_is_refused_by_name(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(1))
    with pytest.raises(ValueError, match="does not fit this model, optimizer and objective"):
        checkpoints.restore(state_at(0, optimizer=optax.sgd(0.1, momentum=0.9)))
    checkpoints.close()


def test_weights_alone(tmp_path):
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    checkpoints.save(state_at(7))
    checkpoints.close()
    state = state_at(7)
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints", tmp_path / "run" / "checkpoints" / "7"):
        averaged = restore_weights(path)
        assert averaged.step == 7
        chex.assert_trees_all_equal((averaged.params, averaged.stats), state.ema)
    own = restore_weights(tmp_path / "run", ema=False)
    chex.assert_trees_all_equal((own.params, own.stats), (state.params, state.stats))


def test_weights_that_are_not_there_are_refused(tmp_path, quiet_orbax):
    with pytest.raises(ValueError, match="Found no checkpoint at"):
        restore_weights(tmp_path)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state_at(1))
    checkpoints.close()
    damage(tmp_path / "1")
    with pytest.raises(ValueError, match="cannot be read"):
        restore_weights(tmp_path)


def test_bad_values_are_refused(tmp_path):
    with pytest.raises(ValueError, match="keep"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="save_every"):
        Checkpoints(tmp_path, save_every=-1)
