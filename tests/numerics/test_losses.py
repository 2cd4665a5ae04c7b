"""Closed forms of the losses and of their gradients; large gaps; labels out of range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxrobust.numerics import losses

LOGITS = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 2.5]], np.float32)
LABELS = np.array([2, 1])
SOFT = np.array([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]], np.float32)


def grad(loss_fn, logits, target):
    return jax.grad(lambda z: loss_fn(z, jnp.asarray(target)).sum())(jnp.asarray(logits))


def test_cross_entropy_is_scipys():
    log_p = special.log_softmax(LOGITS, axis=-1)
    np.testing.assert_allclose(losses.cross_entropy(LOGITS, LABELS), -log_p[[0, 1], LABELS], rtol=1e-6)
    np.testing.assert_allclose(
        losses.cross_entropy(jnp.asarray(LOGITS), jnp.asarray(SOFT)), -(SOFT * log_p).sum(-1), rtol=1e-6
    )


def test_cross_entropys_gradient_is_softmax_less_target():
    p = special.softmax(LOGITS, axis=-1)
    np.testing.assert_allclose(grad(losses.cross_entropy, LOGITS, LABELS), p - np.eye(3)[LABELS], atol=1e-6)
    np.testing.assert_allclose(grad(losses.cross_entropy, LOGITS, SOFT), p - SOFT, atol=1e-6)


def test_kl_is_scipys_entropy_and_zero_at_the_target():
    expected = [stats.entropy(t, p) for t, p in zip(SOFT, special.softmax(LOGITS, axis=-1))]
    np.testing.assert_allclose(losses.kl(jnp.asarray(LOGITS), jnp.asarray(SOFT)), expected, rtol=1e-5)
    np.testing.assert_allclose(losses.kl(jnp.asarray(LOGITS), jax.nn.softmax(LOGITS)), 0, atol=1e-6)


def test_kl_to_a_class_is_cross_entropy():
    ce = losses.cross_entropy(jnp.asarray(LOGITS), jnp.asarray(LABELS))
    np.testing.assert_allclose(losses.kl(jnp.asarray(LOGITS), jnp.asarray(LABELS)), ce, rtol=1e-6)


def test_kl_is_differentiable_in_a_target_with_zeros():
    gradient = jax.grad(lambda t: losses.kl(jnp.asarray(LOGITS), t).sum())(jnp.asarray(SOFT))
    assert np.isfinite(gradient).all()


def test_margin_and_its_gradient():
    np.testing.assert_allclose(losses.margin(LOGITS, LABELS), [0.5, -0.5])
    np.testing.assert_array_equal(grad(losses.margin, LOGITS, LABELS), [[1, 0, -1], [0, -1, 1]])


def test_margin_takes_the_argmax_of_a_distribution():
    np.testing.assert_allclose(losses.margin(jnp.asarray(LOGITS), jnp.asarray(SOFT)), [0.5, -0.5])


def test_log_odds_rises_with_cross_entropy_and_has_its_direction_also_where_that_vanishes():
    z, labels = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32), np.arange(6) % 5
    entropy = np.asarray(losses.cross_entropy(z, labels), np.float64)
    np.testing.assert_allclose(losses.log_odds(z, labels), np.log(np.expm1(entropy)), rtol=1e-5)
    # -log p has the gradient (1 - p) times that of log((1 - p) / p).
    share = 1 - np.exp(-entropy)[:, None]
    np.testing.assert_allclose(
        share * grad(losses.log_odds, z, labels), grad(losses.cross_entropy, z, labels), atol=1e-6
    )
    confident = [[200.0, 0.0, 0.0]]
    np.testing.assert_array_equal(grad(losses.cross_entropy, confident, [0]), 0)
    np.testing.assert_allclose(grad(losses.log_odds, confident, [0]), [[-1, 0.5, 0.5]], rtol=1e-6)


def test_margins_gradient_averages_over_ties():
    np.testing.assert_array_equal(grad(losses.margin, [[1.0, 1.0, 0.0]], [2]), [[0.5, 0.5, -1]])


@pytest.mark.parametrize("loss_fn", losses.LOSSES.values(), ids=losses.LOSSES.keys())
@pytest.mark.parametrize("target", [[0], [[0.5, 0.5, 0.0]]], ids=["class", "distribution"])
def test_a_gap_of_ten_thousand_stays_finite(loss_fn, target):
    logits = jnp.array([[0.0, 1e4, -1e4]])
    assert np.isfinite(loss_fn(logits, jnp.asarray(target))).all()
    assert np.isfinite(grad(loss_fn, logits, target)).all()


@pytest.mark.parametrize("loss_fn", losses.LOSSES.values(), ids=losses.LOSSES.keys())
@pytest.mark.parametrize("label", [-1, 3, 15])
def test_a_label_out_of_range_is_nan_in_its_row_only(loss_fn, label):
    values = jax.jit(loss_fn)(LOGITS, jnp.array([label, 1]))
    assert np.isnan(values).tolist() == [True, False]


@pytest.mark.parametrize("loss_fn", losses.LOSSES.values(), ids=losses.LOSSES.keys())
def test_bfloat16_logits_give_float32_losses(loss_fn):
    assert loss_fn(jnp.asarray(LOGITS, jnp.bfloat16), jnp.asarray(LABELS)).dtype == jnp.float32


def test_mean_of_nothing_is_zero_with_a_zero_gradient():
    assert float(losses.mean(jnp.zeros(0))) == 0
    assert float(losses.mean(jnp.array([1.0, 2.0, 6.0]))) == 3
    assert jax.grad(losses.mean)(jnp.zeros(0)).shape == (0,)


def test_check_labels_names_value_row_and_cure():
    losses.check_labels(np.arange(10), 10)
    losses.check_labels(np.zeros(0, int), 10)
    with pytest.raises(ValueError, match=r"\[0, 9\], got 15 in row 2 \(2 of 4 .* number of classes"):
        losses.check_labels([1, 2, 15, -1], 10)
    with pytest.raises(ValueError, match="dtype float64"):
        losses.check_labels([0.5], 10)


@pytest.mark.parametrize("loss_fn", losses.LOSSES.values(), ids=losses.LOSSES.keys())
@pytest.mark.parametrize("target", [LABELS, SOFT], ids=["class", "distribution"])
def test_a_masked_class_counts_for_nothing(loss_fn, target):
    """A fourth class with the logit -inf changes neither the losses nor the other classes' gradients."""
    masked = np.concatenate([LOGITS, np.full((2, 1), -np.inf, np.float32)], axis=1)
    wider = target if target.ndim == 1 else np.pad(target, ((0, 0), (0, 1)))
    np.testing.assert_allclose(
        loss_fn(jnp.asarray(masked), jnp.asarray(wider)), loss_fn(jnp.asarray(LOGITS), jnp.asarray(target))
    )
    gradient = grad(loss_fn, masked, wider)
    np.testing.assert_allclose(gradient[:, :3], grad(loss_fn, LOGITS, target), atol=1e-6)
    np.testing.assert_array_equal(gradient[:, 3], 0)


