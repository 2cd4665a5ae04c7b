"""The loop: what it writes, how it stops, and that it goes on exactly where it was."""

import json
import os
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.data import Augment, BatchSizes, StreamFeed
from jaxrobust.objectives import RT, SRT, Standard
from jaxrobust.training import (
    Checkpoints,
    Diverged,
    Interrupted,
    JsonLines,
    Runtime,
    Wrapper,
    fit,
    make_update,
)
from jaxrobust.training import loop as loop_module
from jaxrobust.types import Aux
from tests.common.tiny import tiny_feed, tiny_fit, tiny_model, tiny_objective, tiny_split


class Rows:
    """A sink that remembers, and can act on a step."""

    def __init__(self, act=None):
        self.rows, self.rewound, self.closed, self._act = [], None, False, act

    def rewind(self, step):
        self.rewound = step

    def write(self, step, metrics):
        self.rows.append((step, dict(metrics)))
        if self._act:
            self._act(step)

    def close(self):
        self.closed = True


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run of ten steps without interruption: its state and its rows."""
    path = tmp_path_factory.mktemp("unbroken") / "m.jsonl"
    state = tiny_fit(10, sinks=(JsonLines(path),))
    return jax.device_get(state), path.read_text()


def test_rows_are_means_over_their_interval(unbroken):
    every = Rows()
    tiny_fit(10, sinks=(every,), log_every=1)
    coarse = [json.loads(line) for line in unbroken[1].splitlines()]
    assert [row["step"] for row in coarse] == [4, 8, 10] and [step for step, _ in every.rows] == list(
        range(1, 11)
    )
    for row, (first, last) in zip(coarse, ((0, 4), (4, 8), (8, 10))):
        mean = np.mean([metrics["loss"] for _, metrics in every.rows[first:last]])
        assert row["loss"] == pytest.approx(mean, rel=1e-6)
    assert every.closed and every.rewound == 0


@pytest.mark.parametrize("save_every", [0, 4])
def test_sigterm_saves_and_the_next_run_ends_as_if_nothing_had_been(tmp_path, unbroken, save_every):
    path = tmp_path / "m.jsonl"
    stopper = Rows(lambda step: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    checkpoints = Checkpoints(tmp_path / "c", save_every=save_every)
    with pytest.raises(Interrupted, match="after step 4, saved") as stop:
        tiny_fit(10, sinks=(JsonLines(path), stopper), checkpoints=checkpoints)
    assert stop.value.step == 4 and stop.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    state = tiny_fit(10, sinks=(JsonLines(path),), checkpoints=Checkpoints(tmp_path / "c"))
    chex.assert_trees_all_equal(jax.device_get(state), unbroken[0])
    assert path.read_text() == unbroken[1]


def test_resume_inside_an_interval_keeps_its_mean(tmp_path, unbroken):
    class Gone(Exception):
        pass

    def leave(step):
        raise Gone

    path = tmp_path / "m.jsonl"
    # The last checkpoint is that of step 6, in the middle of the interval from 4 to 8.
    with pytest.raises(Gone):
        tiny_fit(
            10,
            sinks=(JsonLines(path), Rows(lambda step: leave(step) if step == 8 else None)),
            checkpoints=Checkpoints(tmp_path / "c", save_every=3),
        )
    state = tiny_fit(10, sinks=(JsonLines(path),), checkpoints=Checkpoints(tmp_path / "c", save_every=3))
    chex.assert_trees_all_equal(jax.device_get(state), unbroken[0])
    assert path.read_text() == unbroken[1]


def test_a_finished_run_returns_its_state_at_once(tmp_path):
    state = tiny_fit(2, checkpoints=Checkpoints(tmp_path))
    rows = Rows()
    again = tiny_fit(2, checkpoints=Checkpoints(tmp_path), sinks=(rows,))
    chex.assert_trees_all_equal(jax.device_get(again), jax.device_get(state))
    assert rows.rows == [] and rows.rewound == 2


class Bomb(Standard):
    """Standard training whose loss is NaN from step number 5 on."""

    def __call__(self, keys, net, batch, obj_state):
        loss, aux = Standard.__call__(self, keys, net, batch, obj_state)
        loss = jnp.where(net.progress >= 0.5, jnp.nan, 1.0) * loss
        return loss, Aux(aux.stats, aux.obj_state, {**aux.metrics, "loss": loss})


def test_nan_stops_at_the_next_row_and_names_its_step(tmp_path):
    rows = Rows()
    checkpoints = Checkpoints(tmp_path, save_every=3)
    with pytest.raises(Diverged, match=r"Step 6 is not finite: .*loss=nan") as stop:
        tiny_fit(10, objective=Bomb(), sinks=(rows,), checkpoints=checkpoints)
    assert stop.value.step == 6 and np.isnan(stop.value.metrics["loss"])
    assert np.isfinite(stop.value.metrics["accuracy"])
    assert [step for step, _ in rows.rows] == [4] and rows.closed
    # Step 6 was due for saving, and was not saved.
    assert {path.name for path in tmp_path.iterdir() if path.name.isdigit()} == {"3"}


class Zero:
    """An objective with a gradient that is not finite although its loss is: sqrt at 0."""

    def init(self, params):
        return ()

    def __call__(self, keys, net, batch, obj_state):
        logits = net.train(batch.image, keys.labelled)[0].logits
        loss = jnp.sqrt(jnp.square(logits - jax.lax.stop_gradient(logits)).sum())
        return loss, Aux(net.stats, obj_state, {"loss": loss})


def test_a_gradient_that_is_not_finite_is_noticed_before_it_is_saved():
    with pytest.raises(Diverged, match="Step 1 is not finite: grad_norm=nan, loss=0"):
        tiny_fit(1, objective=Zero())


@pytest.mark.parametrize("wrapper", [Wrapper.JIT, Wrapper.PMAP, Wrapper.SHARD_MAP])
def test_one_compilation_serves_the_whole_run(wrapper, monkeypatch):
    traces = []

    def counted(feed, step_fn, axis_name):
        update = make_update(feed, step_fn, axis_name)

        def tracing(*arguments):
            traces.append(1)
            return update(*arguments)

        return tracing

    monkeypatch.setattr(loop_module, "make_update", counted)
    tiny_fit(5, objective=Standard(), runtime=Runtime(wrapper=wrapper, num_devices=2))
    assert len(traces) == 1


class Told(Standard):
    """Remembers what validation told it."""

    def init(self, params):
        return jnp.zeros(())

    def on_validation(self, obj_state, metrics):
        return obj_state + np.float32(metrics["accuracy"])


@pytest.mark.parametrize("devices", [1, 2])
def test_validation_reaches_sinks_checkpoints_and_the_objective(tmp_path, devices):
    rows, seen = Rows(), []

    def validate(state):
        seen.append(int(state.step))
        assert all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(state))
        return {"accuracy": int(state.step) / 8}

    state = tiny_fit(
        5,
        objective=Told(),
        runtime=Runtime(num_devices=devices),
        validate_fn=validate,
        validate_every=2,
        sinks=(rows,),
        checkpoints=Checkpoints(tmp_path, keep=3, best_metric="accuracy"),
    )
    assert seen == [2, 4, 5]
    assert float(state.obj_state) == (2 + 4 + 5) / 8
    told = [(step, row["validation/accuracy"]) for step, row in rows.rows if "validation/accuracy" in row]
    assert told == [(2, 0.25), (4, 0.5), (5, 0.625)]
    assert {path.name for path in tmp_path.iterdir() if path.name.isdigit()} == {"2", "4", "5"}


def test_a_validation_that_is_not_finite_stops_the_run_before_it_is_saved(tmp_path):
    rows = {1: 0.5, 2: np.nan}
    with pytest.raises(Diverged, match="Step 2 is not finite: validation/accuracy=nan"):
        tiny_fit(
            3,
            validate_fn=lambda state: {"accuracy": rows[int(state.step)]},
            validate_every=1,
            checkpoints=Checkpoints(tmp_path, best_metric="accuracy"),
        )
    assert {path.name for path in tmp_path.iterdir() if path.name.isdigit()} == {"1"}


def test_starts_from_given_weights_and_leaves_them_alone():
    params, stats = tiny_model().init(jax.random.key(77))
    copy = jax.device_get(params)
    first = tiny_fit(1, learning_rate=1e-9, init_from=(params, stats), ema_decay=0.0)
    chex.assert_trees_all_close(jax.device_get(first.params), copy, atol=1e-6)
    chex.assert_trees_all_equal(jax.device_get(params), copy)


@pytest.mark.parametrize(
    ("wrapper", "devices"),
    [
        pytest.param(Wrapper.JIT, 1, marks=pytest.mark.slow),
        pytest.param(Wrapper.PMAP, 4, marks=pytest.mark.slow),
        (Wrapper.SHARD_MAP, 4),
    ],
)
def test_without_unlabelled_images_srt_trains_as_rt(wrapper, devices):
    attack = tiny_objective().attack
    srt, rt = (
        tiny_fit(
            2,
            objective=objective,
            feed=tiny_feed(8, 0),
            runtime=Runtime(wrapper=wrapper, num_devices=devices),
        )
        for objective in (SRT(attack=attack), RT(attack=attack))
    )
    chex.assert_trees_all_equal(jax.device_get(srt), jax.device_get(rt))


def test_lam_0_trains_as_standard():
    srt, standard = (tiny_fit(2, objective=objective) for objective in (tiny_objective(lam=0.0), Standard()))
    chex.assert_trees_all_equal(jax.device_get(srt), jax.device_get(standard))


def test_a_streamed_set_trains_as_a_resident_one():
    stream = StreamFeed(tiny_split(), BatchSizes(4, 8), seed=3, augment=Augment(pad=1, flip=True))
    streamed, resident = tiny_fit(3, feed=stream), tiny_fit(3)
    chex.assert_trees_all_close(jax.device_get(streamed), jax.device_get(resident), atol=1e-6)


def test_seeds_differ():
    one, other = (tiny_fit(1, objective=Standard(), seed=seed).params for seed in (1, 2))
    assert np.abs(one["Conv_0"]["kernel"] - other["Conv_0"]["kernel"]).max() > 0.01


def test_lines_for_logs_and_silence_if_asked(capsys):
    tiny_fit(4, objective=Standard(), progress=True)
    assert "step 4/4  accuracy" in capsys.readouterr().err
    tiny_fit(4, objective=Standard(), progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_every": 0}, "log_every"),
        ({"validate_every": 3}, "Expected validate_fn with validate_every=3"),
        ({"validate_every": -1}, "validate_every"),
        ({"feed": tiny_feed(3, 8), "runtime": Runtime(num_devices=2)}, "3 labelled images a step"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_fit(2, **options)


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="num_steps"):
        fit(
            model=tiny_model(),
            objective=Standard(),
            optimizer=None,
            feed=tiny_feed(),
            num_steps=0,
            seed=0,
        )
