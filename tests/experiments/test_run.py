"""Runs whose files or data are no longer what they were."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from jaxrobust import data, experiments
from jaxrobust.experiments import digits_demo
from jaxrobust.training import Runtime


def save(path, digits, names, shift=0):
    np.savez(
        path,
        train_images=digits.train.images[:200], train_labels=digits.train.labels[:200],
        test_images=np.roll(digits.test.images[:40], shift, 0),
        test_labels=np.roll(digits.test.labels[:40], shift), class_names=np.array(names),
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An experiment on an own set, its run, and the set's file."""
    folder = tmp_path_factory.mktemp("own")
    save(folder / "own.npz", data.load("digits"), [f"c{i}" for i in range(10)])
    experiment = experiments.apply_overrides(
        experiments.get("digits_standard"),
        [
            f"data.dataset=npz:{folder / 'own.npz'}",
            "num_steps=2",
            "batch_size=8",
            "data.num_validation=20",
            "data.test_fraction=none",
        ],
    )
    runtime = Runtime(num_devices=1)
    run = experiments.train(experiment, folder / "run", runtime=runtime, progress=False)
    assert run is not None
    return experiment, run, folder / "own.npz"


def evaluate(run, **options):
    return experiments.evaluate_run(run, attacks=["none"], num=20, **options)


def test_a_set_that_changed_is_refused_unless_it_is_named(trained, tmp_path):
    experiment, run, path = trained
    assert run.fingerprint == data.load(experiment.data.dataset).fingerprint
    assert evaluate(run).row("none")["n"] == 20
    kept = shutil.copy(path, tmp_path / "kept.npz")
    try:
        save(path, data.load("digits"), [f"c{i}" for i in range(10)], shift=1)
        with pytest.raises(
            ValueError, match="is not what the run was trained on: its images, labels"
        ) as caught:
            evaluate(run)
        assert run.fingerprint in str(caught.value) and f"--dataset npz:{path}" in str(caught.value)
        lines = []
        assert evaluate(run, dataset=f"npz:{path}", log_fn=lines.append).row("none")["n"] == 20
        assert not lines
    finally:
        shutil.copy(kept, path)


def test_other_names_of_classes_are_told(trained, tmp_path):
    _, run, _ = trained
    save(tmp_path / "other.npz", data.load("digits"), ["c0", "c2", "c1", *(f"c{i}" for i in range(3, 10))])
    lines = []
    evaluate(run, dataset=f"npz:{tmp_path / 'other.npz'}", log_fn=lines.append)
    assert len(lines) == 1 and "1: c1 -> c2, 2: c2 -> c1" in lines[0] and "by index" in lines[0]


def test_files_that_a_kill_cut_short_do_not_lose_the_run(trained, tmp_path):
    experiment, run, _ = trained
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    assert experiments.is_finished(folder, experiment)
    assert not experiments.is_finished(folder, dataclasses.replace(experiment, seed=5))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "validation/acc')
    assert dict(experiments.load_run(folder).validation) == dict(run.validation) != {}
    (folder / "config.json").write_text("{")
    assert not experiments.is_finished(folder, experiment)


def test_a_run_that_ended_between_its_last_checkpoint_and_its_result_is_finished(trained, tmp_path):
    experiment, run, _ = trained
    made = json.loads((run.folder / "result.json").read_text())
    assert made["seconds"] > 0 and made["versions"]["jax"] and made["hardware"]
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    (folder / "result.json").unlink()
    assert not experiments.is_finished(folder, experiment)
    runtime = Runtime(num_devices=1)
    again = experiments.train(experiment, folder, runtime=runtime, progress=False)
    assert again is not None and again.step == run.step and experiments.is_finished(folder, experiment)
    assert json.loads((folder / "result.json").read_text()) == {
        "steps": 2,
        "seconds": None,
        "resumed_at": None,
    }
    (folder / "result.json").unlink()
    experiments.train_seeds(experiment, [experiment.seed], [folder], runtime=runtime, progress=False)
    assert experiments.is_finished(folder, experiment)


@pytest.mark.parametrize("lost", ["rows.jsonl", "report.html", None])
def test_a_demonstration_without_its_files_is_made_again(tmp_path, monkeypatch, lost):
    rows = {model: {"model": model, "attack": "none"} for model in digits_demo.MODELS}
    made = []

    def report(model, *_):
        made.append(model)
        return digits_demo.Report(rows=(rows[model],), flags={})

    def write(reports, experiment, out_dir, seed):
        out_dir.mkdir(exist_ok=True)
        (out_dir / "rows.jsonl").write_text("".join(f'{{"model": "{m}", "attack": "none"}}\n' for m in rows))
        (out_dir / "report.html").write_text("<html></html>")

    monkeypatch.setattr(digits_demo, "is_finished", lambda *_: True)
    monkeypatch.setattr(digits_demo, "_report", report)
    monkeypatch.setattr(digits_demo, "_write", write)
    monkeypatch.setattr(digits_demo.evaluation, "comparison_table", lambda reports: len(reports[0].rows))
    options = {"runs_dir": tmp_path / "runs", "out_dir": tmp_path / "out", "log_fn": lambda line: None}
    digits_demo.reproduce(**options)
    if lost:
        (tmp_path / "out" / lost).unlink()
    made.clear()
    digits_demo.reproduce(**options)
    assert made == (list(digits_demo.MODELS) if lost else [])
