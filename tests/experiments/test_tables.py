"""The paper's tables and figures: what they are made of, what they say, and one made from end to end."""

import json
import re

import numpy as np
import pytest
from scipy import stats

from jaxrobust import data, training
from jaxrobust.data import BatchSizes
from jaxrobust.experiments import _results, codec
from jaxrobust.experiments._files import read_rows
from jaxrobust.experiments.tables import SPECS, Scale, cost, measure, plan, reproduce
from jaxrobust.experiments.tables.claims import Verdict, judge, over_images
from jaxrobust.experiments.tables.numbers import Numbers
from jaxrobust.experiments.tables.published import PUBLISHED
from jaxrobust.experiments.tables.settings import Kind, setting
from jaxrobust.experiments.tables.spec import Claim, Place

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
    claims = spec.claims(rows, spec.datasets[0])
    assert len({(claim.title, claim.first, claim.second) for claim in claims}) == len(claims) > 0
    for claim in claims:
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
        for name in ("table2", "table3", "table5", "table6", "figure6", "figure7", "figure8")
    ]
    two, three, _, six, figure, seven, growth = folders
    assert two["standard"] == three["standard"] == figure["pixels/standard"] == seven["pixels/standard"]
    assert three["rt_full"] == growth["srt@0"]
    assert three["srt"] == figure["pixels/srt"] == growth["srt@58000"]
    assert six["srt"] == figure["geometry/srt"] != three["srt"]
    assert two["srt@0.2"] != two["srt@0.8"] == three["srt"]
    assert len({folder for table in folders for folder in table.values()}) <= 29


def test_the_first_seed_of_all_comes_before_the_further_ones_of_rivals(tmp_path):
    spec = SPECS["table3"]
    rows = spec.make_rows("mnist", Scale.SMALL)
    jobs = plan.plan(spec, rows, tmp_path, plan.SIZES[Scale.SMALL], (0, 1, 2))
    assert [job.experiment.seed for job in jobs] == [0] * len(rows) + [1] * 3 + [2] * 3
    # UAT++ is the source's best rival under PGD on MNIST, RST on CIFAR-10.
    assert {job.row.key for job in jobs[len(rows) :]} == {"rt_full", "uat", "srt"}
    assert {r.key for r in spec.make_rows("cifar10", Scale.SMALL) if r.rival} == {"rt_full", "rst", "srt"}
    fast, *slow = jobs[0].cells
    assert fast.num == 2000 and {cell.num for cell in slow} == {200}
    # An interruption loses one slow attack.
    assert [cell.attacks for cell in slow][-1] == ("autoattack",) and all(len(c.attacks) == 1 for c in slow)
    assert [cell.attacks for cell in jobs[-1].cells] == [fast.attacks]


def test_the_modern_recipes_make_the_same_passes_and_meet_autoattack_from_every_seed(tmp_path):
    spec = SPECS["modern"]
    rows = spec.make_rows("mnist", Scale.SMALL)
    sizes = data.BatchSizes(labelled=21, unlabelled=107)
    assert len({cost.training_passes(row.experiment, sizes) for row in rows}) == 1
    assert {row.experiment.num_steps for row in rows} == {500}
    assert [row.experiment.ema_decay for row in rows] == [0.0, 0.96, 0.96, 0.96]
    # It is reached before the middle of the run: until then the average forgets faster (`make_train_step`).
    for row in rows[1:]:
        middle = row.experiment.num_steps / 2
        assert (1 + middle) / (10 + middle) > row.experiment.ema_decay
    assert rows[3].experiment.objective.attack.loss_fn is rows[3].experiment.objective.robust_loss_fn
    # SRT itself is the one of the published table.
    of_table3 = {row.key: row.experiment for row in SPECS["table3"].make_rows("mnist", Scale.SMALL)}
    assert plan.folder_of(rows[0].experiment, tmp_path) == plan.folder_of(of_table3["srt"], tmp_path)
    jobs = plan.plan(spec, rows, tmp_path, plan.SIZES[Scale.SMALL], (0, 1, 2))
    assert len(jobs) == 12
    assert all([cell.attacks for cell in job.cells] == [("none", "pgd"), ("autoattack",)] for job in jobs)


