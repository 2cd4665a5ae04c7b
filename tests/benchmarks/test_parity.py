"""The parity benchmark's harness on results made up for it: bars, resumption, table; and the exports."""

import doctest
import json
import sys

import jax
import numpy as np
import pytest

from benchmarks._parity import bars, cases, export, side_ours, store, table, worker
from jaxrobust.models import SmallCNN, build, load_state_dict

MODEL, SHAPE = "mnist-srt", (18, 20, 1)
MODULE = SmallCNN(widths=(3, 5), hidden=7)


@pytest.fixture(scope="module")
def params():
    return build(MODULE, SHAPE).init(jax.random.key(0))[0]


@pytest.fixture
def root(tmp_path, params):
    """A prepared model of random weights with four images, each labelled as it is classified."""
    folder = store.model_dir(tmp_path, MODEL)
    images = np.random.default_rng(0).random((4, *SHAPE), np.float32)
    plain = export.to_plain(params)
    logits = np.asarray(export.plain_logits(plain, images))
    arrays = {f"{n}.{p}": leaf for n, pair in zip(export.LAYERS, plain) for p, leaf in zip("kb", pair)}
    store.write_arrays(folder / "weights.npz", **arrays)
    store.write_arrays(folder / "state_dict.npz", **export.to_torch(params, MODULE, SHAPE))
    labels = logits.argmax(-1).astype(np.int32)
    store.write_arrays(
        folder / "images.npz", images=images, labels=labels, logits=logits, digest=np.array("problem")
    )
    record = {"experiment": "e", "clean_accuracy": 0.5, "num_images": 4, "logits_plain_max_difference": 1e-6}
    store.write_json(folder / "problem.json", record | {"hardware": "a machine"})
    return tmp_path


# --- bars


def fixed(robust, n=200):
    found = np.arange(n) >= robust
    return {"n": n, "found": found, "lengths": np.ones(n), "resisted": ~found, "robust": robust}


def nearest(lengths):
    lengths = np.array(lengths, float)
    found = np.isfinite(lengths)
    return {"n": len(lengths), "found": found, "lengths": lengths, "resisted": ~found, "robust": 0}


@pytest.mark.parametrize(("ours", "met"), [(10, True), (11, True), (12, False)])
def test_half_a_point_of_200_images_is_one_image(ours, met):
    found = bars.compare(cases.CASES["fgsm"], fixed(ours), fixed(10))
    assert found["met"] is met


def test_a_missed_bar_is_chance_where_the_images_do_not_show_who_is_ahead():
    case = cases.CASES["fgsm"]
    # 1, 2 and 10 images of 200 more resist ours than the peer's, and none the other way round.
    assert not bars.compare(case, fixed(11), fixed(10))["chance"]  # the bar is met
    two = bars.compare(case, fixed(12), fixed(10))
    assert two["chance"] and two["difference_interval"][0] < 0 < two["difference_interval"][1]
    ten = bars.compare(case, fixed(20), fixed(10))
    assert not ten["chance"] and ten["difference_interval"][0] > 0
    # A difference that comes and goes with the seed counts as its mean.
    seeds = cases.CASES["pgd"].seeds
    flaky = fixed(0, 200 * seeds)
    flaky["resisted"][:10] = True
    flaky["robust"] = 10
    found = bars.compare(cases.CASES["pgd"], flaky, fixed(0, 200 * seeds))
    assert np.mean(found["difference_interval"]) == pytest.approx(10 / 200 / seeds)


def test_norms_longer_by_chance_are_told_from_norms_that_are_longer():
    case, rng = cases.CASES["cw"], np.random.default_rng(0)
    peer = rng.uniform(1, 3, 200)
    chance = rng.permutation(np.repeat([-1, 1], 100))
    noisy = bars.compare(case, nearest(peer * (1.02 + 0.25 * chance)), nearest(peer))
    longer = bars.compare(case, nearest(peer * (1.05 + 0.02 * chance)), nearest(peer))
    assert not noisy["met"] and noisy["chance"] and noisy["mean_interval"][0] < 1 < noisy["mean_interval"][1]
    assert not longer["met"] and not longer["chance"] and longer["mean_interval"][0] > 1.04
    three, ten = (nearest(np.where(np.arange(200) < n, np.inf, peer)) for n in (3, 10))
    assert not bars.compare(case, three, nearest(peer))["found_met"]
    assert bars.compare(case, three, nearest(peer))["chance"]
    assert not bars.compare(case, ten, nearest(peer))["chance"]


