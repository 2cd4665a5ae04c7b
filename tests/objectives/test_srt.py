"""SRT against eq. (15) written out in NumPy, and its exact reductions to RT and Standard."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD, RandomSearch, Sequence
from jaxrobust.neighbourhoods import LInf, RotationTranslation
from jaxrobust.numerics import losses
from jaxrobust.objectives import AT, RT, SRT, Standard, distribution, hard_label
from tests.common.objectives_table import LINEAR, Shift, batch
from tests.common.tiny import tiny_fit
from tests.objectives.by_hand import cross_entropy, kernel, kl, log_softmax, logits_of, run


def margin(z, target):
    rows = np.arange(len(z))
    others = z.copy()
    others[rows, target] = -np.inf
    return others.max(-1) - z[rows, target]


@pytest.mark.parametrize(
    ("robust_loss_fn", "target_fn", "by_hand"),
    [
        (losses.cross_entropy, hard_label, lambda z, zx: cross_entropy(z, zx.argmax(-1))),
        (losses.margin, hard_label, lambda z, zx: margin(z, zx.argmax(-1))),
        (losses.kl, distribution, lambda z, zx: kl(z, np.exp(log_softmax(zx)))),
        (
            losses.cross_entropy,
            distribution,
            lambda z, zx: -(np.exp(log_softmax(zx)) * log_softmax(z)).sum(-1),
        ),
    ],
)
def test_loss_is_equation_15(robust_loss_fn, target_fn, by_hand):
    b = batch()
    objective = SRT(attack=Shift(amount=0.2), lam=0.7, robust_loss_fn=robust_loss_fn, target_fn=target_fn)
    loss, aux, _ = run(objective, b)
    images = np.concatenate([b.image, b.unlabelled])
    standard = cross_entropy(logits_of(b.image), np.asarray(b.label)).mean()
    robust = by_hand(logits_of(images + 0.2), logits_of(images)).mean()
    np.testing.assert_allclose(loss, standard + 0.7 * robust, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["robust_loss"], robust, rtol=1e-5, atol=1e-6)
    agreement = (logits_of(images + 0.2).argmax(-1) == logits_of(images).argmax(-1)).mean()
    np.testing.assert_allclose(aux.metrics["agreement"], agreement, rtol=1e-6)


def test_the_target_is_the_prediction_and_not_the_label():
    b = batch()
    _, aux, _ = run(SRT(attack=Shift(), lam=0.7), b)
    _, other, _ = run(SRT(attack=Shift(), lam=0.7), b._replace(label=(b.label + 1) % 3))
    assert float(aux.metrics["robust_loss"]) == float(other.metrics["robust_loss"])
    assert float(aux.metrics["standard_loss"]) != float(other.metrics["standard_loss"])


def test_gradient_holds_target_and_adversarial_images_fixed():
    b, p = batch(num_labelled=1), kernel()
    attack = PGD(neighbourhood=LInf(eps=0.1), steps=2, step_size=0.5)
    _, _, grads = run(SRT(attack=attack, lam=1.0, target_fn=distribution, robust_loss_fn=losses.kl), b)
    # With x' and the target fixed, d/dW = mean x (softmax - onehot) + mean x' (softmax(x'W) - f(x)).
    images = np.concatenate([b.image, b.unlabelled])
    keys = jnp.concatenate(
        [
            jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(s), jnp.arange(n))
            for s, n in ((0, 1), (1, 8))
        ]
    )
    from jaxrobust.objectives._rows import ATTACK, keys_for
    from jaxrobust.types import Example

    target = np.exp(log_softmax(logits_of(images)))
    found = attack(
        keys_for(keys, ATTACK),
        lambda x, _: x.reshape(x.shape[0], -1) @ jnp.asarray(p, jnp.float32),
        Example(image=jnp.asarray(images), target=jnp.asarray(target, jnp.float32)),
    ).image
    flat = np.asarray(found, np.float64).reshape(len(images), -1)
    expected = flat.T @ (np.exp(log_softmax(flat @ p)) - target) / len(images)
    clean = np.asarray(b.image, np.float64).reshape(1, -1)
    expected += clean.T @ (np.exp(log_softmax(clean @ p)) - np.eye(3)[np.asarray(b.label)])
    np.testing.assert_allclose(grads["kernel"], expected, atol=1e-5)


def test_lam_0_is_standard_exactly_and_makes_no_second_pass():
    b = batch()
    loss, aux, grads = run(SRT(attack=Shift(), lam=0.0), b, LINEAR)
    plain, plain_aux, plain_grads = run(Standard(), b, LINEAR)
    assert float(loss) == float(plain)
    assert (np.asarray(grads["kernel"]) == np.asarray(plain_grads["kernel"])).all()
    assert float(aux.stats["passes"]) == float(plain_aux.stats["passes"]) == 1
    assert aux.metrics.keys() == plain_aux.metrics.keys()


def test_without_unlabelled_images_it_is_rt_exactly():
    attack = PGD(neighbourhood=LInf(eps=0.1), steps=2, step_size=0.5)
    loss, aux, grads = run(SRT(attack=attack), batch(num_unlabelled=0), LINEAR)
    other, other_aux, other_grads = run(RT(attack=attack), batch(num_unlabelled=8), LINEAR)
    assert float(loss) == float(other)
    assert (np.asarray(grads["kernel"]) == np.asarray(other_grads["kernel"])).all()
    assert {k: float(v) for k, v in aux.metrics.items()} == {
        k: float(v) for k, v in other_aux.metrics.items()
    }


@pytest.mark.parametrize(("joint_pass", "passes"), [(False, 2), (True, 1)])
def test_passes_that_batchnorm_sees(joint_pass, passes):
    _, aux, _ = run(SRT(attack=Shift(), joint_pass=joint_pass), batch(), LINEAR)
    assert float(aux.stats["passes"]) == passes
    assert float(aux.stats["rows"]) == 4 + 12


def test_one_pass_or_two_agree_without_batchnorm():
    one, two = (run(SRT(attack=Shift(), joint_pass=joint), batch(), LINEAR)[0] for joint in (True, False))
    np.testing.assert_allclose(one, two, rtol=1e-6)


def test_warmup_grows_the_radius_from_0():
    b = batch()
    robust = {
        progress: float(run(SRT(attack=Shift(), warmup=0.4), b, progress=progress)[1].metrics["robust_loss"])
        for progress in (0.0, 0.2, 0.4, 0.9)
    }
    images = np.concatenate([b.image, b.unlabelled])
    target = logits_of(images).argmax(-1)
    for progress, factor in ((0.0, 0.0), (0.2, 0.5), (0.4, 1.0), (0.9, 1.0)):
        expected = cross_entropy(logits_of(images + 0.1 * factor), target).mean()
        np.testing.assert_allclose(robust[progress], expected, rtol=1e-5)


def test_warmup_reaches_into_a_real_attack():
    attack = PGD(neighbourhood=LInf(eps=0.1), steps=2, step_size=0.5)
    cold = run(SRT(attack=attack, warmup=0.5), batch(), progress=0.0)[1].metrics["robust_loss"]
    warm = run(SRT(attack=attack, warmup=0.5), batch(), progress=0.5)[1].metrics["robust_loss"]
    assert float(warm) > float(cold)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lam": -0.1}, "Expected lam >= 0, got lam=-0.1"),
        ({"warmup": 1.5}, "warmup"),
        ({"attack": "pgd"}, "Expected attack to be an attack"),
    ],
)
def test_bad_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SRT(**{"attack": Shift(), **options})


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.9, 1.0)])
@pytest.mark.parametrize("kind", [RT, SRT])
def test_lam_grows_over_its_warmup(kind, progress, share):
    objective = kind(attack=Shift(), lam=0.8, lam_warmup=0.5)
    loss, aux, _ = run(objective, batch(), progress=progress)
    expected = aux.metrics["standard_loss"] + 0.8 * share * aux.metrics["robust_loss"]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_a_sure_pseudo_label_counts_more(power):
    b = batch()
    _, aux, grads = run(SRT(attack=Shift(amount=0.2), lam=0.7, confidence_power=power), b)
    images = np.concatenate([b.image, b.unlabelled])
    clean, moved = logits_of(images), logits_of(images + 0.2)
    weight, target = np.exp(log_softmax(clean)).max(-1) ** power, clean.argmax(-1)
    robust = (weight * cross_entropy(moved, target)).mean()
    np.testing.assert_allclose(aux.metrics["robust_loss"], robust, rtol=1e-5)
    # The weight is held fixed.
    z = logits_of(b.image)
    expected = np.asarray(b.image).reshape(4, -1).T @ (np.exp(log_softmax(z)) - np.eye(3)[b.label]) / 4
    pull = weight[:, None] * (np.exp(log_softmax(moved)) - np.eye(3)[target])
    expected += 0.7 * (images + 0.2).reshape(12, -1).T @ pull / 12
    np.testing.assert_allclose(grads["kernel"], expected, atol=1e-5)


def test_options_that_came_later_are_off():
    assert (SRT(attack=Shift()).lam_warmup, SRT(attack=Shift()).confidence_power) == (0.0, 0.0)
    with pytest.raises(ValueError, match="lam_warmup"):
        RT(attack=Shift(), lam_warmup=2.0)
    with pytest.raises(ValueError, match="confidence_power"):
        SRT(attack=Shift(), confidence_power=-1.0)


@pytest.mark.parametrize("kind", [pytest.param(AT, marks=pytest.mark.slow), SRT])
def test_composite_defences_train(kind):
    """AT+ (geometry first) and SRT+ (pixels first) are AT and SRT with a sequence as their attack."""
    moves = RandomSearch(neighbourhood=RotationTranslation(max_angle=30.0, max_shift=1.0), num=3)
    climb = PGD(neighbourhood=LInf(eps=0.1), steps=1, step_size=0.5, keep_worst=False)
    stages = (moves, climb) if kind is AT else (climb, moves)
    state = tiny_fit(2, objective=kind(attack=Sequence(stages=stages), warmup=0.5))
    assert int(state.step) == 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))
