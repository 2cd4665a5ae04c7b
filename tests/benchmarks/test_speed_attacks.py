"""The attacks' speed benchmark on results made up for it, and its workers on a tiny model."""

import dataclasses
import doctest
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import attacks
from benchmarks._parity import export, store
from benchmarks._speed import cases, equality, measure, problem, results, side_ours, sources, table, worker
from benchmarks._speed.protocol import WorkerFailed
from jaxrobust.models import SmallCNN, build

MODEL, SHAPE, NUM = "mnist-srt", (18, 20, 1), 6
MODULE = SmallCNN(widths=(3, 5), hidden=7)


@pytest.fixture(scope="module")
def params():
    return build(MODULE, SHAPE).init(jax.random.key(0))[0]


@pytest.fixture
def root(tmp_path, params):
    """A prepared model of random weights with six images, each labelled as it is classified."""
    images = np.random.default_rng(0).random((NUM, *SHAPE), np.float32)
    logits = np.asarray(export.plain_logits(export.to_plain(params), images))
    problem.save(
        tmp_path,
        MODEL,
        export.to_torch(params, MODULE, SHAPE),
        {"module": "SmallCNN", "fields": {"widths": [3, 5], "hidden": 7}},
        images=images,
        labels=logits.argmax(-1).astype(np.int32),
        logits=logits,
    )
    return tmp_path


def task(case="pgd", **changes):
    made = cases.task(MODEL, case)
    return dataclasses.replace(made, num_images=NUM, **{"rounds": 2, "seeds": 1, **changes})


# --- a worker


def test_a_worker_attacks_saves_and_judges(root):
    session = worker.Session(root, "ours")
    assert session.load(MODEL)["has"]
    session.prepare("fgsm", 4, 0.3, {})
    answer = session.run(0, least=0.0)
    assert answer["calls"] == 1 and answer["seconds"] > 0
    session.save(str(root / "ours-0.npz"))
    session.judge([str(root / "ours-0.npz")], str(root / "verdicts.npz"))
    found, made = store.read_arrays(root / "ours-0.npz")["images"], problem.load(root, MODEL, 4)
    assert found.shape == (4, *SHAPE) and np.abs(found - made.images).max() == pytest.approx(0.3, abs=1e-6)
    assert store.read_arrays(root / "verdicts.npz")["ours-0"].shape == (4,)
    assert session.difference() < 1e-5
    session._last = found[:3]
    with pytest.raises(ValueError, match=r"images \(3, 18, 20, 1\) instead of \(4, 18, 20, 1\)"):
        session.save(str(root / "ours-1.npz"))


def test_the_limits_are_passes_of_the_same_model(root):
    limits = worker.Limits(root)
    known = limits.about([dataclasses.asdict(task("pgd")), dataclasses.asdict(task("jsma"))])
    assert list(known["tasks"]) == [f"{MODEL}:pgd"]  # how many passes JSMA makes, the images decide
    limits.load(MODEL)
    limits.prepare("pgd", 2, 0.3, {})
    seconds = limits.run(0, least=0.0)["seconds"]
    assert {"gradient", "forward", "forward, plain jit", "forward of JAX's layers"} <= set(seconds)
    assert min(seconds.values()) > 0


def test_every_case_is_ours_and_its_budget_is_taken():
    assert set(side_ours.ATTACKS) == set(cases.CASES)
    for model, case in cases.selected([]):
        for toy in (False, True):
            made = cases.task(model, case, toy=toy)
            attack = side_ours.ATTACKS[case][1](made.eps, made.settings)
            assert hash(attack) is not None
    grid = side_ours.ATTACKS["grid_adv"][1](1.0, cases.task(MODEL, "grid_adv").settings)
    assert np.prod(grid.granularity) == 775 == cases.task(MODEL, "grid_adv").passes.forwards
    first = side_ours.ATTACKS["grid_first"][1](1.0, cases.task(MODEL, "grid_first").settings)
    assert first == dataclasses.replace(grid, stop_at_success=True)
    assert side_ours.evaluated(
        side_ours.ATTACKS["autoattack"][1](0.3, cases.task(MODEL, "autoattack").settings)
    )


