"""SRT for faces against its formula in NumPy, and its exact reduction to Standard."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD, identity_start
from jaxrobust.neighbourhoods import LInf
from jaxrobust.objectives import FaceSRT, Standard
from tests.common.objectives_table import LINEAR, PLAIN, Shift, batch
from tests.objectives.by_hand import cross_entropy, kernel, logits_of, run
from tests.objectives.face_net import PAIRS, face_fit


def embed(images, w):
    e = images @ w - 1
    return e / np.linalg.norm(e, axis=-1, keepdims=True)


def by_hand(b, w, clean_w):
    """L + 0.7 mean(1 - cos), with the embedding that is held to by other weights."""
    images = np.concatenate([b.image, b.unlabelled]).astype(np.float64).reshape(-1, 4)
    standard = cross_entropy(images[: len(b.label)] @ w, np.asarray(b.label)).mean()
    robust = (1 - (embed(images + 0.2, w) * embed(images, clean_w)).sum(-1)).mean()
    return standard + 0.7 * robust, robust


def test_loss_and_gradient_by_hand():
    b, w, h = batch(), kernel(), 1e-6
    loss, aux, grads = run(FaceSRT(attack=Shift(amount=0.2), lam=0.7), b)
    expected, robust = by_hand(b, w, w)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics["robust_loss"], robust, rtol=1e-4)
    for index in np.ndindex(w.shape):
        step = np.zeros_like(w)
        step[index] = h
        slope = (by_hand(b, w + step, w)[0] - by_hand(b, w - step, w)[0]) / (2 * h)
        np.testing.assert_allclose(grads["kernel"][index], slope, atol=2e-5)


def test_lam_0_is_standard_bitwise():
    runs = [face_fit(3, objective) for objective in (FaceSRT(attack=PAIRS, lam=0.0), Standard())]
    chex.assert_trees_all_equal(*(jax.device_get(state) for state in runs))


def test_the_robust_term_reads_no_label():
    b = batch()
    objective = FaceSRT(attack=PAIRS, lam=0.7)
    _, aux, _ = run(objective, b)
    _, other, _ = run(objective, b._replace(label=(b.label + 1) % 3))
    assert float(aux.metrics["robust_loss"]) == float(other.metrics["robust_loss"])
    assert float(aux.metrics["standard_loss"]) != float(other.metrics["standard_loss"])


def test_the_attack_moves_the_embedding_and_only_the_clean_pass_advances_statistics():
    b = batch()
    still, moved = (
        run(FaceSRT(attack=PGD(neighbourhood=LInf(eps=eps), steps=4, step_size=0.5)), b, LINEAR)[1]
        for eps in (1e-12, 0.2)
    )
    assert float(moved.metrics["robust_loss"]) > float(still.metrics["robust_loss"])
    assert float(moved.stats["passes"]) == 1 and float(moved.stats["rows"]) == 4


def test_no_radius_has_finite_gradients_and_a_warm_up_begins_there():
    still = FaceSRT(attack=PGD(neighbourhood=LInf(eps=0.0), steps=1))
    loss, aux, grads = run(still, batch())
    chex.assert_tree_all_finite((loss, aux, grads))
    np.testing.assert_allclose(aux.metrics["robust_loss"], 0, atol=1e-6)
    warming = FaceSRT(attack=PAIRS, warmup=0.5)
    robust = [run(warming, batch(), progress=progress)[1].metrics["robust_loss"] for progress in (0.0, 0.5)]
    np.testing.assert_allclose(robust[0], 0, atol=1e-6)
    np.testing.assert_allclose(robust[1], run(FaceSRT(attack=PAIRS), batch())[1].metrics["robust_loss"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": jnp.zeros(3)}, "Expected attack to be an attack"),
        ({"attack": PGD(neighbourhood=LInf(eps=0.1), targeted=True)}, "Expected an untargeted attack"),
        ({"attack": PGD(neighbourhood=LInf(eps=0.1), start_fn=identity_start)}, "starts beside the clean"),
        ({"lam": -1}, "Expected lam >= 0"),
        ({"warmup": 2}, "Expected 0.0 <= warmup <= 1.0"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        FaceSRT(**{"attack": PAIRS, **options})


def test_plain_embeddings_are_those_of_the_hand():
    images = batch().image
    params, stats = PLAIN.init(jax.random.key(1))
    outputs, _ = PLAIN.apply(params, stats, images, train=False)
    np.testing.assert_allclose(outputs.embedding, logits_of(images) - 1, rtol=1e-5)