def test_norms_may_be_one_percent_larger_in_the_mean_and_in_the_median():
    case = cases.CASES["cw"]
    peer = nearest([1.0, 2.0, 3.0])
    assert bars.compare(case, nearest([1.01, 2.02, 3.03]), peer)["met"]
    mean_lost = bars.compare(case, nearest([1.0, 2.0, 3.1]), peer)
    assert not mean_lost["met"]
    assert mean_lost["median_ratio"] == 1.0 and mean_lost["mean_ratio"] > 1.01
    median_lost = bars.compare(case, nearest([0.5, 2.1, 3.0]), peer)
    assert not median_lost["met"] and median_lost["mean_ratio"] < 1


def test_what_one_side_did_not_find_is_out_of_the_mean_and_infinite_in_the_median():
    case = cases.CASES["cw"]
    found = bars.compare(case, nearest([1.0, 2.0, np.inf]), nearest([1.0, 9.0, 0.1]))
    assert found["both"] == 2 and found["mean_ours"] == 1.5 and found["mean_peer"] == 5.0
    assert found["median_ours"] == 2.0 and found["median_peer"] == 1.0
    assert not found["found_met"] and not found["met"]
    nobody = bars.compare(case, nearest([np.inf, np.inf]), nearest([np.inf, np.inf]))
    assert nobody["met"] and nobody["median_ratio"] is None
    only_ours = bars.compare(case, nearest([1.0, 1.0]), nearest([np.inf, np.inf]))
    assert only_ours["met"]


def test_an_image_beyond_the_radius_counts_as_robust_and_rounding_does_not():
    clean = np.full((3, 2, 2, 1), 0.5, np.float32)
    images = clean + np.array([0.3, 0.3 * (1 + 5e-6), 0.3 * (1 + 1e-4)], np.float32).reshape(3, 1, 1, 1)
    one = bars.measure(cases.CASES["pgd"], 0.3, clean, images, np.ones(3, bool))
    assert one["robust"] == 1 and one["outside"] == 1
    broken = images.copy()
    broken[0, 0, 0, 0] = np.nan
    assert bars.measure(cases.CASES["pgd"], 0.3, clean, broken, np.ones(3, bool))["robust"] == 2


def test_features_and_pixels_are_counted_apart():
    clean = np.zeros((1, 3, 3, 2), np.float32)
    images = clean.copy()
    images[0, 0, 0] = 1.0
    images[0, 1, 1, 0] = 0.5
    images[0, 2, 2, 0] = 1e-8
    assert bars.norms("l0", clean, images) == [3] and bars.norms("l0_pixels", clean, images) == [2]


# --- resumption


def run_ours(root, *names):
    return worker.main(root, "ours", [(MODEL, name) for name in names])


def test_a_result_is_made_once_and_again_when_its_settings_change(root, monkeypatch):
    calls = []
    real = side_ours.run
    monkeypatch.setattr(side_ours, "run", lambda *args: calls.append(args[0]) or real(*args))
    assert run_ours(root, "fgsm") == 0 and run_ours(root, "fgsm") == 0
    assert len(calls) == 1
    assert store.load_problem(root, MODEL).images.shape == (4, *SHAPE)
    monkeypatch.setitem(cases.EPS, "mnist", cases.EPS["mnist"] | {"linf": 0.1})
    assert run_ours(root, "fgsm") == 0
    assert len(calls) == 2 and calls[1].neighbourhood.eps == 0.1


def test_an_attack_that_raises_is_recorded_and_tried_again(root, monkeypatch):
    real = side_ours.run

    def fail(*args):
        raise RuntimeError("too bad")

    monkeypatch.setattr(side_ours, "run", fail)
    assert run_ours(root, "fgsm") == 1
    path = store.result_path(root, MODEL, "fgsm", "ours")
    assert store.read_json(path)["error"] == "RuntimeError: too bad"
    monkeypatch.setattr(side_ours, "run", real)
    assert run_ours(root, "fgsm") == 0
    assert "error" not in store.read_json(path)


