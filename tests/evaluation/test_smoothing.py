"""Certificates on linear models, whose smoothed classifier and certified radius are known exactly."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as scipy_stats

from jaxrobust.evaluation import smoothing
from jaxrobust.evaluation.smoothing import (
    ABSTAINS,
    certificate_row,
    certified_accuracy,
    certified_curve,
    certify,
    smoothed_predict,
)
from jaxrobust.types import Model, Outputs

SHAPE = (3, 4, 1)
SIGMA = 0.1


def run(linear, model=None, params=None, **options):
    options = {"sigma": SIGMA, "num_certify": 2000, "batch_size": 64, "seed": 0, **options}
    return certify(
        model or linear.model,
        linear.params if params is None else params,
        {},
        linear.images,
        linear.labels,
        **options,
    )


@pytest.fixture(scope="module")
def certificate(linear):
    return run(linear)


def distance_of(linear):
    """To the boundary of f, which is that of g as well: the exact radius of the smoothed classifier."""
    return np.abs(linear.score) / np.linalg.norm(linear.params["w"])


def test_a_linear_model_is_certified_up_to_its_boundary_and_not_beyond(linear):
    found = run(linear, num_certify=10_000)
    exact = distance_of(linear)
    sure = found.prediction != ABSTAINS
    assert sure.mean() > 0.8
    np.testing.assert_array_equal(found.prediction[sure], (linear.score > 0)[sure])
    assert (found.radius[sure] < exact[sure]).all()
    # Where the bound is not at its ceiling it comes near: six standard errors of the probability.
    p = scipy_stats.norm.cdf(exact / SIGMA)
    lowest = p - 6 * np.sqrt(p * (1 - p) / 10_000) - 20 / 10_000
    near = sure & (lowest > 0.5) & (p < 0.999)
    assert near.sum() > 10
    assert (found.radius[near] >= SIGMA * scipy_stats.norm.ppf(lowest[near])).all()
    np.testing.assert_array_equal(found.radius[~sure], 0.0)


def test_the_radius_is_that_of_clopper_and_pearson(linear):
    found = run(linear, num_certify=500)
    votes = np.arange(501)
    bounds = np.array(
        [scipy_stats.binomtest(int(v), 500).proportion_ci(0.998, method="exact").low for v in votes]
    )
    # Every bound is one of these, at the one-sided level 0.999.
    gaps = np.abs(found.p_lower[:, None] - bounds).min(axis=1)
    assert gaps.max() < 1e-9
    sure = found.p_lower > 0.5
    np.testing.assert_allclose(found.radius[sure], SIGMA * scipy_stats.norm.ppf(found.p_lower[sure]))
    assert found.radius.max() <= SIGMA * scipy_stats.norm.ppf(0.001 ** (1 / 500)) + 1e-12


def test_the_bound_fails_as_often_as_alpha_allows(linear):
    alpha, n = 0.1, 600
    rng = np.random.default_rng(3)
    images = rng.uniform(0.3, 0.7, (n, *SHAPE)).astype(np.float32)
    w = np.asarray(linear.params["w"], np.float64)
    score = images.reshape(n, -1).astype(np.float64) @ w + float(linear.params["b"])
    found = certify(
        linear.model, linear.params, {}, images, np.zeros(n, np.int64),
        sigma=0.3, num_select=100, num_certify=300, alpha=alpha, batch_size=200, seed=1,
    )  # fmt: skip
    true = scipy_stats.norm.cdf(score / (0.3 * np.linalg.norm(w)))
    # The class that was chosen need not be the more likely one; the bound is of the one chosen.
    sure = found.prediction != ABSTAINS
    of_chosen = np.where(found.prediction == 1, true, 1 - true)
    wrong = (found.p_lower > of_chosen) & sure
    assert wrong.sum() <= scipy_stats.binom.ppf(0.9999, sure.sum(), alpha)
    assert wrong.sum() >= 0.02 * sure.sum()  # a bound that never fails is not tight


@pytest.fixture(scope="module")
def coin(make_model):
    """Classes 0 and 2 with equal chance, whatever the image; class 1 never."""

    def logits(params, x):
        score = 100 * (x - jnp.round(x * 16) / 16).sum(axis=(1, 2, 3))
        return jnp.stack([score, jnp.full_like(score, -jnp.inf), -score], axis=-1)

    model = make_model(logits)
    return model._replace(num_classes=3)


def test_a_coin_is_abstained_from(linear, coin):
    found = run(linear, model=coin, num_certify=1000)
    assert (found.prediction == ABSTAINS).all()
    np.testing.assert_array_equal(found.radius, 0.0)
    assert 0.4 < found.p_lower.mean() < 0.5
    assert (predict(linear, model=coin) == ABSTAINS).mean() > 0.95


def predict(linear, model=None, images=None, **options):
    options = {"sigma": SIGMA, "num": 300, "batch_size": 64, "seed": 0, **options}
    images = linear.images if images is None else images
    return smoothed_predict(model or linear.model, linear.params, {}, images, **options)


def test_predict_gives_the_class_of_the_smoothed_model_or_abstains(linear):
    found = predict(linear)
    sure = found != ABSTAINS
    np.testing.assert_array_equal(found[sure], (linear.score > 0)[sure])
    p = scipy_stats.norm.cdf(distance_of(linear) / SIGMA)
    assert sure[p > 0.75].all()
    assert not sure[p < 0.52].any()
    # With more at stake it abstains more.
    assert (predict(linear, alpha=1e-12) == ABSTAINS).sum() > (~sure).sum()


@pytest.mark.parametrize(("first", "second"), [(60, 40), (10, 0), (50, 50), (700, 300)])
def test_predict_tests_as_scipy_does(first, second):
    votes = np.array([[first, 0, second]])
    p = scipy_stats.binomtest(first, first + second, 0.5).pvalue
    for alpha, expected in ((p * 1.01, 0), (p * 0.99, ABSTAINS)):
        if alpha < 1:
            assert smoothing._settled(votes, alpha).tolist() == [expected]


def test_a_model_of_one_class_is_predicted_and_one_of_nan_never(linear, make_model):
    always = make_model(lambda params, x: jnp.stack([x.sum((1, 2, 3)) * 0, x.sum((1, 2, 3)) * 0 + 1], -1))
    assert (predict(linear, model=always) == 1).all()
    broken = make_model(lambda params, x: jnp.full((len(x), 2), jnp.nan))
    assert (predict(linear, model=broken) == ABSTAINS).all()
    found = run(linear, model=broken, num_certify=50)
    assert (found.prediction == ABSTAINS).all()
    np.testing.assert_array_equal(found.p_lower, 0.0)


def test_noise_is_not_clipped(linear, make_model):
    """A model that answers 1 only where some pixel lies outside [0, 1] is always 1 under noise of 2."""

    def logits(params, x):
        beyond = jnp.maximum(x.max(axis=(1, 2, 3)) - 1, -x.min(axis=(1, 2, 3)))
        return jnp.stack([jnp.zeros(len(x)), beyond], axis=-1)

    outside = make_model(logits)
    assert (predict(linear, model=outside, sigma=2.0) == 1).all()


def test_equal_seeds_give_equal_bits_and_the_batch_changes_nothing(linear, certificate):
    np.testing.assert_array_equal(run(linear).p_lower, certificate.p_lower)
    assert (run(linear, seed=1).p_lower != certificate.p_lower).any()
    short = {"num_select": 20, "num_certify": 40}
    expected = run(linear, **short).p_lower
    for batch_size in (1, 20, 500):
        np.testing.assert_array_equal(run(linear, batch_size=batch_size, **short).p_lower, expected)


def test_the_class_is_chosen_and_judged_by_different_draws(linear, coin):
    """Judged by the draws that chose it, a class would always have at least half of the votes."""
    found = run(linear, model=coin, num_select=99, num_certify=99)
    half = scipy_stats.binomtest(50, 99).proportion_ci(0.998, method="exact").low
    assert 0.25 < (found.p_lower < half - 1e-9).mean() < 0.75


def test_other_sigmas_draws_and_weights_compile_nothing(linear):
    traces = []

    def apply(params, stats, x, *, train, keys=None, axis_name=None):
        traces.append(1)
        return linear.model.apply(params, stats, x, train=train)

    model = Model(None, apply, SHAPE, 2)
    run(linear, model=model)
    seen = len(traces)
    run(linear, model=model, sigma=0.5, num_certify=10, num_select=3, alpha=0.1)
    run(linear, model=model, params={"w": linear.params["w"] * 2, "b": linear.params["b"]}, seed=4)
    assert len(traces) == seen > 0


def test_certified_accuracy_counts_what_is_right_and_certified_beyond(linear, certificate):
    found = certificate
    rows = certified_accuracy(found, (0.0, 0.05, 0.1, 10.0))
    right = found.prediction == linear.labels
    for row in rows:
        assert row["correct"] == int((right & (found.radius > row["radius"])).sum())
        known = scipy_stats.binomtest(row["correct"], 53).proportion_ci(method="wilson")
        assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx((known.low, known.high))
    assert rows[0]["accuracy"] == right.mean() > rows[1]["accuracy"] > rows[2]["accuracy"] > 0
    assert rows[3]["correct"] == 0
    edge = found.radius[right][0]
    at, below = certified_accuracy(found, (edge, np.nextafter(edge, 0)))
    assert at["correct"] == below["correct"] - 1


def test_it_stays_below_the_exact_robust_accuracy(linear, certificate):
    """No attack in the l2 ball can go below it: here the best attack is known."""
    signed = linear.margin / np.linalg.norm(linear.params["w"])
    for row in certified_accuracy(certificate, np.linspace(0, 0.4, 9)):
        assert row["accuracy"] <= (signed > row["radius"]).mean()


def test_the_curve_and_the_row_are_ready_for_the_report(certificate):
    found = certificate
    curve = certified_curve(found)
    assert curve.factors[0] == 0
    assert curve.factors[-1] == 1
    assert curve.eps == pytest.approx(SIGMA * scipy_stats.norm.ppf(0.001 ** (1 / 2000)))
    assert curve.norm == 2
    assert (np.diff(curve.accuracy) <= 0).all()
    row = json.loads(json.dumps(certificate_row(found)))
    assert row["accuracy"] == curve.accuracy[0]
    assert row["abstained"] == int((found.prediction == ABSTAINS).sum())
    right = found.prediction == found.labels
    assert row["mean_radius"] == pytest.approx(np.where(right, found.radius, 0).mean())
    given = certified_curve(found, (0.1, 0.05))
    assert np.array(given.factors) * given.eps == pytest.approx([0, 0.05, 0.1])
    expected = [line["accuracy"] for line in certified_accuracy(found, (0.0, 0.05, 0.1))]
    assert list(given.accuracy) == expected


def test_progress_is_told_by_batch(linear):
    told = []
    run(linear, num_certify=5, batch_size=20, progress_fn=lambda *at: told.append(at))
    assert told == [("smoothing", 20, 53), ("smoothing", 40, 53), ("smoothing", 53, 53)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "sigma > 0"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 1.0}, "alpha"),
        ({"num_select": 0}, "num_select >= 1"),
        ({"num_certify": 0}, "num_certify >= 1"),
        ({"batch_size": 0}, "batch_size >= 1"),
    ],
)
def test_bad_arguments_are_named(linear, options, message):
    with pytest.raises(ValueError, match=message):
        run(linear, **options)
    with pytest.raises(ValueError, match="radius >= 0"):
        certified_accuracy(run(linear, num_certify=2), [-1.0])


def test_dropout_and_statistics_stay_frozen(linear):
    """The model is asked in eval mode."""
    modes = []

    def apply(params, stats, x, *, train, keys=None, axis_name=None):
        modes.append(train)
        return Outputs(linear.model.apply(params, stats, x, train=train)[0].logits), stats

    run(linear, model=Model(None, apply, SHAPE, 2), num_certify=2)
    assert set(modes) == {False}