@pytest.mark.parametrize("name", ["table2", "table5"])
def test_further_seeds_of_the_tables_of_lam_are_those_of_one_lam(name):
    # At `small` that of the tables of defences, so that the runs are the same.
    small = 0.8 if name == "table2" else 0.2
    for scale, lam in ((Scale.SMALL, small), (Scale.PAPER, 0.2)):
        rows = SPECS[name].make_rows("mnist", scale)
        assert {row.key for row in rows if row.rival} == {f"rt_full@{lam}", f"srt@{lam}"}
    assert [row.key for row in SPECS[name].make_rows("mnist", Scale.SMALL) if row.key[:3] == "rt@"] == [
        f"rt@{small}"
    ]


def test_claims_have_the_order_of_the_published_numbers_and_ours_are_marked():
    def claims(name, dataset):
        rows = SPECS[name].make_rows(dataset, Scale.SMALL)
        return [(c.text, c.second.attack) for c in SPECS[name].claims(rows, dataset) if not c.ours], [
            c for c in SPECS[name].claims(rows, dataset) if c.ours
        ]

    mnist, ours = claims("table3", "mnist")
    assert ("UAT++ over SRT", "ddn") in mnist and ("SRT over UAT++", "pgd") in mnist
    assert {c.second.attack for c in ours} == {"pgd", "autoattack"}
    cifar, _ = claims("table3", "cifar10")
    assert {("RST over SRT", "fgsm"), ("RST over SRT", "ddn"), ("SRT over RST", "pgd")} <= set(cifar)
    assert all("full batch" in c.text for c in claims("table2", "mnist")[1])
    # The margins of Figure 7 are MNIST's alone, beside the plain orderings.
    seven, other = claims("figure7", "mnist")[0], claims("figure7", "cifar10")[0]
    assert {text for text, _ in seven} - {text for text, _ in other} == {
        f"SRT+ ({t}) over AT+ ({t}) by {points} points" for t in ("T1", "T2") for points in (7, 10)
    }
    assert ("SRT+ (T1) over AT+ (T1)", "pgd_plus") in other
    assert [c.margin for c in claims("figure8", "mnist")[1]] == [-0.05]


def test_settings_of_the_scales():
    for kind in Kind:
        for dataset in ("mnist", "cifar10"):
            paper, gpu = (setting(dataset, scale, kind).base for scale in (Scale.PAPER, Scale.GPU))
            # With momentum 0.9, more than the root of 8 diverges without normalisation layers.
            assert gpu.optimizer.learning_rate <= 8**0.5 * paper.optimizer.learning_rate <= 0.3
            assert gpu.optimizer.clip is not None
            assert (type(gpu.model).__name__ == "PreActResNet18") == (dataset == "cifar10")
        small = {d: setting(d, Scale.SMALL, kind) for d in ("mnist", "cifar10")}
        assert small["cifar10"].base.labelled_per_step == 64 and small["cifar10"].lam_warmup > 0
        assert small["mnist"].base.labelled_per_step == 21 and small["mnist"].lam_warmup == 0
        # A short run sees its labels often only where they are few.
        assert small["mnist"].base.image_data.num_labelled == 1_000
    for name in ("table4", "table6"):
        rows = {row.key: row.experiment.objective for row in SPECS[name].make_rows("cifar10", Scale.SMALL)}
        assert all(o.lam_warmup == 0.4 for o in rows.values() if hasattr(o, "lam_warmup"))
    # AT of pixels is the same defence in the tables of geometry.
    assert rows["at"].warmup == 0.4 and rows["worst_of_k"].warmup == 0
    assert plan.SIZES[Scale.GPU].checkpoint_every < 100


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
        (80, 50, 0.0, Verdict.HOLDS),
        (50, 80, 0.0, Verdict.FAILS),
        (61, 60, 0.0, Verdict.NOISE),
        (80, 50, 0.29, Verdict.NOISE),
        (80, 50, 0.5, Verdict.FAILS),
        (58, 60, -0.2, Verdict.HOLDS),
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
    assert found.verdict is verdict and (found.basis, found.seeds) == ("images", 1)
    assert found.difference == pytest.approx((first - second) / 100)
    # |b - c| discordant images of one sign: the variance of the share d of 100 is d (1 - d) / 100.
    share = abs(first - second) / 100
    if share > 0.25:
        assert found.high - found.low == pytest.approx(
            2 * 1.96 * np.sqrt(share * (1 - share) / 100), rel=1e-3
        )


