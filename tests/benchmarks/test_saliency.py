"""The benchmark of saliency maps, without its rivals."""

import ast
from pathlib import Path

import numpy as np
import pytest

from benchmarks import saliency
from benchmarks._saliency import cases

ROOT = Path(saliency.__file__).parent


def row(name, ours, other, **more):
    case = cases.CASES[name]
    seconds = {cases.OURS: ours, case.rivals[1]: other}
    slow = other / ours if case.rivals[1] == cases.CAPTUM else ours / other
    spread = {side: {"min": s, "median": s, "max": s} for side, s in seconds.items()}
    return {
        "map": name, "failed": {}, "versions": {"jax": "1"}, "hardware": "cpu", "load": 0.1, "num_images": 4,
        "seconds": spread, "ratio": {"min": slow, "median": slow, "max": slow}, **more,
    }  # fmt: skip


def test_correlation_is_of_the_worst_image():
    first = np.random.default_rng(0).normal(size=(3, 4, 4))
    second = first.copy()
    second[1] = -second[1]
    found = saliency._correlation(first, second)
    assert found["min"] == pytest.approx(-1)
    assert found["median"] == pytest.approx(1)


def test_bars_are_judged_in_the_right_direction():
    assert saliency._met(row("occlusion", 1.0, 2.0)) == "met"
    assert saliency._met(row("occlusion", 1.0, 1.9)) == "missed"
    assert saliency._met(row("rise", 1.2, 1.0)) == "met"
    assert saliency._met(row("rise", 1.3, 1.0)) == "missed"


def test_a_map_measured_again_takes_its_place(tmp_path):
    alike = {"min": 1.0, "median": 1.0, "difference": 0.0}
    saliency._write([row("occlusion", 1.0, 2.0, correlation=alike), row("rise", 1.0, 1.0)], tmp_path)
    saliency._write([row("occlusion", 1.0, 4.0, correlation=alike)], tmp_path)
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    page = (tmp_path / "README.md").read_text()
    assert len(lines) == 2
    assert "4.00 (4.00 to 4.00)" in page and "at most 1.2, met" in page


def test_both_sides_have_every_map():
    def keys(module, name):
        for node in ast.parse((ROOT / "_saliency" / module).read_text()).body:
            target = getattr(node, "target", None) or getattr(node, "targets", [None])[0]
            if getattr(target, "id", "") == name:
                return {key.value for key in node.value.keys}
        raise AssertionError(f"{module} has no {name}")

    assert keys("side_ours.py", "MAPS") == set(cases.CASES)
    shared = {name for name, case in cases.CASES.items() if cases.CAPTUM in case.rivals}
    assert keys("side_captum.py", "_MAKERS") == shared
