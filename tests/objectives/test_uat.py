"""UAT's three forms against their formulas in NumPy, and their exact reductions to AT and SRT."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD
from jaxrobust.neighbourhoods import LInf
from jaxrobust.numerics import losses
from jaxrobust.objectives import AT, SRT, UAT, Standard, distribution
from tests.common.objectives_table import LINEAR, Shift, batch
from tests.objectives.by_hand import cross_entropy, kl, log_softmax, logits_of, run

ATTACK = PGD(neighbourhood=LInf(eps=0.1), steps=2, step_size=0.5)


def test_uat_plus_plus_is_both_terms_on_one_attacked_image():
    b = batch()
    loss, aux, grads = run(UAT(attack=Shift(amount=0.2), fixed_weight=0.5, online_weight=0.7), b)
    images = np.concatenate([b.image, b.unlabelled])
    target = np.concatenate([b.label, b.pseudo_label])
    clean, moved = np.exp(log_softmax(logits_of(images))), logits_of(images + 0.2)
    fixed, online = cross_entropy(moved, target).mean(), kl(moved, clean).mean()
    np.testing.assert_allclose(loss, 0.5 * fixed + 0.7 * online, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["fixed_loss"], fixed, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["online_loss"], online, rtol=1e-5)
    right = (moved.argmax(-1) == target)[: len(b.label)].mean()
    np.testing.assert_allclose(aux.metrics["adversarial_accuracy"], right)
    # No gradient goes through the online target: both terms pull softmax(x' W) to what is held fixed.
    flat, p = (images + 0.2).reshape(len(images), -1), np.exp(log_softmax(moved))
    pulls = 0.5 * (p - np.eye(3)[target]) + 0.7 * (p - clean)
    np.testing.assert_allclose(grads["kernel"], flat.T @ pulls / len(images), atol=1e-5)


def test_one_image_climbs_the_sum_of_both_terms():
    seen = []

    class Spy(Shift):
        def __call__(self, keys, score_fn, example):
            seen.append(example.target)
            return super().__call__(keys, score_fn, example)

    b = batch()
    run(UAT(attack=Spy(), fixed_weight=0.5, online_weight=1.5), b, jitted=False)
    target = np.concatenate([b.label, b.pseudo_label])
    clean = np.exp(log_softmax(logits_of(np.concatenate([b.image, b.unlabelled]))))
    np.testing.assert_allclose(seen[0], 0.25 * np.eye(3)[target] + 0.75 * clean, atol=1e-6)


def equal(one, other):
    assert float(one[0]) == float(other[0])
    assert (np.asarray(one[2]["kernel"]) == np.asarray(other[2]["kernel"])).all()
    assert float(one[1].stats["passes"]) == float(other[1].stats["passes"])


def test_fixed_targets_without_unlabelled_images_are_adversarial_training():
    ours = UAT(attack=ATTACK, online_weight=0.0)
    equal(run(ours, batch(num_unlabelled=0), LINEAR), run(AT(attack=ATTACK), batch(), LINEAR))


def test_online_targets_are_srt_with_the_predicted_distribution():
    ours = UAT(attack=ATTACK, clean_weight=1.0, fixed_weight=0.0, online_weight=0.7)
    srt = SRT(attack=ATTACK, lam=0.7, robust_loss_fn=losses.kl, target_fn=distribution)
    assert not ours.needs_pseudo_labels
    equal(run(ours, batch()._replace(pseudo_label=None), LINEAR), run(srt, batch(), LINEAR))


def test_without_both_it_is_standard():
    ours = UAT(attack=ATTACK, clean_weight=1.0, fixed_weight=0.0, online_weight=0.0)
    equal(run(ours, batch(), LINEAR), run(Standard(), batch(), LINEAR))


def test_a_pseudo_label_goes_with_its_image():
    b = batch()
    order = jnp.arange(8)[::-1]
    moved = b._replace(unlabelled=b.unlabelled[order], pseudo_label=b.pseudo_label[order])
    objective = UAT(attack=Shift(amount=0.2))
    np.testing.assert_allclose(run(objective, moved)[0], run(objective, b)[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"online_weight": -1}, "Expected online_weight >= 0"),
        ({"online_weight": 0, "fixed_weight": 0}, "got 0 for all three"),
        ({"warmup": 2.0}, "warmup"),
        ({"attack": 3}, "attack"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        UAT(**{"attack": Shift(), **options})
