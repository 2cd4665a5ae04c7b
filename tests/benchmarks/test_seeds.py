"""The page of seeds per hour: its arithmetic, and with the slow tests the whole command at toy size."""

import json

import pytest

from benchmarks import seeds

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


@pytest.mark.slow
def test_the_command_at_toy_size(tmp_path):
    assert seeds.main(["--toy", f"--out={tmp_path}"]) == 0
    found = json.loads((tmp_path / "seeds.json").read_text())["seconds"]
    assert set(found) == {seeds.ALONE, seeds.VMAPPED, seeds.IN_TURNS}
    assert all(value > 0 for way in found.values() for value in way["step"])
    assert "together, vmapped" in (tmp_path / "README.md").read_text()
