"""The paper's tables and figures: what they are made of, what they say, and one made from end to end."""

import json
import re

import numpy as np
import pytest

from jaxrobust.experiments import _results, codec
from jaxrobust.experiments._files import read_rows
from jaxrobust.experiments.tables import SPECS, Scale, cost, plan, reproduce
from jaxrobust.experiments.tables.claims import Verdict, judge
from jaxrobust.experiments.tables.published import PUBLISHED
from jaxrobust.experiments.tables.specs import Claim, Place

PLACES = [(name, dataset) for name, spec in SPECS.items() for dataset in spec.datasets]


@pytest.mark.parametrize(("name", "dataset"), PLACES)
def test_every_published_row_is_a_row_at_paper_scale(name, dataset):
    rows = {row.key: row for row in SPECS[name].make_rows(dataset, Scale.PAPER)}
    published = PUBLISHED.get(name, {}).get(dataset, {})
    assert published.keys() <= rows.keys()
    columns = {column.published for column in SPECS[name].columns}
    assert all(accuracies.keys() <= columns for accuracies in published.values())
    assert all(row.experiment.data.dataset == dataset for row in rows.values())


@pytest.mark.parametrize("scale", Scale)
@pytest.mark.parametrize("name", SPECS)
def test_rows_of_a_table_have_keys_titles_and_runs_of_their_own(name, scale):
    spec = SPECS[name]
    rows = spec.make_rows(spec.datasets[0], scale)
    for of in (
        [row.key for row in rows],
        [row.title for row in rows],
        [json.dumps(codec.training_json(row.experiment), sort_keys=True) for row in rows],
    ):
        assert len(set(of)) == len(of)
    for claim in spec.claims(rows):
        assert {claim.first.row, claim.second.row} <= {row.key for row in rows}
        attacks = {column.attack for column in spec.columns} | set(spec.curves)
        assert {claim.first.attack, claim.second.attack} <= attacks


def test_rows_of_a_table_differ_in_their_defence_alone():
    rows = SPECS["table3"].make_rows("mnist", Scale.SMALL)
    for name in ("model", "optimizer", "num_steps", "batch_size", "data"):
        assert len({str(getattr(row.experiment, name)) for row in rows}) == 1
    by_key = {row.key: row.experiment for row in rows}
    assert by_key["srt"].objective.attack == by_key["at"].objective.attack
    assert by_key["rst"].teacher == by_key["uat"].teacher
    assert codec.training_json(by_key["rst"].teacher) == codec.training_json(by_key["standard"])


def test_tables_share_the_runs_of_equal_models(tmp_path):
    folders = [
        {
            row.key: plan.folder_of(row.experiment, tmp_path)
            for row in SPECS[name].make_rows("mnist", Scale.SMALL)
        }
        for name in ("table2", "table3", "table6", "figure6", "figure8")
    ]
    two, three, six, figure, growth = folders
    assert two["standard"] == three["standard"] == figure["pixels/standard"]
    assert three["srt"] == figure["pixels/srt"] == growth["srt@49000"]
    assert six["srt"] == figure["geometry/srt"] != three["srt"]
    assert two["srt@0.2"] != two["srt@0.8"]


def test_the_first_seed_of_all_comes_before_the_further_ones_of_rivals(tmp_path):
    spec = SPECS["table3"]
    rows = spec.make_rows("mnist", Scale.SMALL)
    jobs = plan.plan(spec, rows, tmp_path, plan.SIZES[Scale.SMALL], (0, 1, 2))
    assert [job.experiment.seed for job in jobs] == [0] * len(rows) + [1] * 3 + [2] * 3
    assert {job.row.key for job in jobs[len(rows) :]} == {"rt_full", "rst", "srt"}
    fast, slow = jobs[0].cells
    assert (fast.num, slow.num) == (2000, 500) and "autoattack" in slow.attacks
    assert [cell.attacks for cell in jobs[-1].cells] == [fast.attacks]


def measured(right, seed=0):
    right = np.asarray(right, bool)
    return {
        "run_seed": seed,
        "accuracy": float(right.mean()),
        "n": len(right),
        "right": _results.pack(right),
    }


