"""Probabilities, resolution, View 2, rank-1 and the bootstrap over people, against closed forms."""

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from jaxrobust.evaluation import (
    best_threshold,
    finest_far,
    fit_platt,
    rank1,
    resolution,
    roc,
    subject_bootstrap,
    tar_at_far,
    view2_accuracy,
)

QUANTILES = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
FLAGS = np.arange(8000) >= 4000
SPREAD = 0.1
SCORES = 0.2 + SPREAD * np.concatenate([QUANTILES, QUANTILES + 2])


def test_platt_finds_the_posterior_of_two_gaussians():
    """Equal variances sigma^2 and means m -+ d / 2: log-odds are d (s - m) / sigma^2."""
    found = fit_platt(SCORES, FLAGS)
    assert found.tau == pytest.approx(0.3, abs=1e-4)
    assert found.a == pytest.approx(2 * SPREAD / SPREAD**2, rel=0.01)
    # How many impostor pairs are listed does not matter.
    few = np.concatenate([np.arange(0, 4000, 10), np.arange(4000, 8000)])
    assert fit_platt(SCORES[few], FLAGS[few]).tau == pytest.approx(0.3, abs=3e-3)


def test_platt_at_a_given_threshold():
    tau = tar_at_far(roc(SCORES, FLAGS), 0.01).threshold
    found = fit_platt(SCORES, FLAGS, tau)
    assert found.tau == tau
    reference = LogisticRegression(fit_intercept=False, C=1e9, tol=1e-10)
    reference.fit((SCORES - tau)[:, None], FLAGS)
    assert found.a == pytest.approx(float(reference.coef_[0, 0]), rel=0.01)
    assert found.probability(tau) == 0.5
    assert (np.diff(found.probability(np.linspace(-1, 1, 50))) >= 0).all()


@pytest.mark.parametrize("tau", [None, 0.4])
def test_platt_is_finite_on_separable_pairs(tau):
    flags = np.arange(100) < 20
    found = fit_platt(np.where(flags, 0.9, 0.1), flags, tau)
    if tau is None:
        # Two points: the targets are met exactly, 21/22 and 1/82.
        assert found.probability([0.9, 0.1]) == pytest.approx([21 / 22, 1 / 82])
    assert 0 < found.a < 100
    # Far apart in units of their spread too.
    assert np.isfinite(fit_platt(np.where(flags, 1e-9, 0.0), flags).a)
    assert np.isfinite(fit_platt(np.where(flags, 1.0, -1.0) + 1e-12 * np.arange(100), flags, tau).a)


def test_platt_of_similarities_that_tell_nothing():
    flags = np.arange(10) < 5
    assert fit_platt(np.full(10, 0.3), flags) == (0.0, 0.3)
    assert fit_platt(np.full(10, 0.3), flags, 0.5) == (0.0, 0.5)
    assert fit_platt(np.full(10, 0.3), flags, 0.3).probability([0.3, 0.9]).tolist() == [0.5, 0.5]
    assert fit_platt(np.where(flags, 0.1, 0.9), flags) == (0.0, 0.5)
    assert fit_platt(np.where(flags, 0.1, 0.9), flags, 0.5).a == 0
    with pytest.raises(ValueError, match="finite tau"):
        fit_platt(SCORES, FLAGS, float("nan"))


def test_resolution_says_what_the_pairs_of_orl_allow():
    words = [resolution(far, 18_000, 180).words for far in (0.01, 0.001, 0.0001)]
    assert [word.split(": ")[:2] for word in words] == [
        ["FAR 1%", "resolved"],
        ["FAR 0.1%", "descriptive only"],
        ["FAR 0.01%", "not resolved"],
    ]
    # A single fold of ORL, and LFW's View 2, whose impostor pairs are of as many pairs of people.
    assert resolution(0.01, 4500, 45).level == "descriptive only"
    assert resolution(0.01, 3000, 3000).level == "resolved"
    assert resolution(0.001, 3000, 3000).level == "not resolved"
    assert resolution(0.001, 10_000, 10_000).level == "resolved"
    for pairs, couples in ((18_000, 180), (3000, 3000), (4500, 45)):
        finest = finest_far(pairs, couples)
        assert resolution(finest, pairs, couples).level == "resolved"
        assert resolution(finest * 0.99, pairs, couples).level != "resolved"
    with pytest.raises(ValueError, match="num_impostor >= 1"):
        resolution(0.01, 0, 1)


def test_the_best_threshold():
    assert best_threshold([0.1, 0.3, 0.5, 0.9], [False, False, True, True]) == 0.4
    # Of the thresholds that are equally good, the middle one, or the higher of two.
    assert best_threshold([0.1, 0.2, 0.3, 0.4], [False, True, False, True]) == pytest.approx(0.35)
    assert best_threshold([0.1, 0.2, 0.3], [True, True, False]) < 0.1
    assert best_threshold([0.2, 0.2, 0.2], [True, False, False]) > 0.2
    close = np.nextafter(0.5, 1)
    assert 0.5 < best_threshold([0.5, close], [False, True]) <= close


