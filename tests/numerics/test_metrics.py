"""The Wilson interval against scipy; accuracy."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxrobust.numerics.metrics import accuracy, wilson_interval


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (1, 1), (37, 100), (9713, 10_000)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_interval_is_scipys(successes, n, confidence):
    expected = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    np.testing.assert_allclose(wilson_interval(successes, n, confidence), expected, rtol=1e-9, atol=1e-12)


def test_nothing_measured_says_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert math.isnan(accuracy(np.zeros((0, 10)), np.zeros(0, int)))


def test_the_interval_stays_in_the_unit_interval_and_holds_the_share():
    for successes in range(4):
        low, high = wilson_interval(successes, 3)
        assert 0 <= low <= successes / 3 <= high <= 1


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="successes=5"):
        wilson_interval(5, 4)
    with pytest.raises(ValueError, match="successes=-1"):
        wilson_interval(-1, 4)
    with pytest.raises(ValueError, match=r"Use 0\.95 for 95%"):
        wilson_interval(1, 4, 95)


def test_accuracy_counts_the_largest_logit():
    assert accuracy(np.eye(4), np.array([0, 1, 2, 0])) == 0.75