@pytest.mark.parametrize(
    ("first", "second", "margin", "verdict"),
    [
        (80, 60, 0.0, Verdict.HOLDS),
        (60, 80, 0.0, Verdict.FAILS),
        (61, 60, 0.0, Verdict.NOISE),
        (80, 60, 0.19, Verdict.NOISE),
        (80, 60, 0.5, Verdict.FAILS),
    ],
)
def test_a_claim_is_judged_by_the_interval_of_the_difference(first, second, margin, verdict):
    """Of 100 images the first so many are right."""
    rows = {
        Place("a", "pgd"): [measured(np.arange(100) < first)],
        Place("b", "pgd"): [measured(np.arange(100) < second)],
    }
    claim = Claim("a over b", Place("a", "pgd"), Place("b", "pgd"), margin)
    found = judge(claim, rows.__getitem__)
    assert found.verdict is verdict and found.basis == "images"
    assert found.difference == pytest.approx((first - second) / 100)
    # |b - c| discordant images of one sign: the variance of the share d of 100 is d (1 - d) / 100.
    share = abs(first - second) / 100
    assert found.half == pytest.approx(1.96 * np.sqrt(share * (1 - share) / 100), rel=1e-3)


def test_with_several_seeds_the_interval_is_over_seeds_and_without_rows_nothing_is_said():
    rows = {
        "a": [measured(np.arange(100) < 80 + seed, seed) for seed in (0, 1, 2)],
        "b": [measured(np.arange(100) < 60, seed) for seed in (0, 2)],
        "c": [],
    }

    def find(place):
        return rows[place.row]

    found = judge(Claim("", Place("a", "pgd"), Place("b", "pgd")), find)
    assert found.basis == "seeds" and found.difference == pytest.approx(0.21)
    assert found.half == pytest.approx(12.706 * 0.01, rel=1e-3)  # t(1) at 97.5% times sd / sqrt(2)
    assert judge(Claim("", Place("a", "pgd"), Place("c", "pgd")), find).verdict is Verdict.UNKNOWN


def test_a_table_is_made_and_made_once(tmp_path):
    said = []
    options = {
        "runs_dir": tmp_path / "runs",
        "out_dir": tmp_path / "out",
        "scale": "tiny",
        "only": "standard,srt@0.8",
        "log_fn": lambda text: said.append(str(text)),
    }
    reproduce("table2", **options)
    assert "0 of 2 models done" in said[0] and any("2 of 2 models done" in line for line in said)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "jaxrobust reproduce table2 --scale tiny" in text
    assert re.search(r"\| SRT, λ 0.8 \| [\d.]+ \| [\d.]+ \| [\d.]+ \|", text)
    document = json.loads((tmp_path / "out" / "table.json").read_text())
    assert {cell["row"] for cell in document["cells"]} == {"standard", "srt@0.8"}
    rows = read_rows(tmp_path / "out" / "rows.jsonl")
    said.clear()
    reproduce("table2", **options)
    assert said == ["2 of 2 models done", f"Results: {tmp_path / 'out' / 'README.md'}"]
    assert read_rows(tmp_path / "out" / "rows.jsonl") == rows


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECS)
def test_every_table_and_figure_is_made_at_tiny_scale(name, tmp_path):
    reproduce(
        name, runs_dir=tmp_path / "runs", out_dir=tmp_path / "out", scale="tiny", log_fn=lambda text: None
    )
    document = json.loads((tmp_path / "out" / "table.json").read_text())
    rows = SPECS[name].make_rows("digits", Scale.TINY)
    assert {cell["row"] for cell in document["cells"]} == {row.key for row in rows}
    assert all(claim["verdict"] != "not measured" for claim in document["claims"])
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert pictures == (
        {"curves.png"} if SPECS[name].curves else {"growth.png"} if name == "figure8" else set()
    )


def test_a_dry_run_lists_what_is_to_do_and_does_nothing(tmp_path):
    tables = []
    reproduce(
        "table3", runs_dir=tmp_path / "runs", scale="tiny", only="at,srt", dry_run=True, log_fn=tables.append
    )
    assert not (tmp_path / "runs").exists()
    assert [str(cell) for cell in tables[0].columns[0].cells] == ["AT", "SRT", "total"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "table9"}, "table9"),
        ({"scale": "large"}, "large"),
        ({"dataset": "cifar10"}, "table2 is there for mnist, got dataset='cifar10'"),
        ({"only": "str"}, "There is no row 'str'; the rows are standard, rt@0.2"),
        ({"jobs": 0}, "jobs"),
    ],
)
def test_bad_values_are_refused(options, message):
    given = {"name": "table2", "log_fn": print, "dry_run": True, **options}
    with pytest.raises(ValueError, match=message):
        reproduce(given.pop("name"), **given)


def test_passes_add_up_over_stages():
    rows = {row.key: row.experiment for row in SPECS["figure7"].make_rows("mnist", Scale.SMALL)}
    attack = rows["composite/srt_t1"].objective.attack
    assert cost.passes(attack) == (10, 10)
    assert cost.training_passes(rows["composite/srt_t1"]) == (11, 13)
