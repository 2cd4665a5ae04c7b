"""RST against its formula in NumPy, and its exact reduction to TRADES."""

import numpy as np
import pytest

from jaxrobust.attacks import PGD, fgsm
from jaxrobust.neighbourhoods import LInf
from jaxrobust.objectives import RST, TRADES, Standard
from tests.common.objectives_table import LINEAR, Shift, batch
from tests.objectives.by_hand import cross_entropy, kl, log_softmax, logits_of, run

ATTACK = PGD(neighbourhood=LInf(eps=0.1), steps=2, step_size=0.5)


@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_loss_and_gradient_are_trades_on_labels_and_pseudo_labels(weight):
    b = batch()
    loss, aux, grads = run(RST(attack=Shift(amount=0.2), beta=2.0, unlabelled_weight=weight), b)
    images = np.concatenate([b.image, b.unlabelled]).astype(np.float64)
    target = np.concatenate([b.label, b.pseudo_label])
    share = np.where(np.arange(12) < 4, 1.0, weight)
    share /= share.sum()
    z, moved = logits_of(images), logits_of(images + 0.2)
    p, q = np.exp(log_softmax(z)), np.exp(log_softmax(moved))
    standard, robust = (share * cross_entropy(z, target)).sum(), (share * kl(moved, p)).sum()
    np.testing.assert_allclose(loss, standard + 2.0 * robust, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["standard_loss"], standard, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["accuracy"], (z.argmax(-1) == target)[:4].mean())
    # The gradient goes through f(x) too: d KL / dz = p * (log p - log q - KL).
    inner = p * (log_softmax(z) - log_softmax(moved) - kl(moved, p)[:, None])
    flat, flat_moved = images.reshape(12, -1), (images + 0.2).reshape(12, -1)
    expected = flat.T @ (share[:, None] * (p - np.eye(3)[target] + 2.0 * inner))
    expected += flat_moved.T @ (share[:, None] * 2.0 * (q - p))
    np.testing.assert_allclose(grads["kernel"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "num_unlabelled"), [({"unlabelled_weight": 0.0}, 8), ({}, 0), ({"unlabelled_weight": 0.3}, 0)]
)
def test_without_unlabelled_rows_it_is_trades_exactly(options, num_unlabelled):
    loss, aux, grads = run(RST(attack=ATTACK, **options), batch(num_unlabelled=num_unlabelled), LINEAR)
    other, other_aux, other_grads = run(TRADES(attack=ATTACK), batch(), LINEAR)
    np.testing.assert_allclose(loss, other, rtol=0 if num_unlabelled else 1e-6)
    np.testing.assert_allclose(grads["kernel"], other_grads["kernel"], rtol=0 if num_unlabelled else 1e-5)
    assert aux.metrics.keys() == other_aux.metrics.keys()
    assert float(aux.stats["rows"]) == float(other_aux.stats["rows"]) == 8


def test_beta_0_without_unlabelled_rows_is_standard_exactly():
    loss, aux, grads = run(RST(attack=ATTACK, beta=0.0, unlabelled_weight=0.0), batch(), LINEAR)
    other, other_aux, other_grads = run(Standard(), batch(), LINEAR)
    assert float(loss) == float(other) and float(aux.stats["passes"]) == 1
    assert (np.asarray(grads["kernel"]) == np.asarray(other_grads["kernel"])).all()
    assert aux.metrics.keys() == other_aux.metrics.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1}, "Expected beta >= 0"),
        ({"unlabelled_weight": -1}, "Expected unlabelled_weight >= 0"),
        ({"attack": fgsm(LInf(eps=0.1))}, "beside the clean image"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RST(**{"attack": Shift(), **options})
