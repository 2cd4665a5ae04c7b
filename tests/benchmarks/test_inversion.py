"""The inversion benchmark: what counts, and what its page says."""

import copy

import pytest

from benchmarks import inversion

CASE = {
    "seconds": {"ours": [1.0, 2.0, 1.5], "art": [10.0, 30.0, 9.0]},
    "times_faster": {"min": 6.0, "median": 10.0, "max": 15.0},
    "difference": 0.001,
    "moved": 0.4,
}
RECORD = {
    "model": "some-model",
    "num": 96,
    "steps": 100,
    "versions": {"ours": {"jaxrobust": "0.1.0"}, "art": {"torch": "2.13.0"}},
    "hardware": "a processor, 2 cores",
    "load": 0.1,
    "cases": {"ten classes": CASE},
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "met"),
        ({"times_faster": {"min": 1.0, "median": 4.9, "max": 9.0}}, "missed"),
        ({"difference": 0.03}, "not the same images: no ratio counts"),
        ({"moved": 0.01}, "not the same images: no ratio counts"),
    ],
)
def test_a_ratio_counts_only_where_both_found_the_same(change, said):
    assert inversion.verdict({**CASE, **change}) == said


def test_the_page_has_medians_ratios_versions_and_load():
    page = inversion.page(copy.deepcopy(RECORD))
    assert "| ten classes | 1.5 s | 10 s | 10.0 (6.0-15.0) | 0.001 | met |" in page
    for said in ("96 images, 100 steps", "jaxrobust 0.1.0, torch 2.13.0", "load average 0.1", "2 cores"):
        assert said in page


def test_cases_are_of_one_size():
    found = inversion.cases(23)
    assert {len(classes) for classes in found.values()} == {23}
    assert {len(set(classes)) for classes in found.values()} == {1, 10}