@pytest.mark.parametrize(("b", "c"), [(4, 0), (5, 0), (6, 0), (0, 6), (9, 2), (10, 2), (12, 3), (17, 7)])
def test_few_discordant_images_are_judged_by_mcnemars_exact_test(b, c):
    differences = np.array([1] * b + [-1] * c + [0] * (500 - b - c))
    low, high = over_images(differences)
    decided = low > 0 or high < 0
    assert decided == (stats.binomtest(b, b + c).pvalue < 0.05)
    assert low <= (b - c) / 500 <= high


def test_intervals_over_images_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    draws = rng.choice([-1, 0, 1], (1000, 400), p=(0.01, 0.95, 0.04))
    assert np.mean([low <= 0.03 <= high for low, high in map(over_images, draws)]) > 0.94


def test_with_several_seeds_the_wider_of_two_intervals_counts_and_without_rows_nothing_is_said():
    rows = {
        "a": [measured(np.arange(100) < 80 + seed, seed) for seed in (0, 1, 2)],
        "b": [measured(np.arange(100) < 60, seed) for seed in (0, 2)],
        "c": [],
        "d": [measured(np.arange(100) < 80, seed) for seed in (0, 2)],
    }

    def find(place):
        return rows[place.row]

    found = judge(Claim("", Place("a", "pgd"), Place("b", "pgd")), find)
    assert (found.basis, found.seeds) == ("seeds", 2) and found.difference == pytest.approx(0.21)
    # t(1) at 97.5% times sd / sqrt(2)
    assert found.high - found.difference == pytest.approx(12.706 * 0.01, rel=1e-3)
    # Seeds that agree to the image say nothing about other images.
    found = judge(Claim("", Place("d", "pgd"), Place("b", "pgd")), find)
    assert found.basis == "images" and found.high - found.low > 0.15
    assert judge(Claim("", Place("a", "pgd"), Place("c", "pgd")), find).verdict is Verdict.UNKNOWN


def results(job, **changed):
    """Rows as a job's measurement leaves them, of 20 images that are all right."""
    common = {"run_seed": job.experiment.seed, "model": job.row.title, "fingerprint": "f", "n": 20}
    common |= {"accuracy": 1.0, "right": _results.pack(np.ones(20, bool))}
    keys = job.keys
    labels = {attack: plan.label_of(attack, job.experiment) for attack in keys}
    return [{**common, "key": keys[a], "attack": labels[a], **changed} for a in keys]


def test_rows_of_other_settings_seeds_and_data_do_not_count(tmp_path):
    spec = SPECS["table2"]
    rows = spec.make_rows("digits", Scale.TINY)
    jobs = plan.plan(spec, rows, tmp_path, plan.SIZES[Scale.TINY], (0,))
    own = results(jobs[0])
    place = Place("standard", "pgd")
    assert [row["run_seed"] for row in Numbers(jobs, own, "f").at(place)] == [0]
    assert Numbers(jobs, own, "f").is_done(jobs[0]) and not Numbers(jobs, own, "f").is_done(jobs[1])
    # Another key, whatever model the row says it is of; other data under the same name; no flags.
    assert not Numbers(jobs, results(jobs[0], key="other"), "f").at(place)
    assert not Numbers(jobs, own, "g").at(place) and Numbers(jobs, own).at(place)
    assert not Numbers(jobs, [{k: v for k, v in row.items() if k != "right"} for row in own]).at(place)
    other = plan.plan(spec, rows, tmp_path, plan.SIZES[Scale.TINY], (1,))
    assert not Numbers(other, own).at(place)


def test_a_model_that_diverges_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    def run_job(job, path, **options):
        if job.row.key == "standard":
            raise training.Diverged(7, {"loss": float("nan")})
        _results.replace_rows(path, [{**one, **ROW} for one in results(job)], ("key", "attack"))

    monkeypatch.setattr(measure, "run_job", run_job)
    said = []
    with pytest.raises(ValueError, match=r"1 of 2 models failed, the others are done\. Standard, seed 0"):
        reproduce(
            "table2", runs_dir=tmp_path / "runs", out_dir=tmp_path / "out", scale="tiny",
            only="standard,srt@0.8", log_fn=lambda text: said.append(str(text)),
        )  # fmt: skip
    assert any("1 of 2 models done, 1 failed" in line for line in said)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "**Failed: Standard, seed 0.**" in text and "| SRT, λ 0.8 | 100.0 |" in text
    assert "Not measured yet: RT (source), λ 0.2, seed 0;" in text