def test_view_2():
    rng = np.random.default_rng(0)
    fold, genuine = np.repeat(np.arange(10), 60), np.tile(np.arange(60) < 30, 10)
    scores = rng.normal(genuine, 0.5)
    found = view2_accuracy(scores, genuine, fold)
    expected = []
    for one in range(10):
        rest = fold != one
        grid = np.sort(scores[rest])
        right = [np.mean((scores[rest] >= t) == genuine[rest]) for t in grid]
        best = np.mean((scores[rest] >= found.thresholds[one]) == genuine[rest])
        assert best == pytest.approx(max(right))
        expected.append(np.mean((scores[~rest] >= found.thresholds[one]) == genuine[~rest]))
    assert found.accuracies == pytest.approx(expected)
    assert found.mean == pytest.approx(np.mean(expected))
    assert found.standard_error == pytest.approx(np.std(expected, ddof=1) / np.sqrt(10))
    # Phi(1) of Gaussians one apart with sigma 1/2.
    assert found.mean == pytest.approx(stats.norm.cdf(1), abs=0.05)
    separable = view2_accuracy(np.where(genuine, 0.9, 0.1), genuine, fold)
    assert (separable.mean, separable.standard_error) == (1, 0)
    with pytest.raises(ValueError, match="at least two folds"):
        view2_accuracy(scores, genuine, np.zeros(600, int))


def test_rank_1():
    people = np.repeat(np.arange(5), 4)
    exact = np.eye(5)[people]
    assert rank1(3 * exact, people) == (15.0, 15, 5)
    # Guessing among equals is not rewarded by their order.
    assert rank1(np.ones((20, 3)), people).rate == pytest.approx(1 / 5)
    assert rank1(np.zeros((20, 3)), people).rate == pytest.approx(1 / 5)
    # The gallery's image of person 0 looks like person 1: probes of 0 are far from all, those of 1 near two.
    swapped = exact.copy()
    swapped[0] = exact[4]
    assert rank1(swapped, people).hits == pytest.approx(9 + 3 / 2 + 3 / 5)
    assert len({rank1(swapped, people, seed=seed).hits for seed in range(8)}) > 1
    # A person with one image is there to be confused with.
    assert rank1(exact[:13], people[:13]) == (9.0, 9, 4)
    for vectors, whose, message in (
        (exact, people[:-1], r"\(20, 5\) and \(19,\)"),
        (exact * np.where(people == 2, np.nan, 1)[:, None], people, "image 8 is not finite"),
        (exact[:4], people[:4], "1 people with 3 images"),
        (exact[::4], people[::4], "5 people with 0 images"),
    ):
        with pytest.raises(ValueError, match=message):
            rank1(vectors, whose)


def test_people_are_resampled_and_not_pairs():
    """The mean of a value that is one per person: its bootstrap variance is var / n, whatever the pairs."""
    n, each = 30, 20
    value = np.random.default_rng(0).normal(size=n)
    people = np.repeat(np.arange(n), each)[:, None].repeat(2, axis=1)

    def mean(weights):
        return np.asarray([np.average(value[people[:, 0]], weights=weights)])

    found = subject_bootstrap(mean, people, np.zeros(len(people), int), num_draws=2000, seed=0)
    assert found.draws[:, 0].std() == pytest.approx(value.std() / np.sqrt(n), rel=0.06)
    half = stats.norm.ppf(0.975) * value.std() / np.sqrt(n)
    assert found.low[0] == pytest.approx(value.mean() - half, abs=0.06)
    assert found.high[0] == pytest.approx(value.mean() + half, abs=0.06)
    again = subject_bootstrap(mean, people, np.zeros(len(people), int), num_draws=10, seed=0)
    np.testing.assert_array_equal(again.draws, found.draws[:10])


def test_resampling_keeps_folds_and_multiplies_impostors():
    people = np.array([[0, 0], [0, 1], [1, 1], [2, 2], [2, 3], [3, 3]])
    found = subject_bootstrap(lambda w: w, people, np.array([0, 0, 0, 1, 1, 1]), num_draws=200, seed=1)
    for own, cross, other in ((0, 1, 2), (3, 4, 5)):
        np.testing.assert_array_equal(found.draws[:, own] + found.draws[:, other], 2)
        np.testing.assert_array_equal(found.draws[:, cross], found.draws[:, own] * found.draws[:, other])
    # A statistic that most draws lack has no interval.
    rare = subject_bootstrap(
        lambda w: np.where(w == 2, w, np.nan), people, np.zeros(6, int), num_draws=50, seed=1
    )
    assert np.isnan([rare.low, rare.high]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_draws": 1}, "num_draws >= 2"),
        ({"seed": -1}, "seed >= 0"),
        ({"confidence": 1.0}, "0 < confidence < 1"),
    ],
)
def test_bad_bootstraps(options, message):
    people, fold = np.array([[0, 0], [0, 1]]), np.zeros(2, int)
    with pytest.raises(ValueError, match=message):
        subject_bootstrap(lambda w: w, people, fold, **({"seed": 0} | options))
    with pytest.raises(ValueError, match="of 1 person"):
        subject_bootstrap(lambda w: w, people[:1], fold[:1], seed=0)