def test_a_result_counts_for_the_code_it_uses_only():
    source = "A = 1\nB = 2\ndef f(x):\n    return x * A\nATTACKS = {'a': ('F', f), 'b': ('G', lambda x: B)}\n"
    same = source.replace("B = 2", "B = 3")
    other = source.replace("A = 1", "A = 5")
    assert (
        worker.entry_digest(source, "a") == worker.entry_digest(same, "a") != worker.entry_digest(other, "a")
    )
    assert worker.entry_digest(source, "b") != worker.entry_digest(same, "b")


def test_an_attack_depends_on_its_modules_and_on_what_they_import():
    attack = side_ours.make("pgd", "mnist")
    modules = worker.modules_of(attack)
    assert {"jaxrobust.attacks.pgd", "jaxrobust.neighbourhoods.lp", "jaxrobust.numerics.losses"} <= modules
    assert not any("cw" in name for name in modules)
    assert worker.source_digest(modules) != worker.source_digest(modules | {"jaxrobust.attacks.grid"})


def test_a_selection_that_matches_nothing_says_what_there_is():
    with pytest.raises(ValueError, match="mnist-srt"):
        cases.selected(["mnist:pgd"])
    assert cases.selected(["mnist-srt:pgd", "mnist-srt:pgd:ours"]) == [
        (MODEL, "pgd", library) for library in cases.LIBRARIES
    ]


# --- table


def save(root, name, library, images, **extra):
    case = cases.CASES[name]
    record = {"model": MODEL, "case": name, "library": library, "problem": "problem", "seconds": 1.0}
    record |= {"settings": case.budget("mnist"), "eps": case.eps("mnist")}
    record |= {"num_images": 200, "seeds": case.seeds}
    images = None if images is None else np.tile(images, (case.seeds, 1, 1, 1))
    store.save_result(root, MODEL, name, library, images, record | {"versions": {library: "1.0"}} | extra)


def test_the_table_shows_who_won_and_what_failed(root):
    problem = store.load_problem(root, MODEL)
    wrong, right = (problem.labels + 1) % 10, problem.labels
    near = np.clip(problem.images + 0.1, 0, 1)
    for library in ("ours", "foolbox"):
        save(root, "fgsm", library, near)
    save(root, "pgd", "ours", near)
    save(root, "pgd", "art", near)
    save(root, "cw", "ours", np.clip(problem.images + 0.01, 0, 1))
    save(root, "cw", "foolbox", np.clip(problem.images + 0.02, 0, 1))
    save(root, "cw", "art", None, error="ValueError: no")
    verdict = {f"{MODEL}/{where}": wrong for where in ("fgsm/ours", "pgd/art", "cw/ours", "cw/foolbox")}
    verdict |= {f"{MODEL}/fgsm/foolbox": right, f"{MODEL}/pgd/ours": right}
    verdict |= {key: np.tile(said, cases.CASES[key.split("/")[1]].seeds) for key, said in verdict.items()}
    for side in ("jax", "torch"):
        store.write_arrays(root / f"verdicts-{side}.npz", **verdict)
    rows = table.write(root, root / "out", "the command", {"seed": "0"})
    by_name = {(row["case"], row["library"]): row for row in rows}
    assert by_name["fgsm", "ours"]["robust"] == 0 and by_name["fgsm", "foolbox"]["robust"] == 4
    assert by_name["fgsm", "foolbox"]["against"]["met"] and not by_name["pgd", "art"]["against"]["met"]
    assert by_name["cw", "foolbox"]["against"]["mean_ratio"] < 0.6
    text = (root / "out" / "README.md").read_text()
    assert "2 of 3 comparisons meet their bars" in text
    assert "mnist-srt, PGD-40: **ART is ahead**, robust accuracy, ours higher by 100.0" in text
    assert "mnist-srt, cw, art: ValueError: no" in text
    assert "the command" in text and "foolbox 1.0" in text
    saved = [json.loads(line) for line in (root / "out" / "rows.jsonl").read_text().splitlines()]
    assert len(saved) == len(rows) == 7