ROW = {
    "fingerprint": "", "accuracy_low": 0.8, "accuracy_high": 1.0, "radius": "", "seconds": 1.0,
    "train_seconds": None, "train_resumed_at": None, "train_versions": None, "train_hardware": None,
    "versions": {"jax": "1"}, "hardware": "cpu", "warnings": ["step_size"],
}  # fmt: skip


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
    assert "jaxrobust reproduce table2 --scale tiny --only standard,srt@0.8" in text
    assert "Not measured yet: RT (source), λ 0.2, seed 0;" in text
    assert "- net: TinyCNN" in text and "- checkpoint: the last" in text and "fingerprint" in text
    assert re.search(r"\| SRT, λ 0.8 \| [\d.]+ \| [\d.]+ \| [\d.]+ \|", text)
    document = json.loads((tmp_path / "out" / "table.json").read_text())
    assert {cell["row"] for cell in document["cells"]} == {"standard", "srt@0.8"}
    rows = read_rows(tmp_path / "out" / "rows.jsonl")
    assert all(row["fingerprint"] and row["train_hardware"] and row["train_versions"] for row in rows)
    said.clear()
    # What else lies in the file is not on the page.
    stale = [{**row, "key": "stale", "accuracy": 0.123} for row in rows]
    _results.write_rows(tmp_path / "out" / "rows.jsonl", rows + stale)
    reproduce("table2", **options)
    assert (tmp_path / "out" / "README.md").read_text() == text
    _results.write_rows(tmp_path / "out" / "rows.jsonl", rows)
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
        ({"only": "str"}, "There is no row 'str'; the rows are standard, rt_full@0.2"),
        ({"jobs": 0}, "jobs"),
        ({"only": "SRT, λ 0.8,str"}, "There is no row 'str'"),
    ],
)
def test_bad_values_are_refused(options, message):
    given = {"name": "table2", "log_fn": print, "dry_run": True, **options}
    with pytest.raises(ValueError, match=message):
        reproduce(given.pop("name"), **given)


def test_a_dry_run_takes_titles_with_commas():
    tables = []
    reproduce("table2", scale="tiny", only="Standard,SRT, λ 0.8", dry_run=True, log_fn=tables.append)
    assert [str(cell) for cell in tables[0].columns[0].cells][:2] == ["Standard", "SRT, λ 0.8"]


def test_passes_of_a_step_are_those_of_its_objective():
    rows = {row.key: row.experiment for row in SPECS["figure7"].make_rows("mnist", Scale.SMALL)}
    srt, at = rows["composite/srt_t1"], rows["composite/at_t1"]
    assert cost.passes(srt.objective.attack) == (10, 10)
    sizes = BatchSizes(labelled=20, unlabelled=80)
    assert cost.training_passes(srt, sizes) == (1100, 1000 + 150 + 30)
    assert cost.training_passes(at, BatchSizes(labelled=100, unlabelled=0)) == (1000, 1000 + 150)
    (source,) = (r.experiment for r in SPECS["table2"].make_rows("mnist", Scale.SMALL) if r.key[:3] == "rt@")
    # The source's RT has the labelled images of a mixed batch alone.
    sizes = source.batch_sizes(1_000, 58_000)
    assert cost.training_passes(source, sizes).gradient == 21 * (10 + 3)


def test_a_teacher_is_counted_once_where_no_row_is_it(tmp_path, monkeypatch):
    monkeypatch.setattr(cost.Estimator, "_of", lambda *_: (0.0, 1.0))
    spec = SPECS["table3"]
    jobs = plan.plan(spec, spec.make_rows("digits", Scale.TINY), tmp_path, plan.SIZES[Scale.TINY], (0,))
    by_key = {job.row.key: job for job in jobs}

    def seconds(*keys):
        found = cost.estimate([by_key[key] for key in keys], tmp_path, None)
        return [found[by_key[key].folder].training for key in keys]

    alone, (_, beside), (_, second) = seconds("rst"), seconds("standard", "rst"), seconds("uat", "rst")
    assert alone[0] - beside == pytest.approx(seconds("standard")[0]) and second == beside
