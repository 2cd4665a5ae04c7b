"""The leak's formula, its bands, and when nothing can be said."""

import math
import re

import pytest

from jaxrobust.evaluation import Band, band_of, calibrated_ssim, doubts, leak_score
from jaxrobust.evaluation._verification_report import Estimate

SURE = {
    "over_mean": Estimate(0.1, 0.05, 0.15),
    "over_wrong": Estimate(0.2, 0.1, 0.3),
    "genuine": Estimate(0.75, 0.6, 0.9),
    "genuine_over_wrong": Estimate(0.7, 0.5, 0.9),
    "leak": Estimate(0.05, 0.0, 0.08),
    "num_victims": 35,
    "constant": False,
}


@pytest.mark.parametrize(
    ("type2", "wrong", "genuine", "leak"),
    [(0.51, 0.0, 0.76, 0.51 / 0.76), (0.01, 0.02, 0.8, 0.0), (0.9, 0.1, 0.7, 1.0), (0.3, 0.1, 0.5, 0.5)],
)
def test_the_score_is_between_chance_and_a_real_photo(type2, wrong, genuine, leak):
    assert leak_score(type2, wrong, genuine) == pytest.approx(leak)


def test_a_critic_that_tells_nobody_apart_gives_no_score():
    assert math.isnan(leak_score(0.5, 0.5, 0.5)) and math.isnan(leak_score(0.5, 0.6, 0.5))


def test_calibrated_ssim():
    assert calibrated_ssim(0.5, 0.35, 0.49) == pytest.approx(0.15 / 0.14)
    assert math.isnan(calibrated_ssim(0.5, 0.5, 0.49))


@pytest.mark.parametrize(
    ("low", "high", "band"),
    [
        (0.0, 0.0999, Band.LOW),
        (0.0, 0.1, Band.MEDIUM),
        (0.5, 0.9, Band.MEDIUM),
        (0.5001, 0.9, Band.HIGH),
        (0.05, 0.7, Band.MEDIUM),
    ],
)
def test_bands_are_of_the_interval_and_not_of_the_score(low, high, band):
    assert band_of(Estimate((low + high) / 2, low, high), ()) is band
    assert band_of(Estimate((low + high) / 2, low, high), ("a doubt",)) is Band.UNDETERMINED


def test_without_an_interval_nothing_is_said():
    assert band_of(Estimate(0.01), ()) is Band.UNDETERMINED
    (said,) = doubts(**{**SURE, "leak": Estimate(0.01)})
    assert "too few people" in said


def test_no_doubts():
    assert doubts(**SURE) == ()
    # Few victims stand against LOW alone.
    assert doubts(**{**SURE, "num_victims": 2, "leak": Estimate(1.0, 1.0, 1.0)}) == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"constant": True}, "features are constant"),
        ({"over_mean": Estimate(0.01, -0.01, 0.03)}, "does not beat the mean face"),
        ({"over_mean": Estimate(0.01)}, "does not beat the mean face"),
        ({"over_wrong": Estimate(0.0, 0.0, 0.0)}, "does not beat the reconstruction of somebody else"),
        ({"genuine": Estimate(0.29, 0.2, 0.4)}, "accepts 29% of the genuine pairs .* less than 30%"),
        ({"genuine": Estimate(None)}, "accepts –"),
        ({"genuine_over_wrong": Estimate(0.1, -0.1, 0.3)}, "it is no judge"),
        ({"num_victims": 34, "leak": Estimate(0.0, 0.0, 0.0)}, "34 victims are too few .* up to 10% of all"),
    ],
)
def test_a_failed_attack_is_never_low(change, said):
    (found,) = doubts(**{**SURE, **change})
    assert re.search(said, found)
    assert band_of(SURE["leak"], (found,)) is Band.UNDETERMINED
