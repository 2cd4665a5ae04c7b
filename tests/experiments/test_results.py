"""Intervals against closed forms, and the files of a reproduction that is started again."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jaxrobust.experiments import _results, registry, srt_mnist
from jaxrobust.experiments._files import read_rows

get_experiment = registry.get


def test_mean_interval_is_students():
    # t(0.975, 2 degrees of freedom) = 4.302653; standard deviation of 1, 2, 3 is 1.
    mean, half = _results.mean_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302653 / np.sqrt(3), rel=1e-6)
    assert _results.mean_interval([0.25]) == (0.25, None)


def test_paired_difference_counts_what_only_one_has_right():
    first = np.array([True] * 80 + [False] * 20)
    second = np.array([True] * 60 + [False] * 20 + [True] * 5 + [False] * 15)
    difference, half = _results.paired_difference(first, second)
    assert difference == pytest.approx(0.15)
    assert half == pytest.approx(1.959964 * np.sqrt(25 - 15**2 / 100) / 100, rel=1e-6)
    assert _results.paired_difference(first, first) == (0.0, 0.0)


def test_paired_difference_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.random((2000, 2, 400)) < np.array([0.8, 0.7])[:, None]
    found = [_results.paired_difference(a, b) for a, b in draws]
    covered = np.mean([abs(difference - 0.1) <= half for difference, half in found])
    assert covered == pytest.approx(0.95, abs=0.02)


def test_rows_survive_and_a_cut_line_is_left_out(tmp_path):
    path = tmp_path / "rows.jsonl"
    _results.write_rows(path, [{"a": 1}, {"a": 2}])
    with path.open("a") as file:
        file.write('{"a": ')
    assert read_rows(path) == [{"a": 1}, {"a": 2}]
    assert read_rows(tmp_path / "absent") == []


def test_runs_that_finish_at_the_same_time_keep_each_other(tmp_path):
    path = tmp_path / "out" / "rows.jsonl"

    def rows(model, accuracy):
        return [{"part": "pixels", "model": model, "run_seed": 0, "accuracy": accuracy}]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: _results.replace_rows(path, rows(f"m{i}", 0.5)), range(24)))
    _results.replace_rows(path, rows("m3", 0.7))
    found = {row["model"]: row["accuracy"] for row in read_rows(path)}
    assert found == {f"m{i}": 0.7 if i == 3 else 0.5 for i in range(24)}


def _tiny(name):
    """The named experiment's counterpart on digits in four steps."""
    base = get_experiment(f"digits_{name.removeprefix('mnist1k_')}")
    data = dataclasses.replace(base.data, num_validation=20)
    return dataclasses.replace(base, data=data, num_steps=4, batch_size=16, validate_every=0)


@pytest.fixture
def small_tables(monkeypatch):
    monkeypatch.setattr(srt_mnist.registry, "get", _tiny)
    monkeypatch.setattr(srt_mnist, "PARTS", {"pixels": ("mnist1k", ("none", "fgsm"))})
    monkeypatch.setattr(srt_mnist, "MODELS", {"rt_full": "RT (full batch)", "srt": "SRT"})


@pytest.mark.slow
def test_a_reproduction_writes_as_it_goes_and_keeps_what_is_there(small_tables, tmp_path, monkeypatch):
    # One device, as the fake ones would not divide the batch.
    monkeypatch.setattr(srt_mnist._results, "train", _on_one_device)
    options = {"runs_dir": tmp_path / "runs", "out_dir": tmp_path / "out", "num": 40}
    lines = []
    srt_mnist.reproduce(seeds=(0,), log_fn=lines.append, **options)
    text = (tmp_path / "out" / "README.md").read_text()
    rows = read_rows(tmp_path / "out" / "rows.jsonl")
    assert {(row["model"], row["attack"]) for row in rows} == {
        (model, attack) for model in ("RT (full batch)", "SRT") for attack in ("none", "FGSM", "worst")
    }
    assert "jaxrobust reproduce srt_mnist --only pixels --seeds 0 --data-dir DIR --num 40" in text
    assert "SRT − RT (full batch)" in text and "| FGSM |" in text
    assert (tmp_path / "out" / "pixels.png").stat().st_size < 500_000

    lines.clear()
    srt_mnist.reproduce(seeds=(0, 1), log_fn=lines.append, **options)
    assert [line for line in lines if "already there" in line] == [
        "pixels, RT (full batch), seed 0: already there.",
        "pixels, SRT, seed 0: already there.",
    ]
    later = read_rows(tmp_path / "out" / "rows.jsonl")
    assert later[: len(rows)] == rows and len(later) == 2 * len(rows)
    assert "±" in (tmp_path / "out" / "README.md").read_text()

    # A clone has the rows but no run.
    cells = srt_mnist.cells(("pixels",), (0, 1), tmp_path / "runs", 40)
    clone = srt_mnist.cells(("pixels",), (0, 1), tmp_path / "absent", 40)
    table, again = (
        _results.difference_table(later, "pixels", known, "SRT", "RT (full batch)")
        for known in (cells, clone)
    )
    assert table == again and "| FGSM |" in table and "Left out" not in table
    bare = [{name: value for name, value in row.items() if name != "right"} for row in later]
    assert _results.difference_table(bare, "pixels", cells, "SRT", "RT (full batch)") == table
    without = _results.difference_table(bare, "pixels", clone, "SRT", "RT (full batch)")
    assert "| FGSM |" not in without and "Left out" in without and "FGSM (seed 1)" in without


def _on_one_device(experiment, folder, **options):
    from jaxrobust.experiments.run import train
    from jaxrobust.training import Runtime

    options["runtime"] = Runtime(num_devices=1)
    return train(experiment, folder, progress=False, **options)


def test_every_cell_of_the_tables_differs_in_what_it_should(tmp_path):
    cells = srt_mnist.cells(("pixels", "spatial"), (0, 1), tmp_path, 100)
    assert len({cell.key for cell in cells}) == len({cell.folder for cell in cells}) == 20
    for part in ("pixels", "spatial"):
        shared = {
            json.dumps([str(c.experiment.model), c.experiment.num_steps, c.experiment.batch_size])
            for c in cells
            if c.part == part
        }
        assert len(shared) == 1
