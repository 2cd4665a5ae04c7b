"""The training's speed benchmark: the same step in both, what is necessary, and what follows from times."""

import doctest

import jax
import numpy as np
import pytest

from benchmarks import training
from benchmarks._parity import store
from benchmarks._parity import worker as digests
from benchmarks._speed import (
    growth_worker,
    train_cases,
    train_data,
    train_limits,
    train_ours,
    train_table,
    train_worker,
)
from benchmarks._speed.protocol import WorkerFailed
from jaxrobust.objectives import AT, SRT, TRADES

TOY = {name: what.settings(toy=True) for name, what in train_cases.TRAININGS.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("training")
    store.write_arrays(made / "state_dict.npz", **train_data.state_dict())
    return made


def test_the_batch_is_256_in_the_sources_proportion():
    for what in train_cases.TRAININGS.values():
        settings = what.settings()
        assert settings["labelled"] + settings["unlabelled"] == 256
    srt = train_cases.TRAININGS["srt"].settings()
    assert srt["labelled"] / 256 == pytest.approx(1 / 6, abs=0.5 / 256)
    assert train_cases.passes("srt", srt) == {
        "input_gradient": 10,
        "forward": 1,
        "weights_labelled": 1,
        "weights_all": 1,
    }


def test_the_objectives_are_the_librarys_with_one_attack():
    kinds = {"at": AT, "trades": TRADES, "srt": SRT}
    for name, settings in TOY.items():
        objective = train_ours.objective_of(name, settings)
        assert isinstance(objective, kinds[name])
        assert (objective.attack.steps, objective.attack.neighbourhood.eps) == (2, 0.3)
        assert not objective.attack.keep_worst  # as the loop in PyTorch, which takes the last iterate
        # What is checked differs from what is timed by the start alone.
        fixed = train_ours.objective_of(name, settings, fixed=True).attack
        assert fixed.start_fn is train_ours.nudged_start and fixed.loss_fn is objective.attack.loss_fn


def test_the_weights_are_those_of_the_state_dict(folder):
    model, params = train_ours.weights(folder, 0.0)
    logits = model.apply(params, {}, np.zeros((1, *train_data.SHAPE), np.float32), train=False)[0].logits
    assert logits.shape == (1, 10) and not np.any(logits)  # no biases, so a black image has none
    assert float(np.std(params["conv1"]["kernel"])) == pytest.approx(np.sqrt(2 / 9), rel=0.2)


def test_a_record_is_made_again_when_code_of_the_update_changes(folder, monkeypatch):
    """Of the feed and what it draws with too."""
    seen, source = set(), digests._source
    monkeypatch.setattr(digests, "_source", lambda name: seen.add(name) or source(name))
    train_worker.Session(folder, train_cases.OURS).about("srt")
    of = {"training.step", "objectives.srt", "data.feed", "data.shuffle", "data.augment", "models.remat"}
    assert {f"jaxrobust.{name}" for name in of} <= seen
    seen.clear()
    growth_worker.Session("devices").about()
    of = of - {"objectives.srt"} | {"objectives.at", "training.optimizers"}
    assert {f"jaxrobust.{name}" for name in of} <= seen


@pytest.mark.slow
@pytest.mark.parametrize("name", TOY)
def test_update_and_step_train_and_the_passes_run(folder, name):
    for make in (train_ours.update, train_ours.step):
        one = make(name, TOY[name], folder)
        one()
        one()
    for call in train_limits.programs(name, TOY[name], folder).values():
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(call()))


@pytest.mark.slow
@pytest.mark.parametrize("name", TOY)
def test_a_step_without_chance_is_the_same_in_pytorch(folder, name):
    torch = pytest.importorskip("torch")
    from benchmarks._speed.train_pytorch import Trainer

    trainer = Trainer(name, TOY[name], folder, layout=torch.contiguous_format, fixed=True)
    trainer.step()
    ours = train_ours.check(name, TOY[name], folder)
    start = train_data.state_dict()
    assert train_table.difference(ours, trainer.parameters(), start) < train_table.SAME