def test_a_masked_target_costs_everything():
    assert float(losses.cross_entropy(jnp.array([[0.0, -jnp.inf]]), jnp.array([1]))[0]) == np.inf


FOUR = np.array([[1.0, 5.0, 3.0, -2.0], [0.0, -1.0, 4.0, 2.0]], np.float32)


def test_dlr_is_the_papers_ratio():
    np.testing.assert_allclose(losses.dlr(FOUR, np.array([1, 3])), [-2 / 4, 2 / 4], rtol=1e-6)
    labels, targets = np.array([1, 2]), np.array([0, 3])
    expected = [-4 / (5 - (1 - 2) / 2), -2 / (4 - (0 - 1) / 2)]
    np.testing.assert_allclose(losses.targeted_dlr(FOUR, labels, targets), expected, rtol=1e-6)
    soft = jax.nn.one_hot(labels, 4)
    np.testing.assert_allclose(losses.targeted_dlr(jnp.asarray(FOUR), soft, targets), expected, rtol=1e-6)


@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 0.0), (1e3, 0.0), (1.0, 50.0), (7.0, -20.0)])
def test_dlr_does_not_change_with_scale_and_shift(scale, shift):
    moved, labels, targets = FOUR * scale + shift, np.array([1, 3]), np.array([2, 0])
    np.testing.assert_allclose(losses.dlr(moved, labels), losses.dlr(FOUR, labels), rtol=1e-4)
    np.testing.assert_allclose(
        losses.targeted_dlr(moved, labels, targets), losses.targeted_dlr(FOUR, labels, targets), rtol=1e-4
    )


@pytest.mark.parametrize("classes", [2, 3])
def test_dlr_of_few_classes_is_the_margin(classes):
    few, labels, targets = FOUR[:, :classes], np.array([1, 0]), np.array([0, 1])
    expected = losses.margin(few, labels)
    divided = expected / (few.max(axis=1) - few.min(axis=1)) if classes == 3 else expected
    np.testing.assert_allclose(losses.dlr(few, labels), divided, rtol=1e-6)
    np.testing.assert_allclose(losses.targeted_dlr(few, labels, targets), [1 - 5, -1 - 0], rtol=1e-6)


def test_dlr_of_ties_and_masked_classes_is_finite_with_a_finite_gradient():
    ties = np.array([[2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 1.0], [3.0, 1.0, -np.inf, -np.inf]], np.float32)
    labels, targets = jnp.array([0, 3, 0]), jnp.array([1, 1, 1])
    np.testing.assert_allclose(losses.dlr(ties, labels), [0, 1, -2])
    np.testing.assert_allclose(losses.targeted_dlr(ties, labels, targets), [0, 1 / 0.5, -2])
    assert np.isfinite(grad(losses.dlr, ties, labels)).all()
    assert np.isfinite(grad(lambda z, t: losses.targeted_dlr(z, labels, t), ties, targets)).all()
