"""The page of seeds per hour: its arithmetic, and with the slow tests the whole command at toy size."""

import functools
import json

import numpy as np
import pytest

from benchmarks import seeds
from jaxrobust.models import Precision
from jaxrobust.training import Runtime

RECORD = {
    "command": "python -m benchmarks.seeds", "experiment": "digits_srt", "num_steps": 600, "seeds": 4,
    "steps": 60, "rounds": 3, "devices": 1, "backend": "none", "device": "none", "jax": "0",
    "hardware": "none", "load": 0.0,
    "seconds": {
        seeds.ALONE: {"step": [0.2, 0.4, 0.3], "rest": [9.0, 8.0, 7.0]},
        seeds.VMAPPED: {"step": [0.1, 0.1, 0.1], "rest": [3.0, 2.0, 1.0]},
        seeds.IN_TURNS: {"step": [0.2, 0.2, 0.2], "rest": [3.0, 2.0, 1.0]},
    },
}  # fmt: skip


def test_rates_and_ratios_of_the_page():
    lines = {line.split(" | ")[0]: line for line in seeds.table(RECORD).splitlines()}
    # 4 seeds of 600 steps of 0.3 s in 3600 s.
    assert lines[f"| {seeds.ALONE}"].split(" | ")[1:3] == ["200.0 / 300.0 / 400.0", "80.0"]
    assert lines[f"| {seeds.VMAPPED}"].split(" | ")[2:4] == ["240.0", "2.00 / 3.00 / 4.00"]
    assert lines[f"| {seeds.IN_TURNS}"].endswith("| 2.0 |")


class FakeSetting:
    """Ways that train nothing and write rows as the loop does; notes who is asked, and in which precision."""

    def __init__(self):
        self.runtime, self.asked = Runtime(num_devices=1), []

    def ways(self):
        return {name: functools.partial(self.way, name) for name in ("a", "b", "c", seeds.ALONE)}

    def way(self, name, steps):
        self.asked.append((name, self.runtime.precision))
        clock, every = seeds.Clock(), seeds.row_every(steps)
        for step in range(1, steps + 1):
            if step % every == 0 or step == steps:
                clock.write(step, {})
        return [np.zeros(2)], [clock]


@pytest.mark.parametrize("steps", [2, 3, 5, 60])
def test_there_are_two_rows(steps):
    assert len(FakeSetting().way("a", steps)[1][0].times) == 2


def test_ways_change_their_order_from_round_to_round():
    setting = FakeSetting()
    found = seeds.measure(setting, 6, 5)
    orders = {tuple(name for name, _ in setting.asked[at : at + 4]) for at in range(0, 20, 4)}
    assert len(orders) > 1 and all(len(set(order)) == 4 for order in orders)
    assert all(len(way["step"]) == 5 for way in found.values())


def test_weights_are_compared_in_full_precision():
    setting = FakeSetting()
    seeds.check_equal(setting)
    assert {precision for _, precision in setting.asked} == {Precision.HIGHEST}
    assert setting.runtime.precision is not Precision.HIGHEST


@pytest.mark.slow
def test_the_command_at_toy_size(tmp_path):
    assert seeds.main(["--toy", f"--out={tmp_path}"]) == 0
    found = json.loads((tmp_path / "seeds.json").read_text())["seconds"]
    assert set(found) == {seeds.ALONE, seeds.VMAPPED, seeds.IN_TURNS}
    assert all(value > 0 for way in found.values() for value in way["step"])
    assert "together, vmapped" in (tmp_path / "README.md").read_text()