def test_a_worker_says_what_it_runs(folder):
    session = train_worker.Session(folder, train_cases.LIMITS)
    about = session.about("srt")
    assert about["source"] != session.about("at")["source"] and "jax" in about["versions"]
    session.prepare("at", TOY["at"])
    assert set(session.run(least=0.0)["seconds"]) == {"forward", "input_gradient", "weights_all"}


# --- made-up results


class Fake:
    """Answers as a worker does."""

    seconds, moved, fails = 1.0, 1.0, False

    def __init__(self, module, folder, who, *, log):
        self.who, self.closed = who, False

    def ask(self, verb, **what):
        return getattr(self, f"on_{verb}")(**what)

    def on_about(self, objective):
        return {"versions": {"jax": "1"}, "source": self.who}

    def on_check(self, objective, settings, into):
        after = {name: value + np.float32(self.moved) for name, value in train_data.state_dict().items()}
        store.write_arrays(training.Path(into), **after)

    def on_prepare(self, objective, settings):
        return {"resident": 2**20}

    def on_run(self, least=2.0):
        if self.fails:
            raise WorkerFailed("out of memory")
        if self.who == train_cases.LIMITS:
            passes = {"forward": 0.05, "input_gradient": 0.07, "weights_all": 0.1, "weights_labelled": 0.05}
            return {"seconds": passes}
        return {"seconds": self.seconds, "calls": 1, "peak": 2**21, "peak_of_run": True}

    def close(self):
        self.closed = True


@pytest.fixture
def fakes(monkeypatch):
    def install(**kinds):
        started = []

        def start(module, folder, who, *, log):
            started.append(type(who, (Fake,), kinds.get(who, {}))(module, folder, who, log=log))
            return started[-1]

        monkeypatch.setattr(training, "Worker", start)
        monkeypatch.setattr(training, "PAUSE", 0.0)
        return started

    return install


def test_ratios_and_bars_of_srt(tmp_path, fakes, capsys):
    kinds = {"pytorch": {"seconds": 1.4}, "pytorch_channels_last": {"seconds": 1.2, "moved": 1.1}}
    started = fakes(ours={"seconds": 1.0}, **kinds)
    arguments = ["--root", str(tmp_path), "--out", str(tmp_path / "out"), "--rounds", "2", "--only", "srt"]
    assert training.main(arguments) == 0
    assert all(one.closed for one in started)
    text = (tmp_path / "out" / "README.md").read_text()
    # 10 gradients of 0.07 and the other passes are 0.9 seconds.
    assert "a step over the sum of its passes, at most 1.15: 1.11 (1.11 to 1.11): met" in text
    # The faster loop does another step, by a tenth, and does not count.
    assert "steps per second over the PyTorch loop's, at least 1.3: 1.40 (1.40 to 1.40): met" in text
    assert "(1.20 (1.20 to 1.20): not the same) | 10.00%" in text
    assert "10 x input_gradient 70.0, 1 x forward 50.0" in text
    training.main(arguments)
    assert "srt: kept" in capsys.readouterr().out
    training.main([*arguments, "--rounds", "3"])
    assert "kept" not in capsys.readouterr().out


def test_who_fails_is_said_and_no_bar_is_judged_by_it(tmp_path, fakes):
    fakes(pytorch={"fails": True}, pytorch_channels_last={"fails": True}, limits={"fails": True})
    arguments = ["--root", str(tmp_path), "--out", str(tmp_path / "out"), "--rounds", "1", "--only", "srt"]
    assert training.main(arguments) == 1
    text = (tmp_path / "out" / "README.md").read_text()
    assert "No bar can be judged yet." in text and "| SRT | pytorch | failed: out of memory |" in text


def test_examples():
    assert doctest.testmod(train_table).failed == 0
