"""ROC, EER, TAR at FAR and decisions: closed forms, ties, and scikit-learn's curve."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_curve

from jaxrobust.evaluation import decision_rates, eer, pooled_roc, roc, tar_at_far
from jaxrobust.evaluation.roc import weighted_roc_fn


def scores_and_flags(num, levels, seed):
    """Coarse similarities in [-1, 1], so that many tie, of both kinds."""
    rng = np.random.default_rng(seed)
    flags = rng.permutation(np.arange(num) < max(1, num // 3))
    return np.round(rng.normal(flags, 1.0).clip(-2, 2) * levels) / (2 * levels), flags


@hypothesis.settings(max_examples=30, deadline=None, derandomize=True)
@hypothesis.given(st.integers(2, 60), st.sampled_from([1, 3, 1000]), st.integers(0, 10**6))
def test_the_curve_is_that_of_scikit_learn(num, levels, seed):
    scores, flags = scores_and_flags(num, levels, seed)
    far, tar, thresholds = roc_curve(flags, scores, drop_intermediate=False)
    curve = roc(scores, flags)
    np.testing.assert_allclose(curve.far, far, atol=1e-12)
    np.testing.assert_allclose(curve.tar, tar, atol=1e-12)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    found = eer(curve)
    # Where the piecewise linear curve meets FAR = 1 - TAR.
    np.testing.assert_allclose(np.interp(found.value, far, tar) >= 1 - found.value - 1e-9, True)
    grid = np.linspace(0, 1, 2001)
    share = np.concatenate([far[i] + grid * (far[i + 1] - far[i]) for i in range(len(far) - 1)])
    frr = 1 - np.concatenate([tar[i] + grid * (tar[i + 1] - tar[i]) for i in range(len(far) - 1)])
    np.testing.assert_allclose(found.value, share[np.argmin(np.abs(share - frr))], atol=1e-3)
    for asked in (0.01, 0.2, 0.5):
        point = tar_at_far(curve, asked)
        assert point.far <= asked
        assert point.tar == tar[far <= asked].max()
        accepted = scores >= point.threshold
        rates = decision_rates(accepted, flags)
        assert (rates.far, rates.tar) == pytest.approx((point.far, point.tar))


def test_gaussian_similarities_have_the_eer_of_theory():
    """Equal variances at distance d: EER = Phi(-d / 2), TAR at FAR = Phi(d - z)."""
    num, distance = 20_000, 2.0
    quantiles = stats.norm.ppf((np.arange(num) + 0.5) / num)
    curve = roc(np.concatenate([quantiles, quantiles + distance]) / 20, np.arange(2 * num) >= num)
    assert eer(curve).value == pytest.approx(stats.norm.cdf(-distance / 2), abs=1e-4)
    for far in (0.001, 0.01, 0.1):
        point = tar_at_far(curve, far)
        assert point.far == pytest.approx(far)
        assert point.tar == pytest.approx(stats.norm.cdf(distance - stats.norm.isf(far)), abs=2e-3)
        assert point.threshold == pytest.approx(stats.norm.isf(far) / 20, abs=1e-3)


def test_separable_and_constant_similarities():
    flags = np.arange(10) < 4
    curve = roc(np.where(flags, 0.8, 0.1), flags)
    assert eer(curve).value == 0
    assert eer(curve).point == (None, 0.0, 1.0, 0.8)
    assert tar_at_far(curve, 0.01) == (0.01, 0.0, 1.0, 0.8)
    assert eer(roc(-np.where(flags, 0.8, 0.1), flags)).value == 1
    constant = roc(np.full(10, 0.3), flags)
    assert eer(constant).value == 0.5
    point = tar_at_far(constant, 0.01)
    assert (point.far, point.tar) == (0, 0)
    # Accepts nobody, and is a number.
    assert 0.3 < point.threshold < 0.3 + 1e-9


def test_the_eer_between_two_points_and_on_a_tie():
    # FAR 0, 1/2, 1/2, 1 and FRR 1/2, 1/2, 0, 0 after each: at the second point they are equal.
    assert eer(roc([0.9, 0.5, 0.4, 0.1], [True, False, True, False])).value == 0.5
    # One impostor above all: FAR steps to 1/4 while FRR is 1, then FRR falls to 0 at FAR 1/4.
    found = eer(roc([0.9, 0.8, 0.3, 0.2, 0.1], [False, True, False, False, False]))
    assert found.value == 0.25
    assert (found.point.far, found.point.tar, found.point.threshold) == (0.25, 1.0, 0.8)
    # A pair of each kind ties: a fair coin on it errs with 1/2 of each.
    assert eer(roc([0.5, 0.5], [True, False])).value == 0.5
    # Genuine .9, then a tie of one genuine and one of four impostors: from (0, 1/2) to (1/4, 0).
    tie = roc([0.9, 0.5, 0.5, 0.1, 0.1, 0.1], [True, True, False, False, False, False])
    assert eer(tie).value == pytest.approx(1 / 6)


def test_float_rounding_does_not_lose_a_pair():
    """0.07 of 100 impostor pairs are 7, though 0.07 * 100 > 7 in floats and 7 / 100 < 0.07 may be."""
    scores = np.concatenate([np.linspace(0, 1, 100), [0.5]])
    curve = roc(scores, np.arange(101) == 100)
    for count in range(1, 100):
        assert round(100 * tar_at_far(curve, count / 100).far) == count


def test_folds_pool_decisions_and_not_scores():
    scores, flags = scores_and_flags(200, 1000, 0)
    fold = np.arange(200) % 4
    shifted = scores / 10 + fold  # a model per fold, each on its own scale
    pooled, single = pooled_roc(shifted, flags, fold), roc(shifted, flags)
    assert pooled.thresholds is None
    assert eer(pooled).value < eer(single).value - 0.05
    np.testing.assert_array_equal(
        pooled.tar, pooled_roc(np.exp(3 * shifted) * (1 + fold), flags, fold).tar
    )  # any rising function per fold
    # One fold is no pooling at all, up to points on one vertical line.
    alone = pooled_roc(scores, flags, np.zeros(200, int))
    np.testing.assert_array_equal(alone.tar, roc(scores, flags).tar)
    # Copies of one fold are that fold.
    twice = pooled_roc(np.tile(scores, 2), np.tile(flags, 2), np.repeat([0, 1], 200))
    assert eer(twice).value == pytest.approx(eer(alone).value)
    for far in (0.01, 0.05, 0.3):
        assert tar_at_far(twice, far)[:3] == pytest.approx(tar_at_far(alone, far)[:3])


def test_the_pooled_curve_is_the_mean_of_the_folds_at_equal_far():
    rng = np.random.default_rng(1)
    flags = np.arange(300) % 3 == 0
    folds = [rng.normal(flags, 1.0) for _ in range(3)]
    pooled = pooled_roc(np.concatenate(folds), np.tile(flags, 3), np.repeat(np.arange(3), 300))
    for far in (0.01, 0.05, 0.25):
        mean = np.mean([tar_at_far(roc(scores, flags), far).tar for scores in folds])
        assert tar_at_far(pooled, far).tar == pytest.approx(mean)


def test_weights_are_copies():
    scores, flags = scores_and_flags(80, 5, 2)
    fold = np.arange(80) % 2
    weights = np.random.default_rng(0).integers(0, 4, 80)
    rows = np.repeat(np.arange(80), weights)
    for groups in (np.zeros(80, int), fold):
        weighted = weighted_roc_fn(scores, flags, groups)(weights.astype(float))
        copied = pooled_roc(scores[rows], flags[rows], groups[rows])
        assert eer(weighted).value == pytest.approx(eer(copied).value)
        assert tar_at_far(weighted, 0.1).tar == pytest.approx(tar_at_far(copied, 0.1).tar)
    assert weighted_roc_fn(scores, flags)(flags.astype(float)) is None
    rates = decision_rates(scores > 0, flags, weights)
    assert rates == pytest.approx(decision_rates(scores[rows] > 0, flags[rows]))


@pytest.mark.parametrize(
    ("scores", "flags", "message"),
    [
        ([0.1, np.nan], [True, False], "similarity of pair 1 is nan; an embedding is not finite"),
        ([0.1, np.inf], [True, False], "similarity of pair 1 is inf"),
        ([0.1, 0.2], [True, True], "no impostor pair among 2"),
        ([0.1, 0.2], [False, False], "no genuine pair among 2"),
        ([0.1], [True, False], r"shapes \(1,\) and \(2,\)"),
        ([0.1, 0.2], [1, 2], "flags True and False"),
    ],
)
def test_bad_input(scores, flags, message):
    with pytest.raises(ValueError, match=message):
        roc(scores, flags)


def test_bad_far_and_folds():
    curve = roc([0.1, 0.2], [True, False])
    for far in (0, 1, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="far"):
            tar_at_far(curve, far)
    with pytest.raises(ValueError, match="Fold 1 has no impostor pair"):
        pooled_roc([0.1, 0.2, 0.3], [True, False, True], [0, 0, 1])
    with pytest.raises(ValueError, match="one fold per pair"):
        pooled_roc([0.1, 0.2], [True, False], [0])
