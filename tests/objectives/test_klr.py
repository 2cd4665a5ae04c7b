"""KLR against its formula in NumPy, and its exact reductions to TRADES and Standard."""

import numpy as np
import pytest

from jaxrobust.attacks import PGD, RandomSearch
from jaxrobust.neighbourhoods import LInf, RotationTranslation
from jaxrobust.objectives import KLR, TRADES, Standard
from tests.common.objectives_table import LINEAR, Shift, batch
from tests.objectives.by_hand import cross_entropy, kl, log_softmax, logits_of, run

ATTACK = PGD(neighbourhood=LInf(eps=0.1), steps=2, step_size=0.5)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_loss_and_gradient_by_the_authors_batches(share):
    """`nat`, `mix` and `rob`."""
    b = batch()
    loss, aux, grads = run(KLR(attack=Shift(amount=0.2), lam=2.0, adversarial_share=share), b)
    label = np.asarray(b.label)
    images = np.asarray(b.image, np.float64)
    z, moved = logits_of(images), logits_of(images + 0.2)
    p, q = np.exp(log_softmax(z)), np.exp(log_softmax(moved))
    entropy = (1 - share) * cross_entropy(z, label) + share * cross_entropy(moved, label)
    np.testing.assert_allclose(loss, (entropy + 2.0 * kl(moved, p)).mean(), rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["robust_loss"], kl(moved, p).mean(), rtol=1e-5)
    inner = p * (log_softmax(z) - log_softmax(moved) - kl(moved, p)[:, None])
    expected = images.reshape(4, -1).T @ ((1 - share) * (p - np.eye(3)[label]) + 2.0 * inner)
    expected += (images + 0.2).reshape(4, -1).T @ (share * (q - np.eye(3)[label]) + 2.0 * (q - p))
    np.testing.assert_allclose(grads["kernel"], expected / 4, atol=1e-5)


def test_in_two_passes_it_is_trades_exactly():
    loss, aux, grads = run(KLR(attack=ATTACK, lam=6.0, joint_pass=False), batch(), LINEAR)
    other, other_aux, other_grads = run(TRADES(attack=ATTACK, beta=6.0), batch(), LINEAR)
    assert float(loss) == float(other)
    assert (np.asarray(grads["kernel"]) == np.asarray(other_grads["kernel"])).all()
    assert aux.metrics.keys() == other_aux.metrics.keys()


def test_clean_and_transformed_images_are_one_batch():
    assert float(run(KLR(attack=ATTACK), batch(), LINEAR)[1].stats["passes"]) == 1


def test_lam_0_is_standard_exactly():
    loss, aux, grads = run(KLR(attack=ATTACK, lam=0.0), batch(), LINEAR)
    other, other_aux, other_grads = run(Standard(), batch(), LINEAR)
    assert float(loss) == float(other) and float(aux.stats["rows"]) == 4
    assert (np.asarray(grads["kernel"]) == np.asarray(other_grads["kernel"])).all()
    assert aux.metrics.keys() == other_aux.metrics.keys()


def test_the_worst_transform_is_that_of_the_largest_divergence():
    """Random search ranks by its cross-entropy to f(x), the KL but for a constant of the row."""
    attack = RandomSearch(neighbourhood=RotationTranslation(max_angle=30.0, max_shift=0.5), num=10)
    one = run(KLR(attack=attack, lam=1.0), batch())[1].metrics["robust_loss"]
    fewer = RandomSearch(neighbourhood=attack.neighbourhood, num=1)
    assert float(one) >= float(run(KLR(attack=fewer, lam=1.0), batch())[1].metrics["robust_loss"]) >= 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -1}, "Expected lam >= 0"),
        ({"adversarial_share": 1.5}, "adversarial_share"),
        ({"warmup": -0.5}, "warmup"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        KLR(**{"attack": Shift(), **options})
