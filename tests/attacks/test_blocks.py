"""Rows in blocks: the same results, in the same places, on one device and on several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxrobust
from jaxrobust import evaluation, models
from jaxrobust.attacks import APGD, FAB, PGD, RandomSearch, bpda, eot, exact_gradient
from jaxrobust.attacks._blocks import by_blocks, num_blocks
from jaxrobust.neighbourhoods import L2, LInf
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.types import Example

RNG = np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.uniform(size=(96, 4, 4, 1)), jnp.float32)
LABELS = jnp.asarray(RNG.integers(0, 3, 96), jnp.int32)
WEIGHTS = jnp.asarray(RNG.normal(size=(16, 3)), jnp.float32)
KEYS = jax.random.split(jax.random.key(0), 96)


def score_fn(images, example):
    del example
    return jnp.tanh(images.reshape(len(images), -1)) @ WEIGHTS


def loops(fn, *args):
    return jax.jit(fn).lower(*args).as_text().count("stablehlo.while")


@pytest.mark.parametrize("num", [1, 2, 47, 48, 53, 64, 96, 250, 256, 1000, 1021])
def test_blocks_divide_the_rows_and_are_of_a_fit_size(num):
    parts = num_blocks(num)
    assert num % parts == 0
    assert parts == 1 or 16 <= num // parts <= 64


def test_rows_come_back_in_their_places():
    rows = (jnp.arange(96), jnp.arange(192.0).reshape(96, 2))
    found = by_blocks(lambda block: {"sum": block[0] + block[1].sum(axis=1), "own": block[0]}, rows)
    np.testing.assert_array_equal(found["own"], rows[0])
    np.testing.assert_array_equal(found["sum"], rows[0] + rows[1].sum(axis=1))


def test_the_gradient_of_a_large_batch_is_that_of_its_rows():
    example = Example(IMAGES, LABELS)
    whole = jax.vmap(
        lambda x, y: jax.value_and_grad(lambda x: cross_entropy(score_fn(x[None], None), y[None])[0])(x)
    )(IMAGES, LABELS)
    assert loops(lambda x: exact_gradient(KEYS, score_fn, cross_entropy, x, example), IMAGES) == 1
    (losses, logits), gradients = exact_gradient(KEYS, score_fn, cross_entropy, IMAGES, example)
    np.testing.assert_allclose(losses, whole[0], rtol=1e-5)
    np.testing.assert_allclose(gradients, whole[1], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(logits, score_fn(IMAGES, None), rtol=1e-5, atol=1e-6)


def test_the_model_sees_blocks_also_where_no_gradient_is_taken():
    seen = []

    def logits_fn(images):
        seen.append(len(images))
        return score_fn(images, None)

    attack = RandomSearch(neighbourhood=LInf(eps=0.1), num=3, chunk=2)
    jaxrobust.attack(attack, logits_fn, IMAGES, LABELS, key=jax.random.key(0))
    # The whole batch is seen once, when the model's answer is checked; 192 candidates at a time are scored.
    assert set(seen) == {96, 32}


def test_an_evaluation_shows_the_model_blocks():
    seen = []

    def logits_fn(params, images):
        seen.append(len(images))
        return images.reshape(len(images), -1) @ params

    model = models.from_callable(logits_fn, WEIGHTS, (4, 4, 1))
    entry = {"none": evaluation.EvalAttack(None)}
    options = {"batch_size": 96, "seed": 0, "trust_checks": False, "num_devices": 1}
    evaluation.evaluate(model, WEIGHTS, {}, IMAGES, LABELS, entry, **options)
    assert 32 in seen


@pytest.mark.parametrize(
    "attack",
    [
        APGD(neighbourhood=LInf(eps=0.1), steps=3, num_targets=2, gradient_fn=bpda(score_fn)),
        FAB(neighbourhood=L2(eps=1.0), steps=2, gradient_fn=bpda(score_fn)),
        FAB(neighbourhood=L2(eps=1.0), steps=2, gradient_fn=eot(2, lambda key, image: image)),
    ],
    ids=["apgd-targets", "fab-bpda", "fab-eot"],
)
def test_a_loss_with_a_class_for_each_row_is_divided_with_the_rows(attack):
    example = Example(IMAGES, jnp.argmax(score_fn(IMAGES, None), axis=-1))
    large = jax.jit(lambda keys, ex: attack(keys, score_fn, ex))(KEYS, example)
    part = jax.tree.map(lambda leaf: leaf[40:55], (KEYS, example))
    small = jax.jit(lambda keys, ex: attack(keys, score_fn, ex))(*part)
    np.testing.assert_allclose(large.image[40:55], small.image, atol=1e-4)
    np.testing.assert_array_equal(large.found[40:55], small.found)
    assert large.found.any()


def test_a_batch_that_is_divided_over_devices_stays_divided():
    attack = PGD(neighbourhood=LInf(eps=0.1), steps=3, step_size=0.5)
    sharding = NamedSharding(Mesh(np.array(jax.devices()[:4]), ("rows",)), PartitionSpec("rows"))

    @jax.jit
    def run(keys, images, labels):
        return attack(keys, score_fn, Example(images, labels)).image

    alone = run(KEYS, IMAGES, LABELS)
    placed = [jax.device_put(leaf, sharding) for leaf in (KEYS, IMAGES, LABELS)]
    divided = run(*placed)
    np.testing.assert_allclose(alone, divided, atol=1e-6)
    text = run.lower(*placed).compile().as_text()
    assert "all-gather" not in text
    assert "all-to-all" not in text