def test_the_code_of_a_case_is_that_of_its_attack(root):
    session = worker.Session(root, "ours")
    known = session.about([dataclasses.asdict(task(name)) for name in ("pgd", "mi_fgsm")])["tasks"]
    assert known[f"{MODEL}:pgd"]["source"] != known[f"{MODEL}:mi_fgsm"]["source"]
    assert known[f"{MODEL}:pgd"]["called"] == "PGD"
    pgd = side_ours.ATTACKS["pgd"][1](0.3, cases.task(MODEL, "pgd").settings)
    plain, evaluated = (sources.of_attack(pgd, "SmallCNN", evaluated=how) for how in (False, True))
    assert plain != evaluated


# --- one task, with made-up workers


class Fake:
    """Answers as a worker does: times are given, the images a constant away from the clean ones."""

    seconds, moved, difference, fails = 1.0, 0.0, 0.0, False

    def __init__(self, root, library):
        self.root, self.library, self.closed, self.runs = root, library, False, 0

    def ask(self, verb, **what):
        return getattr(self, f"on_{verb}")(**what)

    def on_load(self, model):
        self.made = problem.load(self.root, model)
        return {"has": True, "resident": 100 * 2**20}

    def on_prepare(self, case, count, eps, settings):
        self.count = count

    def on_run(self, seed, least=0.3):
        self.runs += 1
        if self.fails and self.runs > 1:
            raise WorkerFailed("out of memory")
        if self.library == cases.LIMITS:
            return {"seconds": {"gradient": 0.02, "forward": 0.01, "forward, plain jit": 0.008}}
        # The first call compiles for 9 seconds.
        seconds = self.seconds * self.runs if self.runs > 1 else 9.0 + 2.5 * self.seconds
        return {"seconds": seconds, "calls": 1, "cores": 2.0, "peak": 150 * 2**20, "peak_of_run": True}

    def on_save(self, path):
        store.write_arrays(
            path=measure.Path(path), images=np.clip(self.made.images[: self.count] + self.moved, 0, 1)
        )

    def on_difference(self):
        return self.difference

    def on_judge(self, paths, into):
        found = {}
        for path in map(measure.Path, paths):
            images = store.read_arrays(path)["images"]
            labels = self.made.labels[: len(images)]
            moved = np.abs(images - self.made.images[: len(images)]).max((1, 2, 3)) > 0.05
            found[path.stem] = np.where(moved, labels + 1, labels)
        store.write_arrays(measure.Path(into), **found)

    def close(self):
        self.closed = True


KNOWN = {"versions": {"jax": "1"}, "tasks": {f"{MODEL}:pgd": {"called": "PGD", "source": "s"}}}


@pytest.fixture
def fakes(root, monkeypatch):
    """`fakes(name={attribute: value})` makes workers of these; they are returned by name."""

    def install(**kinds):
        started = {}

        def start(root_, library):
            started[library] = type(library, (Fake,), kinds[library])(root_, library)
            return started[library]

        monkeypatch.setattr(measure, "start", start)
        return started

    return install


def run(root, what, *names):
    return measure.measure(root, what, dict.fromkeys(names, KNOWN), pause=0.0)


def test_a_record_has_times_memory_and_ratios(root, fakes):
    kinds = {
        "ours": {"seconds": 1.0, "moved": 0.1},
        "foolbox": {"seconds": 3.0, "moved": 0.1},
        "art": {"seconds": 2.0, "moved": 0.0},
        "limits": {},
    }
    started = fakes(**kinds)
    record = run(root, task(), *kinds)
    assert record["libraries"]["ours"]["seconds"] == [2.0, 3.0] and record["failed"] == {}
    assert all(one.closed for one in started.values())
    (one,) = results.collect(root, [task()])
    rows = {row["library"]: row for row in one["rows"]}
    assert rows["ours"]["images_per_second"] == {"min": 2.0, "median": 2.5, "max": 3.0}
    assert rows["ours"]["compile_seconds"] == pytest.approx(9.0) and rows["ours"]["growth_mb"] == 50
    assert rows["foolbox"]["ratio"]["median"] == 3.0 and rows["foolbox"]["same"]
    # ART is faster, but fools nobody: it is shown, and does not count.
    assert rows["art"]["success"] == 0 and rows["ours"]["success"] == 1 and not rows["art"]["same"]
    assert one["fastest"] == one["fastest_library"] == "foolbox"
    limit = one["limit"]
    assert limit["fastest_forward"] == "forward, plain jit"
    assert limit["over_passes"]["min"] == pytest.approx(2.0 / (20 * 0.02))
    assert limit["step_over_forward"]["max"] == pytest.approx(3.0 / 20 / 0.008)


