"""The growth benchmark: exponents of made-up times, programs of tiny sizes, what is kept."""

import doctest
import json
from typing import ClassVar

import numpy as np
import pytest

from benchmarks import growth
from benchmarks._speed import exponents, growth_cases, growth_table, growth_worker

SIZES = (32, 64, 128, 256, 512)


def test_the_exponent_of_a_power_law_is_found():
    found = exponents.fit(SIZES, [0.01 * size**1.5 for size in SIZES])
    assert found.exponent == pytest.approx(1.5) and found.scale == pytest.approx(0.01)
    assert found.low == pytest.approx(1.5) and found.explained == pytest.approx(1.0)


def test_the_interval_holds_the_exponent_in_95_of_100_noisy_series():
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        times = [0.01 * size * np.exp(rng.normal(0, 0.1)) for size in SIZES]
        found = exponents.fit(SIZES, times)
        held += found.low <= 1.0 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_a_fixed_part_makes_the_exponent_smaller():
    assert exponents.fit(SIZES, [1.0 + 0.001 * size for size in SIZES]).exponent < 0.3
    with pytest.raises(ValueError, match="at least 3 sizes"):
        exponents.fit([1, 2], [1, 2])


def test_every_axis_has_its_sizes_and_what_it_should_cost():
    for name, axis in growth_cases.AXES.items():
        assert len(axis.values) == len(axis.sizes) >= 4
        assert growth_cases.settings(name)["values"] == list(axis.values)
        assert len(growth_cases.settings(name, toy=True)["values"]) == 3
    assert growth_cases.AXES["grid"].sizes[-1] == 775


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["batch", "grid", "image", "steps"])
def test_the_programs_run(axis):
    session = growth_worker.Session(axis)
    settings = growth_cases.settings(axis, toy=True)
    session.prepare(settings["values"][0], settings)
    assert session.run(settings["values"][0], least=0.0)["seconds"] > 0


@pytest.mark.slow
def test_a_training_step_is_divided_over_the_devices_of_the_process():
    session = growth_worker.Session("devices")
    settings = growth_cases.settings("devices", toy=True)
    session.prepare(4, settings)
    assert session.run(4, least=0.0)["seconds"] > 0


class Fake:
    """Answers as a worker does; times grow with the square of the value."""

    started: ClassVar[list] = []

    def __init__(self, module, axis, *, log, environment):
        self.environment, self.closed = environment, False
        Fake.started.append(self)

    def ask(self, verb, **what):
        if verb == "about":
            return {"versions": {"jax": "1"}, "source": "s"}
        return {"seconds": 0.001 * what["value"] ** 2}

    def close(self):
        self.closed = True


@pytest.fixture
def fakes(monkeypatch):
    Fake.started = []
    monkeypatch.setattr(growth, "Worker", Fake)
    return Fake.started


def test_the_command_writes_rows_a_table_and_a_small_plot(tmp_path, fakes, capsys):
    arguments = ["--root", str(tmp_path), "--out", str(tmp_path / "out"), "--rounds", "2"]
    assert growth.main([*arguments, "--only", "batch", "--only", "devices"]) == 0
    assert all(one.closed for one in fakes)
    counts = [one.environment["XLA_FLAGS"].rpartition("=")[2] for one in fakes]
    assert counts == ["1", "1", "2", "4", "8"]  # one process for all batches, one for each number of devices
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    (batch,) = [row["fit"] for row in rows if row["axis"] == "batch" and "fit" in row]
    assert batch["exponent"] == pytest.approx(2.0) and batch["expected"] == 1.0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| images in the batch | PGD-10 on SmallCNN | 2.00 (2.00 to 2.00) | 1 |" in text
    assert (tmp_path / "out" / growth_table.PLOT).stat().st_size < 300_000
    capsys.readouterr()
    growth.main([*arguments, "--only", "batch"])
    assert "batch: kept" in capsys.readouterr().out
    growth.main([*arguments, "--only", "batch", "--rounds", "3"])
    assert "kept" not in capsys.readouterr().out


def test_examples():
    assert doctest.testmod(exponents).failed == 0
