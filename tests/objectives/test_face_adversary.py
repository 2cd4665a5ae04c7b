"""Who is to be taken for whom: targets of another class, fair coins, attacks that move the right cosine."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks import PGD
from jaxrobust.neighbourhoods import LInf
from jaxrobust.numerics.similarity import cosine
from jaxrobust.objectives import _face_adversary as faces
from jaxrobust.types import Net
from tests.common.objectives_table import PLAIN, Shift, batch

NUM = 6
KEYS = jax.random.split(jax.random.key(3), NUM)
LABELS = jnp.array([0, 0, 0, 1, 1, 2])
IMAGES = batch(num_labelled=NUM).image


def net():
    params, stats = PLAIN.init(jax.random.key(1))
    return Net(PLAIN, params, stats, jnp.float32(0))


def clean():
    return faces.embedding_of(net().frozen(IMAGES))


def test_real_targets_are_of_another_class_and_uniform():
    draw = jax.jit(lambda keys: faces.real_targets(keys, net(), LABELS, clean()).rows)
    many = np.asarray(jax.vmap(draw)(jax.random.split(jax.random.key(0), (3000, NUM))))
    labels = np.asarray(LABELS)
    assert (labels[many] != labels).all()
    for row in range(NUM):
        share = np.bincount(many[:, row], minlength=NUM) / len(many)
        others = labels != labels[row]
        # Five standard errors of a share of 3000.
        np.testing.assert_allclose(share[others], 1 / others.sum(), atol=5 * 0.5 / np.sqrt(len(many)))


def test_a_rows_draw_does_not_depend_on_the_other_rows_keys():
    first = faces.real_targets(KEYS, net(), LABELS, clean())
    second = faces.real_targets(KEYS.at[1:].set(KEYS[0]), net(), LABELS, clean())
    assert int(first.rows[0]) == int(second.rows[0]) and bool(first.found.all())
    np.testing.assert_array_equal(first.reference, clean()[first.rows])


def test_coins_are_fair_and_by_key():
    """Of rows with a target some impersonate and some dodge, about half of many; without one all dodge."""
    keys = jax.random.split(jax.random.key(1), 2000)
    images = jnp.tile(IMAGES[:1], (2000, 1, 1, 1))
    own, other = (jnp.tile(clean()[i : i + 1], (2000, 1)) for i in (0, 3))

    def impersonates(found):
        seen = []

        def spy(keys, score_fn, example):
            seen.append(example)
            return Shift()(keys, score_fn, example)

        faces.adversaries(spy, keys, net(), images, own, faces.Targets(other, jnp.full(2000, found)))
        (example,) = seen
        references = np.where(np.asarray(example.target)[:, None] == 1, other, own)
        np.testing.assert_array_equal(example.reference, references)
        return np.asarray(example.target)

    np.testing.assert_allclose(impersonates(True).mean(), 0.5, atol=5 * 0.5 / np.sqrt(2000))
    assert not impersonates(False).any()


def test_dodging_leaves_oneself_and_impersonation_nears_the_target():
    attack = PGD(neighbourhood=LInf(eps=0.1), steps=5, step_size=1 / 3)
    own = clean()
    other = own[jnp.array([3, 4, 5, 0, 1, 2])]
    dodged, posed = (
        faces.embedding_of(
            net().frozen(faces.perturbed(attack, KEYS, net(), IMAGES, reference, jnp.full(NUM, target)))
        )
        for reference, target in ((own, 0), (other, 1))
    )
    assert (cosine(dodged, own) < 1 - 1e-4).all()
    assert (cosine(posed, other) > cosine(own, other)).all()


def test_built_targets_are_led_to_another_class():
    b = batch(num_labelled=NUM)._replace(label=LABELS)
    wide = PGD(neighbourhood=LInf(eps=1.0), steps=10, step_size=0.2, targeted=True)
    targets = faces.built_targets(wide, KEYS, net(), b)
    classes = np.asarray(net().frozen(targets.images).logits.argmax(-1))
    found = np.asarray(targets.found)
    assert found.any() and (classes[found] != np.asarray(LABELS)[found]).all()
    np.testing.assert_allclose(targets.reference, faces.embedding_of(net().frozen(targets.images)), atol=1e-6)
    narrow = PGD(neighbourhood=LInf(eps=1e-6), steps=1, targeted=True)
    wrong = b._replace(label=net().frozen(IMAGES).logits.argmax(-1))
    assert not faces.built_targets(narrow, KEYS, net(), wrong).found.any()


def test_the_cosine_of_impostors_by_hand():
    embeddings, labels = np.asarray(clean(), np.float64), np.asarray(LABELS)
    pairs = [embeddings[i] @ embeddings[j] for i in range(NUM) for j in range(NUM) if labels[i] != labels[j]]
    found = faces.impostor_cosine(net(), clean(), LABELS)
    np.testing.assert_allclose(found, np.mean(pairs), rtol=1e-5)
