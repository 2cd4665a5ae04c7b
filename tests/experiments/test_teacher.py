"""Runs with a teacher: what it teaches, one resumable run, and the configurations that go with it."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxrobust import data
from jaxrobust.cli import main
from jaxrobust.experiments import (
    _teacher,
    apply_overrides,
    codec,
    experiment,
    get,
    is_finished,
    load_run,
    standard_teacher,
    summary,
    train,
    train_seeds,
)
from jaxrobust.experiments.run import load_data
from jaxrobust.objectives import RST, SRT, UAT, Standard
from jaxrobust.training import Interrupted, Runtime
from tests.data.test_feed import lazily

TINY = [
    "num_steps=4",
    "teacher.num_steps=6",
    "objective.attack.steps=1",
    "batch_size=32",
    "teacher.batch_size=32",
    "data.num_validation=20",
    "data.selection=random",
    "validation_attack=None",
    "model.widths=2,4",
    "model.hidden=8",
    "teacher.model.widths=2,4",
    "teacher.model.hidden=8",
    "validate_every=2",
    "teacher.validate_every=3",
]
ONE = {"runtime": Runtime(num_devices=1), "progress": False}


@pytest.fixture(scope="module")
def tiny():
    return apply_overrides(get("digits_rst"), TINY)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    return train(tiny, tmp_path_factory.mktemp("runs") / "rst", **ONE)


def labels_of(folder):
    with np.load(folder / _teacher.LABELS_FILE) as found:
        return found["labels"]


def split_of(one):
    config = one.data
    return data.split(
        load_data(config, None).train,
        num_labelled=config.num_labelled,
        num_validation=config.num_validation,
        selection=config.selection,
        seed=config.seed,
    )


def assert_same(run, other):
    jax.tree.map(np.testing.assert_array_equal, run.params, other.params)


def test_pseudo_labels_are_what_the_teachers_best_checkpoint_says(tiny, run):
    teacher = load_run(run.folder / "teacher")
    assert is_finished(run.folder / "teacher", tiny.teacher) and is_finished(run.folder, tiny)
    assert isinstance(teacher.experiment.objective, Standard)
    images = split_of(tiny).unlabelled
    logits = teacher.logits_fn(np.asarray(images, np.float32) / 255)
    labels = labels_of(run.folder)
    np.testing.assert_array_equal(labels, np.argmax(logits, -1))
    assert labels.dtype == np.int32 and len(np.unique(labels)) > 1
    config = json.loads((run.folder / "config.json").read_text())
    assert len(config["pseudo_labels"]) == 16 and config["experiment"]["teacher"]["num_steps"] == 6
    # Read on demand, in batches of which the last is not full.
    found = _teacher.predict_classes(teacher.model, teacher.params, teacher.stats, lazily(images[:501]))
    np.testing.assert_array_equal(found, labels[:501])


@pytest.mark.parametrize(
    "phase",
    [
        "labels",
        pytest.param("teacher", marks=pytest.mark.slow),
        pytest.param("robust", marks=pytest.mark.slow),
    ],
)
def test_stopped_at_any_phase_the_same_call_ends_alike(tiny, run, tmp_path, monkeypatch, phase):
    """Stopped in the teacher's training, between the two, or after the robust phase's first step."""
    with monkeypatch.context() as patch:
        if phase == "labels":
            patch.setattr(_teacher, "_write", lambda *_: (_ for _ in ()).throw(OSError("killed")))
        else:
            steps = iter(range(1 if phase == "teacher" else 7))
            patch.setattr("jaxrobust.training.loop._stopped", lambda *_: next(steps, None) is None)
        with pytest.raises((Interrupted, OSError)):
            train(tiny, tmp_path / "run", **ONE)
    said = []
    again = train(tiny, tmp_path / "run", log_fn=said.append, **ONE)
    assert_same(again, run)
    np.testing.assert_array_equal(labels_of(tmp_path / "run"), labels_of(run.folder))
    # Once they are there, nobody asks the teacher again.
    assert any("The teacher, Standard, is trained first" in line for line in said) == (phase != "robust")


def test_other_pseudo_labels_are_refused(tiny, tmp_path, run):
    folder = tmp_path / "run"
    assert_same(train(tiny, folder, teacher_dir=run.folder / "teacher", **ONE), run)
    assert not (folder / "teacher").exists()
    with np.load(folder / _teacher.LABELS_FILE) as found:
        about = str(found["about"])
    _teacher._write(folder / _teacher.LABELS_FILE, (labels_of(folder) + 1) % 10, about)
    with pytest.raises(ValueError, match=r"another configuration\. Differing: pseudo_labels:"):
        train(tiny, folder, **ONE)
    # Those of another teacher, or a file that a kill cut short, are made anew.
    (folder / _teacher.LABELS_FILE).write_bytes(b"PK")
    train(tiny, folder, teacher_dir=run.folder / "teacher", **ONE)
    np.testing.assert_array_equal(labels_of(folder), labels_of(run.folder))


def test_mistakes_are_answered_before_the_teacher_is_trained(tiny, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds a run already"):
        train(tiny, tmp_path / "run", resume=False, **ONE)
    with pytest.raises(ValueError, match="The model has 4 classes"):
        train(apply_overrides(tiny, ["model.num_classes=4"]), tmp_path / "other", **ONE)
    assert not (tmp_path / "run" / "teacher").exists() and not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match="the experiment has no teacher"):
        train(get("digits_srt"), tmp_path / "srt", teacher_dir=tmp_path / "teacher", **ONE)


def test_no_label_of_an_unlabelled_image_is_read_by_teacher_or_run(tiny, run, tmp_path, monkeypatch):
    """Wrong labels of all unlabelled images, at the source, change not one bit."""
    clean = load_data(tiny, None)
    labels = clean.train.labels.copy()
    chosen = split_of(tiny).indices["unlabelled"]
    labels[chosen] = (labels[chosen] + 1) % 10
    poisoned = dataclasses.replace(clean, train=data.ImageSet(clean.train.images, labels))
    monkeypatch.setattr("jaxrobust.experiments.run.load_data", lambda *_: poisoned)
    assert_same(train(tiny, tmp_path / "run", **ONE), run)
    np.testing.assert_array_equal(labels_of(tmp_path / "run"), labels_of(run.folder))


@pytest.mark.slow
def test_seeds_have_their_own_teachers(tiny, run, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    found = train_seeds(tiny, (0, 3), folders, **ONE)
    for leaf, expected in zip(jax.tree.leaves(found[0].params), jax.tree.leaves(run.params), strict=True):
        np.testing.assert_allclose(leaf, expected, atol=1e-6)
    assert [load_run(folder / "teacher").experiment.seed for folder in folders] == [0, 3]
    np.testing.assert_array_equal(labels_of(folders[0]), labels_of(run.folder))


def test_an_experiment_has_a_teacher_where_it_is_needed(tiny):
    srt = get("digits_srt")
    with pytest.raises(ValueError, match="RST needs pseudo-labels, got teacher=None"):
        dataclasses.replace(tiny, teacher=None)
    with pytest.raises(ValueError, match="SRT needs no pseudo-labels, got a teacher"):
        dataclasses.replace(srt, teacher=standard_teacher(srt))
    with pytest.raises(ValueError, match="of the kind Experiment"):
        dataclasses.replace(tiny, teacher=Standard())
    with pytest.raises(ValueError, match="a teacher of its own"):
        dataclasses.replace(tiny, teacher=tiny)
    with pytest.raises(ValueError, match="a teacher of the run's own data"):
        dataclasses.replace(tiny, data=dataclasses.replace(tiny.data, seed=5))
    online = UAT(attack=srt.objective.attack, clean_weight=1.0, fixed_weight=0.0)
    assert dataclasses.replace(srt, objective=online).teacher is None


def test_configurations_with_a_teacher(tiny):
    assert codec.loads(codec.dumps(tiny)) == tiny and "teacher" not in codec.to_json(get("digits_srt"))
    seeded = tiny.seeded(4)
    assert (seeded.teacher.seed, seeded.teacher.data.seed) == (4, 4)
    assert apply_overrides(tiny, ["seed=4", "data.seed=4"]) == seeded
    assert "first a teacher, Standard, 6 steps" in summary(tiny)
    judged = dataclasses.replace(tiny, teacher=dataclasses.replace(tiny.teacher, note="x", attacks=("none",)))
    assert codec.training_json(judged) == codec.training_json(tiny)
    longer = apply_overrides(tiny, ["teacher.num_steps=7"])
    assert codec.training_json(longer) != codec.training_json(tiny)


def test_overrides_bring_and_send_away_a_teacher():
    srt = get("digits_srt")
    taught = apply_overrides(srt, ["objective=rst", "data.num_labelled=60", "model.num_classes=4"])
    assert isinstance(taught.objective, RST) and taught.teacher.data.num_labelled == 60
    assert taught.teacher.model.num_classes == 4 and taught.teacher.validation_attack is None
    assert taught.teacher.batches is experiment.BatchForm.LABELLED
    assert apply_overrides(taught, ["objective=srt"]).teacher is None
    assert apply_overrides(get("digits_uat"), ["objective.fixed_weight=0"]).teacher is None
    with pytest.raises(ValueError, match=r"a teacher of the run's own data.*Change data, not teacher\.data"):
        apply_overrides(taught, ["teacher.data.num_labelled=20"])
    with pytest.raises(ValueError, match="needs pseudo-labels"):
        apply_overrides(taught, ["teacher=none"])


def test_the_pixel_families_have_the_standard_row_as_teacher():
    for name in ("digits", "mnist", "mnist1k", "cifar10", "cifar10_small"):
        standard = dataclasses.replace(get(f"{name}_standard"), validation_attack=None)
        for row in ("uat", "rst"):
            assert codec.training_json(get(f"{name}_{row}").teacher) == codec.training_json(standard)


def test_the_geometric_and_composite_families():
    for name in ("mnist", "mnist1k", "cifar10"):
        assert get(f"{name}_spatial_at") == get(f"{name}_spatial_worst_of_k")
        assert get(f"{name}_spatial_at_pixels").objective.attack == get(f"{name}_at").objective.attack
        pixels, poses = get(f"{name}_srt").objective.attack, get(f"{name}_spatial_srt").objective.attack
        for row in ("at", "srt"):
            assert get(f"{name}_composite_{row}_t1").objective.attack.stages == (pixels, poses)
            assert get(f"{name}_composite_{row}_t2").objective.attack.stages == (poses, pixels)
        assert isinstance(get(f"{name}_composite_srt_t1").objective, SRT)


def test_the_command_goes_on_with_the_teachers_labels(run, tmp_path, capsys):
    command = ["train", "digits_rst", *TINY, f"--run-dir={run.folder}", "--devices=1", "--no-progress"]
    with pytest.raises(SystemExit) as stop:
        main([*command, f"--teacher-dir={run.folder / 'teacher'}"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert (
        "with a teacher's labels" in said and "resuming at step 4" in said and "is trained first" not in said
    )
    with pytest.raises(SystemExit) as stop:
        main(["train", "digits_srt", f"--run-dir={tmp_path / 'srt'}", f"--teacher-dir={tmp_path / 'x'}"])
    assert stop.value.code == 1 and "has no teacher" in capsys.readouterr().err