def test_a_library_that_fails_is_left_out_and_the_task_runs_again(root, fakes):
    fakes(ours={"moved": 0.1}, foolbox={"fails": True}, art={"difference": 0.5})
    known = dict.fromkeys(("ours", "foolbox", "art"), KNOWN)
    record = measure.measure(root, task(), known, pause=0.0)
    assert record["failed"]["foolbox"] == "out of memory" and "differ by 0.5" in record["failed"]["art"]
    assert list(record["libraries"]) == ["ours"]
    assert not measure.is_current(root, task(), measure.key(root, task(), known))
    (one,) = results.collect(root, [task()])
    assert one["fastest"] is None and results.bars([{**one, "limit": None}]) == []


def test_a_task_is_kept_until_what_decides_it_changes(root, fakes):
    fakes(ours={"moved": 0.1}, foolbox={"moved": 0.1})
    known = dict.fromkeys(("ours", "foolbox"), KNOWN)
    measure.measure(root, task(), known, pause=0.0)

    def current(what, known):
        return measure.is_current(root, what, measure.key(root, what, known))

    assert current(task(), known)
    assert current(dataclasses.replace(task(), title="other words", bar=9.0), known)
    assert not current(task(rounds=3), known)
    assert not current(task(settings={"steps": 21, "step": 0.1}), known)
    other = {f"{MODEL}:pgd": {"called": "PGD", "source": "edited"}}
    assert not current(task(), known | {"ours": {**KNOWN, "tasks": other}})
    assert not current(task(), known | {"foolbox": {**KNOWN, "versions": {"jax": "2"}}})
    # A record of other settings is in the table, but its bars are not judged.
    (one,) = results.collect(root, [task(settings={"steps": 21, "step": 0.1})])
    assert one["asked_otherwise"] and results.bars([one]) == []


def test_successes_are_averaged_over_the_seeds(root, fakes):
    started = fakes(ours={"moved": 0.1}, foolbox={"moved": 0.1})
    run(root, task(seeds=5), "ours", "foolbox")
    assert started["ours"].runs == 5  # two rounds after the first call, and two more for the seeds
    found = store.read_arrays(measure.record_path(root, task()).with_suffix(".npz"))
    assert found["ours"].shape == (5, NUM)


def test_a_library_may_take_fewer_images_and_is_compared_on_those(root, fakes):
    fakes(ours={"moved": 0.1, "seconds": 1.0}, art={"moved": 0.1, "seconds": 1.0})
    what = task(fewer={"art": 2})
    run(root, what, "ours", "art")
    (one,) = results.collect(root, [what])
    art = next(row for row in one["rows"] if row["library"] == "art")
    assert art["images"] == 2 and art["same"] and art["ratio"]["median"] == NUM / 2


def test_the_fastest_is_so_by_the_image(root, fakes):
    fakes(
        ours={"moved": 0.1},
        art={"moved": 0.1, "seconds": 2.0},
        pytorch={"moved": 0.1, "seconds": 3.0},
    )
    what = task(fewer={"art": 2})
    run(root, what, "ours", "art", "pytorch")
    (one,) = results.collect(root, [what])
    assert NUM > 3 and one["fastest"] == "pytorch"


# --- equality


def test_one_point_of_256_images_is_two_and_a_half_images():
    ours = np.ones((1, 256), bool)
    for wrong, same in ((2, True), (3, False)):
        peer = ours.copy()
        peer[0, :wrong] = False
        found = equality.compare(ours, peer)
        assert found["same"] is same and found["difference"] == pytest.approx(wrong / 256)
    low, high = found["interval"]
    assert low < 3 / 256 < high


