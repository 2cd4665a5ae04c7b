"""Several seeds from the command line: each folder is that of a run of its own."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from jaxrobust.cli import main
from jaxrobust.data import ResidentFeed, StreamFeed, load
from jaxrobust.experiments import (
    _prepare,
    apply_overrides,
    codec,
    get,
    is_finished,
    load_run,
    run_seeds,
    train,
    train_seeds,
)
from jaxrobust.training import Runtime

TINY = [
    "num_steps=4",
    "objective.attack.steps=1",
    "batch_size=32",
    "data.num_validation=20",
    "validate_every=2",
]
TINY += ["validation_attack=None", "model.widths=2,4", "model.hidden=8"]
SEEDS = (0, 3)


def code_of(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code


@pytest.fixture(scope="module")
def experiment():
    return apply_overrides(get("digits_srt"), TINY)


@pytest.fixture(scope="module")
def alone(experiment, tmp_path_factory):
    """A run of the second seed by itself."""
    folder = tmp_path_factory.mktemp("alone")
    return train(experiment.seeded(SEEDS[1]), folder, runtime=Runtime(num_devices=1), progress=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two runs of the command line."""
    stem = tmp_path_factory.mktemp("together") / "tiny"
    command = ["train", "digits_srt", *TINY, "--seeds=0,3", "--devices=2", "--no-progress"]
    assert code_of([*command, f"--run-dir={stem}"]) == 0
    return [stem.with_name(f"tiny-seed{seed}") for seed in SEEDS]


@pytest.mark.slow
def test_each_folder_is_that_of_a_run_alone(experiment, alone, folders):
    found = load_run(folders[1])
    assert is_finished(folders[1], experiment.seeded(3)) and found.step == alone.step
    for leaf, expected in zip(jax.tree.leaves(found.params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(leaf, expected, atol=1e-6)
    assert found.validation == alone.validation
    for name in ("config.json", "metrics.jsonl"):
        assert (folders[1] / name).is_file()
    config, other = (
        json.loads((folder / "config.json").read_text()) for folder in (folders[1], alone.folder)
    )
    assert config == other
    result = json.loads((folders[1] / "result.json").read_text())
    assert result["together"] == [0, 3] and result["steps"] == 4


@pytest.mark.slow
def test_finished_seeds_are_left_alone(experiment, folders):
    said = []
    runs = train_seeds(experiment, SEEDS, folders, runtime=Runtime(num_devices=1), log_fn=said.append)
    assert [run.experiment.seed for run in runs] == [0, 3]
    assert all("resuming at step 4" in line for line in said)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds=0,1", "--seed=2"], "--seeds goes without --seed"),
        (["--seeds=0,1", "--distributed"], "--seeds goes without --distributed"),
        (["--seeds=0,x"], "expected numbers separated by commas"),
        (["--seeds=1,1"], "Expected each seed once"),
    ],
)
def test_mistakes_are_answered(tmp_path, capsys, options, message):
    assert code_of(["train", "digits_srt", *TINY, *options, f"--run-dir={tmp_path / 'run'}"]) != 0
    assert message in " ".join(capsys.readouterr().err.split())


def test_as_many_folders_as_seeds(experiment, tmp_path):
    with pytest.raises(ValueError, match="Expected a folder for each of 2 seeds, got 1 folders"):
        train_seeds(experiment, (0, 1), [tmp_path])


def test_the_step_that_all_go_on_from_is_said_and_recorded(experiment, folders, tmp_path, monkeypatch):
    """The second seed lacks its last checkpoint, so both go on from the one before."""
    longer, said = dataclasses.replace(experiment, num_steps=5), []
    runs = [tmp_path / folder.name for folder in folders]
    for seed, folder, run in zip(SEEDS, folders, runs):
        shutil.copytree(folder / "checkpoints", run / "checkpoints")
        config = json.loads((folder / "config.json").read_text())
        config["experiment"] = codec.to_json(longer.seeded(seed))
        (run / "checkpoints" / "config.json").write_text(json.dumps(config))
    shutil.rmtree(runs[1] / "checkpoints" / "4")
    monkeypatch.setattr(run_seeds.training, "fit_seeds", lambda members, **options: [None] * len(members))
    train_seeds(longer, SEEDS, runs, runtime=Runtime(num_devices=1), log_fn=said.append)
    assert all("resuming at step 3" in line for line in said) and len(said) == 2
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    assert [one["resumed_at"] for one in results] == [3, 3]


@pytest.mark.parametrize(("room", "feed"), [(3, ResidentFeed), (2, StreamFeed)])
def test_seeds_that_their_devices_do_not_divide_say_so_and_share_the_room(
    experiment, tmp_path, monkeypatch, room, feed
):
    """Three seeds on two devices lie on one, which has room for the images of `room` runs."""
    said, given = [], []

    def fit_seeds(members, **options):
        given.extend(member.feed for member in members)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_seeds.training, "fit_seeds", fit_seeds)
    monkeypatch.setattr(_prepare, "MAX_DEVICE_BYTES", room * load("digits").train.images.nbytes)
    with pytest.raises(KeyboardInterrupt):
        train_seeds(
            experiment, (0, 1, 2), [tmp_path / str(seed) for seed in range(3)],
            runtime=Runtime(num_devices=2), log_fn=said.append,
        )  # fmt: skip
    assert [type(one) for one in given] == [feed] * 3 and len(said) == 3
    where = "on 1 cpu device(s) of 2, 3 seeds on each (1 idle: a multiple of 2 seeds would use all)"
    assert all(where in line for line in said)
