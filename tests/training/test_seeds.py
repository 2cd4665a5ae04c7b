"""Several seeds in one step: each is the run it would be alone."""

import dataclasses
import json
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxrobust.data import Augment
from jaxrobust.objectives import Standard
from jaxrobust.training import Checkpoints, Diverged, JsonLines, Member, OptimizerConfig, Runtime, fit_seeds
from jaxrobust.training._resume import restored
from jaxrobust.training.state import init_state
from tests.common.tiny import tiny_feed, tiny_fit, tiny_model, tiny_objective

SEEDS, STEPS = (1, 5), 3


def fit_tiny(members, num_steps=STEPS, **options):
    defaults = {
        "model": tiny_model(),
        "objective": tiny_objective(),
        "optimizer": OptimizerConfig(learning_rate=0.05, weight_decay=5e-4).build(num_steps),
        "runtime": Runtime(num_devices=1),
        "ema_decay": 0.9,
        "log_every": 2,
        "progress": False,
    }
    return fit_seeds(members, num_steps=num_steps, **{**defaults, **options})


def norm(state):
    return {"norm": float(sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(jax.device_get(state.params))))}


def alone(seed, folder, **options):
    return tiny_fit(
        STEPS,
        seed=seed,
        sinks=(JsonLines(folder / "m.jsonl"),),
        checkpoints=Checkpoints(folder / "c", keep=3, save_every=1),
        validate_fn=norm,
        validate_every=2,
        log_every=2,
        **options,
    )


def member(seed, folder):
    checkpoints = Checkpoints(folder / "c", keep=3, save_every=1)
    return Member(seed, tiny_feed(), checkpoints, norm, (JsonLines(folder / "m.jsonl"),))


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    """The states and folders of runs of their own."""
    folders = {seed: tmp_path_factory.mktemp(f"alone{seed}") for seed in SEEDS}
    return {seed: (jax.device_get(alone(seed, folder)), folder) for seed, folder in folders.items()}


def rows(folder):
    return [json.loads(line) for line in (folder / "m.jsonl").read_text().splitlines()]


def assert_same_run(state, folder, expected):
    chex.assert_trees_all_close(jax.device_get(state), expected[0], atol=2e-6)
    for row, other in zip(rows(folder), rows(expected[1]), strict=True):
        assert row.keys() == other.keys()
        np.testing.assert_allclose(list(row.values()), list(other.values()), rtol=1e-4)


@pytest.mark.parametrize(
    ("vmapped", "devices"),
    [
        pytest.param(True, 1, id="vmapped"),
        pytest.param(None, 2, id="in turns, on a device each", marks=pytest.mark.slow),
    ],
)
def test_each_seed_is_the_run_it_would_be_alone(tmp_path, one_by_one, vmapped, devices):
    folders = {seed: tmp_path / str(seed) for seed in SEEDS}
    states = fit_tiny(
        [member(seed, folders[seed]) for seed in SEEDS],
        vmapped=vmapped,
        runtime=Runtime(num_devices=devices),
        validate_every=2,
    )
    assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(states))
    assert abs(norm(states[0])["norm"] - norm(states[1])["norm"]) > 1e-3
    for state, seed in zip(states, SEEDS):
        assert_same_run(state, folders[seed], one_by_one[seed])
        # A run's checkpoints are those of a run alone: `fit` finds it finished.
        chex.assert_trees_all_equal(jax.device_get(alone(seed, folders[seed])), jax.device_get(state))


def test_runs_go_on_from_the_newest_step_that_all_have(tmp_path, one_by_one):
    folders = {seed: tmp_path / str(seed) for seed in SEEDS}
    fit_tiny([member(seed, folders[seed]) for seed in SEEDS], num_steps=2, validate_every=2)
    # As if killed between the two saves of step 2.
    ahead, behind = (Checkpoints(folders[seed] / "c", keep=3) for seed in SEEDS)
    behind.remove_after(1)
    assert (ahead.steps(), behind.steps()) == ([1, 2], [1])
    ahead.close()
    behind.close()
    states = fit_tiny([member(seed, folders[seed]) for seed in SEEDS], validate_every=2)
    for state, seed in zip(states, SEEDS):
        assert_same_run(state, folders[seed], one_by_one[seed])


def test_a_checkpoint_that_cannot_be_read_takes_all_runs_a_step_back(tmp_path, monkeypatch):
    """Step 2 of the second run is damaged: both go on from step 1, and nothing is removed before that."""
    state = init_state(
        jax.random.key(0), tiny_model(), Standard(), OptimizerConfig(learning_rate=0.1).build(3)
    )
    runs = [Checkpoints(tmp_path / name, keep=3) for name in "ab"]
    for one, last in zip(runs, (3, 2)):
        for step in range(1, last + 1):
            one.save(jax.device_get(state)._replace(step=np.asarray(step, np.int32)))
    read, seen = ocp.CheckpointManager.restore, []

    def damaged(manager, step, **options):
        if Path(manager.directory).name == "b" and step == 2:
            seen.append(runs[0].steps())
            raise OSError("damaged")
        return read(manager, step, **options)

    monkeypatch.setattr(ocp.CheckpointManager, "restore", damaged)
    states, _ = restored(runs, [state, state])
    assert [int(one.step) for one in states] == [1, 1]
    assert seen == [[1, 2, 3]] and [one.steps() for one in runs] == [[1], [1]]
    for one in runs:
        one.close()


def test_one_seed_that_diverges_is_named():
    params, stats = tiny_model().init(jax.random.key(0))
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    members = [Member(3, tiny_feed()), Member(4, tiny_feed(), init_from=(broken, stats))]
    with pytest.raises(Diverged, match=r"Step 1 of seed 4 is not finite.*other seeds can go on") as stop:
        fit_tiny(members, objective=Standard())
    assert (stop.value.step, stop.value.seed) == (1, 4)


def test_runs_that_cannot_go_together_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected each seed once, got 1, 1"):
        fit_tiny([Member(1, tiny_feed()), Member(1, tiny_feed())])
    with pytest.raises(ValueError, match="no members"):
        fit_tiny([])
    with pytest.raises(ValueError, match="seeds 1 and 2 have batches or sets of images of different sizes"):
        fit_tiny([Member(1, tiny_feed(4, 8)), Member(2, tiny_feed(4, 4))])
    other = dataclasses.replace(tiny_feed(), augment=Augment())
    with pytest.raises(ValueError, match=r"seeds 1 and 2 augment their images differently \(Augment\(pad=1"):
        fit_tiny([Member(1, tiny_feed()), Member(2, other)])
    with pytest.raises(ValueError, match="4 labelled images a step cannot be divided over 3 micro-batches"):
        fit_tiny([Member(1, tiny_feed(4, 8))], runtime=Runtime(micro_batches=3))
    tiny_fit(1, checkpoints=Checkpoints(tmp_path / "a"))
    members = [Member(seed, tiny_feed(), Checkpoints(tmp_path / name)) for seed, name in enumerate("ab")]
    with pytest.raises(ValueError, match=r"at different steps \(1, 0\) and have no checkpoint in common"):
        fit_tiny(members)
    assert members[0].checkpoints.steps() == [1]