def test_random_weights_are_compared_image_by_image():
    ours, peer = np.zeros((1, 32), bool), np.zeros((1, 32), bool)
    ours[0, :4], peer[0, 4:8] = True, True
    assert equality.compare(ours, peer)["same"]
    found = equality.compare(ours, peer, by_verdicts=True)
    assert not found["same"] and found["agreement"] == 0.75


def test_random_weights_with_several_seeds_are_compared_seed_by_seed():
    """Equal rates of other images show nothing there, whether chance or a mistake keeps them apart."""
    ours = np.zeros((3, 32), bool)
    ours[:, :4] = True
    assert equality.compare(ours, ours.copy(), by_verdicts=True)["same"]
    other = np.roll(ours, 4, axis=1)
    found = equality.compare(ours, other, by_verdicts=True)
    assert found["difference"] == 0 and found["agreement"] == 0.75 and not found["same"]
    assert equality.compare(ours, other)["same"]
    fewer = equality.compare(ours, ours[:1], by_verdicts=True)
    assert fewer["agreement"] is None and not fewer["same"]


def test_an_image_beyond_the_radius_or_the_box_is_no_success():
    clean = np.full((4, 2, 2, 1), 0.5, np.float32)
    images = clean + np.array([0.3, 0.31, 0.2, 0.6], np.float32).reshape(4, 1, 1, 1)
    wrong = np.array([True, True, False, True])
    found = equality.lengths("linf", clean, images, wrong)
    assert equality.successes(0.3, found).tolist() == [True, False, False, False]


# --- tables


def test_the_table_says_who_is_ahead_and_who_is_not_the_same(root, fakes):
    kinds = {
        "ours": {"seconds": 1.0, "moved": 0.1},
        "pytorch": {"seconds": 1.2, "moved": 0.1},
        "foolbox": {"seconds": 2.0, "moved": 0.1},
        "art": {"seconds": 9.0, "moved": 0.0},
        "limits": {},
    }
    fakes(**kinds)
    run(root, task(), *kinds)
    counts = table.write(root, root / "out", "the command", [task()], {"seed": "0"})
    assert counts == {"rows": 5, "bars": 4, "met": 1}
    text = (root / "out" / "README.md").read_text()
    assert "the command" in text and "**1 of 4 bars are met.**" in text
    assert "against PyTorch by hand: 1.20 (1.20 to 1.20), asked for at least 1.5: **missed**" in text
    assert "against Foolbox, PyTorch, the fastest library: 2.00 (2.00 to 2.00)" in text
    assert "(9.00 (9.00 to 9.00): not the same) | 0.0 | **-100.0" in text
    saved = [json.loads(line) for line in (root / "out" / "rows.jsonl").read_text().splitlines()]
    assert [row["library"] for row in saved] == ["ours", "pytorch", "foolbox", "art", "limits"]


def test_an_empty_table_claims_nothing(root):
    assert table.write(root, root / "out", "the command", [task()], {}) == {"rows": 0, "bars": 0, "met": 0}
    assert "No bar can be judged yet." in (root / "out" / "README.md").read_text()


# --- selection


def test_a_selection_that_matches_nothing_says_what_there_is():
    with pytest.raises(ValueError, match="mnist-srt"):
        cases.selected(["mnist:pgd"])
    assert len(cases.selected(["*:autoattack"])) == 2


def test_examples():
    for module in (cases, equality, table):
        assert doctest.testmod(module).failed == 0


def test_the_command_loads_neither_jax_nor_torch():
    code = (
        "import sys, benchmarks.attacks, benchmarks.training, benchmarks.growth; "
        "print({'jax', 'torch'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.strip() == "set()", ran.stderr


@pytest.mark.slow
def test_the_command_measures_what_is_installed_and_keeps_it(root, monkeypatch, capsys):
    monkeypatch.setattr(attacks, "_prepare", lambda *args: None)
    monkeypatch.setattr(cases, "LIBRARIES", {"ours": "ours", "none_such": "no library"})
    arguments = ["--toy", "--root", str(root), "--only", f"{MODEL}:fgsm"]
    assert attacks.main(arguments) == 0
    said = capsys.readouterr().out
    assert "left out: none_such" in said and f"{MODEL}:fgsm: ours" in said and "1 of" not in said
    attacks.main(arguments)
    assert f"{MODEL}:fgsm: kept" in capsys.readouterr().out
