"""The order of candidates: misclassified first, then by loss; NaN never wins."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks import PGD, RandomSearch
from jaxrobust.attacks._worst import class_of, judge, nothing, worse_of
from jaxrobust.neighbourhoods import LInf
from jaxrobust.types import Example

TARGET = jnp.zeros(3, jnp.int32)
RIGHT, WRONG = [2.0, 0.0], [0.0, 2.0]


def candidate(name, logits, losses):
    return judge(jnp.full(3, name), jnp.array(logits), jnp.array(losses), TARGET)


def test_a_misclassified_candidate_beats_a_correct_one_of_any_loss():
    a = candidate(1.0, [RIGHT, WRONG, RIGHT], [9.0, 0.1, 1.0])
    b = candidate(2.0, [WRONG, RIGHT, RIGHT], [0.1, 9.0, 2.0])
    np.testing.assert_array_equal(worse_of(a, b).theta, [2.0, 1.0, 2.0])
    np.testing.assert_array_equal(worse_of(b, a).theta, [2.0, 1.0, 2.0])


def test_ties_keep_the_earlier():
    a, b = candidate(1.0, [RIGHT] * 3, [1.0] * 3), candidate(2.0, [RIGHT] * 3, [1.0] * 3)
    np.testing.assert_array_equal(worse_of(a, b).theta, [1.0, 1.0, 1.0])


def test_nan_never_replaces_and_is_always_replaced():
    nan = jnp.nan
    good = candidate(1.0, [RIGHT, WRONG, RIGHT], [0.0, 0.0, -jnp.inf])
    for bad in (candidate(2.0, [WRONG] * 3, [nan] * 3), candidate(2.0, [[nan, 1.0]] * 3, [5.0] * 3)):
        np.testing.assert_array_equal(bad.level, 0)
        np.testing.assert_array_equal(worse_of(good, bad).theta, 1.0)
        np.testing.assert_array_equal(worse_of(bad, good).theta, 1.0)


def test_an_infinite_loss_wins_among_equals():
    a, b = candidate(1.0, [RIGHT] * 3, [1e30] * 3), candidate(2.0, [RIGHT] * 3, [jnp.inf] * 3)
    np.testing.assert_array_equal(worse_of(a, b).theta, 2.0)


def test_nothing_found_keeps_the_identity():
    ex = Example(jnp.full((3, 2, 2, 1), 0.5), TARGET)
    start = nothing(LInf(eps=0.1), ex)
    bad = judge(jnp.ones((3, 2, 2, 1)), jnp.full((3, 2), jnp.nan), jnp.zeros(3), TARGET)
    np.testing.assert_array_equal(worse_of(start, bad).theta, 0.0)


def test_the_class_of_a_distribution_is_its_argmax():
    np.testing.assert_array_equal(class_of(jnp.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]])), [1, 0])
    np.testing.assert_array_equal(class_of(jnp.array([2, 0])), [2, 0])


def test_a_one_hot_target_is_the_label():
    weights = jax.random.normal(jax.random.key(0), (16, 3))
    images = jax.random.uniform(jax.random.key(1), (4, 4, 4, 1))
    keys = jax.random.split(jax.random.key(2), 4)
    score = lambda x, ex: x.reshape(x.shape[0], -1) @ weights  # noqa: E731
    label = jnp.argmax(score(images, None), axis=-1)
    for attack in (PGD(neighbourhood=LInf(eps=0.3), steps=3), RandomSearch(neighbourhood=LInf(eps=0.3))):
        run = jax.jit(lambda target, attack=attack: attack(keys, score, Example(images, target)))
        a, b = run(label), run(jax.nn.one_hot(label, 3))
        np.testing.assert_array_equal(a.found, b.found)
        np.testing.assert_allclose(a.image, b.image, atol=1e-6)


def test_a_model_that_turns_nan_on_the_way_leaves_the_last_sound_point():
    """The loss is NaN above a total of 9: the worst point found is the highest below."""

    def score(images, ex):
        total = images.sum(axis=(1, 2, 3))
        total = jnp.where(total > 9.0, jnp.nan, total)
        return jnp.stack([-total, total - 19.0], axis=-1)

    ex = Example(jnp.full((1, 4, 4, 1), 0.5), jnp.array([0]))
    attack = PGD(neighbourhood=LInf(eps=0.2), steps=10, step_size=0.1, start_fn=lambda k, n, e: n.init(e))
    result = jax.jit(lambda ex: attack(jax.random.split(jax.random.key(0), 1), score, ex))(ex)
    assert 8.5 < float(result.image.sum()) <= 9.0


def test_that_the_model_was_nan_somewhere_is_remembered_and_told():
    nan = candidate(2.0, [[jnp.nan, 1.0], RIGHT, RIGHT], [0.0, jnp.nan, 1.0])
    good = candidate(1.0, [RIGHT, WRONG, RIGHT], [0.0, 0.0, 0.0])
    for worst in (worse_of(good, nan), worse_of(nan, good), worse_of(worse_of(nan, good), good)):
        np.testing.assert_array_equal(worst.broken, [True, True, False])


def test_a_search_tells_of_nan_in_any_chunk():
    ex = Example(jnp.full((2, 2, 2, 1), 0.5), TARGET[:2])

    def score(images, example):
        # NaN for the first row's image alone, which is the brighter one.
        total = images.sum(axis=(1, 2, 3))
        return jnp.stack([jnp.where(total > 3, jnp.nan, 1.0), 0 * total], axis=-1)

    ex = ex._replace(image=ex.image.at[0].set(0.9))
    for attack in (
        RandomSearch(neighbourhood=LInf(eps=0.01), num=3, chunk=2),
        PGD(neighbourhood=LInf(eps=0.01), steps=2),
        PGD(neighbourhood=LInf(eps=0.01), steps=2, restarts=2, keep_worst=False),
    ):
        result = attack(jax.random.split(jax.random.key(0), 2), score, ex)
        np.testing.assert_array_equal(result.nonfinite, [True, False])
