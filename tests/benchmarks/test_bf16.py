"""The comparison of bfloat16 with float32 on a net of random weights: what it counts, and what it writes."""

import json

import jax
import numpy as np
import pytest

from benchmarks import bf16
from jaxrobust import evaluation
from jaxrobust.experiments import Run, registry
from jaxrobust.models import TinyCNN, build


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    experiment = registry.get("digits_srt")
    model = build(TinyCNN(widths=(4, 4), hidden=8), (8, 8, 1))
    params, stats = model.init(jax.random.key(0))
    names = tuple(map(str, range(10)))
    folder = tmp_path_factory.mktemp("run")
    run = Run(
        folder=folder,
        experiment=experiment,
        model=model,
        params=params,
        stats=stats,
        step=0,
        class_names=names,
    )
    return bf16.measure(run, ["none", "fgsm"], num=60, batch_size=60)


def test_a_row_has_three_accuracies_and_two_differences_of_the_same_images(rows):
    assert [row["attack"] for row in rows] == ["none", "FGSM", "worst"]
    for row in rows:
        for kind in ("bf16", "bf16_judged_float32"):
            change = row[f"{kind}_accuracy"] - row["float32_accuracy"]
            assert row[kind]["difference"] == pytest.approx(change)
            assert row[kind]["gained"] - row[kind]["lost"] == round(60 * change)
            assert row[kind]["low"] < change < row[kind]["high"]
    # Judged in float32, the clean images are the same images for the same model.
    assert rows[0]["bf16_judged_float32"]["gained"] == rows[0]["bf16_judged_float32"]["lost"] == 0


def test_it_writes_rows_and_a_page(rows, tmp_path):
    page = bf16.write(rows, tmp_path, "the command").read_text()
    assert "the command" in page and "| FGSM |" in page and "| worst of all |" in page
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == rows


def test_the_interval_covers_and_has_a_width_where_nothing_changed():
    same = np.ones(1000, bool)
    found = bf16.paired(same, same)
    assert found["low"] == -found["high"] and 0.001 < found["high"] < 0.003
    rng = np.random.default_rng(0)
    # Right with 80% and 77%, not independently: 3 in 4 images that change are lost.
    covered = 0
    for _ in range(400):
        kind = rng.choice(4, 300, p=[0.755, 0.015, 0.045, 0.185])
        interval = bf16.paired(np.isin(kind, [0, 1]), np.isin(kind, [0, 2]))
        covered += interval["low"] <= -0.03 <= interval["high"]
    assert 0.92 <= covered / 400 <= 0.98


def test_what_it_attacks_with_by_default_is_known():
    threat = registry.get("mnist_srt").threat
    assert len(evaluation.suite(evaluation.split_names(bf16.ATTACKS), threat)) == 5