def test_a_result_of_other_weights_is_not_counted(root):
    problem = store.load_problem(root, MODEL)
    save(root, "fgsm", "ours", problem.images, problem="another")
    for side in ("jax", "torch"):
        store.write_arrays(root / f"verdicts-{side}.npz", **{f"{MODEL}/fgsm/ours": problem.labels})
    (row,) = table.collect(root)
    assert "other weights" in row["error"] and "robust" not in row


def test_a_result_of_other_settings_is_not_counted(root):
    problem = store.load_problem(root, MODEL)
    save(root, "fgsm", "ours", problem.images, eps=0.1)
    save(root, "pgd", "ours", problem.images, seeds=1)
    for side in ("jax", "torch"):
        said = {f"{MODEL}/{name}/ours": problem.labels for name in ("fgsm", "pgd")}
        store.write_arrays(root / f"verdicts-{side}.npz", **said)
    rows = table.write(root, root / "out", "the command", {"seed": "0"})
    assert ["other settings" in row["error"] for row in rows] == [True, True]
    assert not (root / "out" / "rows.jsonl").read_text()
    store.write_json(root / "coverage" / "ours.json", {"offered": [], "compared": {"fgsm": "F", "pgd": "P"}})
    text = table.readme(root, rows, "", {})
    assert "mnist-srt, ours: fgsm, pgd" in text and "0 of 0 comparisons" in text


def test_accuracy_is_the_mean_over_seeds(root, monkeypatch):
    problem = store.load_problem(root, MODEL)
    seeds = cases.CASES["pgd"].seeds
    for library in ("ours", "foolbox"):
        save(root, "pgd", library, np.clip(problem.images + 0.1, 0, 1))
    said = np.tile(problem.labels, seeds)
    said[: len(problem.labels)] += 1
    verdict = {f"{MODEL}/pgd/{library}": said for library in ("ours", "foolbox")}
    for side in ("jax", "torch"):
        store.write_arrays(root / f"verdicts-{side}.npz", **verdict)
    ours, _ = table.collect(root)
    assert ours["robust_accuracy"] == 1 - 1 / seeds
    text = table.readme(root, table.collect(root), "", {})
    assert f"({4 * (seeds - 1) / seeds:g}/4)" in text


def test_every_case_is_ours_and_names_its_bars():
    assert set(side_ours.ATTACKS) == set(cases.CASES)
    for case in cases.CASES.values():
        assert case.bars and set(case.bars) <= {cases.ACCURACY, cases.NORM}


# --- exports


def test_the_plain_function_is_the_model(params):
    images = np.random.default_rng(1).random((5, *SHAPE), np.float32)
    expected = build(MODULE, SHAPE).apply(params, {}, images, train=False)[0].logits
    for fn in (export.plain_logits, export.naive_logits):
        np.testing.assert_allclose(fn(export.to_plain(params), images), expected, atol=1e-5)


def test_the_state_dict_reads_back(params, root):
    path = store.model_dir(root, MODEL) / "state_dict.npz"
    back, _ = load_state_dict(path, MODULE, image_shape=SHAPE)
    jax.tree.map(np.testing.assert_array_equal, dict(back), dict(params))


def test_the_saved_plain_classifier_is_read_back(root):
    problem = store.load_problem(root, MODEL)
    logits = export.load_plain(store.model_dir(root, MODEL))(problem.images)
    np.testing.assert_allclose(logits, problem.logits, atol=1e-5)


def test_the_twin_has_the_same_logits(root):
    pytest.importorskip("torch")
    from benchmarks._parity import twin

    net, difference = twin.load(root, MODEL)
    assert difference < 1e-5
    problem = store.load_problem(root, MODEL)
    y = twin.torch.from_numpy(problem.labels).long()
    victim = twin.Victim(net, twin.to_torch(problem.images), y, 10)
    assert not victim.fooled(victim.x).any()
    assert victim._replace(targeted=True).fooled(victim.x).all()


def test_examples():
    for module in (bars, cases):
        assert doctest.testmod(module).failed == 0


def test_the_harness_itself_loads_neither_jax_nor_torch():
    import subprocess

    code = "import sys, benchmarks.parity; print({'jax', 'torch'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
    )
