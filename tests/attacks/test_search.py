"""Random and grid search against brute force in NumPy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import GridSearch, RandomSearch
from jaxrobust.neighbourhoods import ColourShift, LInf, RotationTranslation
from jaxrobust.numerics import losses
from jaxrobust.types import Example

MOVES = RotationTranslation(max_angle=40.0, max_shift=2.0)
COLOURS = ColourShift(hue=120.0, grey=0.8)
IMAGES = jax.random.uniform(jax.random.key(0), (5, 7, 7, 1))
WEIGHTS = 3 * jax.random.normal(jax.random.key(1), (49, 4))
KEYS = jax.random.split(jax.random.key(2), 5)


def score(images, ex):
    return jnp.sin(images.reshape(images.shape[0], -1) @ WEIGHTS)


TARGET = jnp.argmax(score(IMAGES, None), axis=-1)
EXAMPLE = Example(IMAGES, TARGET)


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_grid_search_equals_brute_force(chunk):
    grid = MOVES.grid((3, 3, 5))
    images = jax.jit(jax.vmap(jax.vmap(MOVES.apply, (None, 0)), (0, None)))(EXAMPLE, grid)
    logits = np.asarray(score(images.reshape(-1, 7, 7, 1), None)).reshape(5, 45, 4)
    fooled = logits.argmax(-1) != np.asarray(TARGET)[:, None]
    loss = np.asarray(losses.cross_entropy(logits.reshape(-1, 4), jnp.repeat(TARGET, 45))).reshape(5, 45)
    best = [max(range(45), key=lambda j, i=i: (fooled[i, j], loss[i, j])) for i in range(5)]
    attack = GridSearch(neighbourhood=MOVES, granularity=(3, 3, 5), chunk=chunk)
    result = jax.jit(lambda ex: attack(KEYS, score, ex))(EXAMPLE)
    np.testing.assert_array_equal(result.found, fooled[np.arange(5), best])
    np.testing.assert_allclose(result.theta.angle, grid.angle[np.array(best)])
    np.testing.assert_allclose(result.theta.shift, grid.shift[np.array(best)])
    np.testing.assert_allclose(result.image, images[np.arange(5), np.array(best)], atol=1e-6)


def test_a_grid_of_colours_equals_brute_force():
    images = jax.random.uniform(jax.random.key(3), (5, 3, 3, 3))
    kernel = 3 * jax.random.normal(jax.random.key(4), (27, 4))
    grid = COLOURS.grid((3, 1, 1, 1, 3))

    def waves(images, ex):
        return jnp.sin(images.reshape(images.shape[0], -1) @ kernel)

    ex = Example(images, jnp.argmax(waves(images, None), axis=-1))
    shifted = jax.jit(jax.vmap(jax.vmap(COLOURS.apply, (None, 0)), (0, None)))(ex, grid)
    margins = losses.margin(waves(shifted.reshape(45, 3, 3, 3), None), jnp.repeat(ex.target, 9)).reshape(5, 9)
    attack = GridSearch(neighbourhood=COLOURS, granularity=(3, 1, 1, 1, 3), loss_fn=losses.margin)
    result = jax.jit(lambda ex: attack(KEYS, waves, ex))(ex)
    best = np.argmax(margins, axis=1)
    np.testing.assert_array_equal(result.found, np.max(margins, axis=1) > 0)
    np.testing.assert_array_equal(result.theta.hue, grid.hue[best])
    np.testing.assert_array_equal(result.theta.grey, grid.grey[best])


def test_a_misclassified_pose_beats_a_correct_one_of_higher_loss():
    def by_size(images, ex):
        total = images.sum(axis=(1, 2, 3))
        # Empty images are misclassified; full ones are right, and the custom loss below likes them.
        return jnp.stack([total - 1.0, jnp.zeros_like(total)], axis=-1)

    attack = GridSearch(
        neighbourhood=RotationTranslation(max_angle=0.0, max_shift=9.0),
        granularity=(3, 1, 1),
        loss_fn=lambda logits, target: logits[:, 0],
    )
    ex = Example(jnp.ones((1, 5, 5, 1)), jnp.array([0]))
    result = attack(KEYS[:1], by_size, ex)
    assert bool(result.found[0])
    assert float(result.image.sum()) == 0.0


def test_random_search_draws_do_not_depend_on_their_number_or_chunk():
    def run(num, chunk):
        attack = RandomSearch(neighbourhood=MOVES, num=num, chunk=chunk)
        return jax.jit(lambda ex: attack(KEYS, score, ex))(EXAMPLE)

    few, many, chunked = run(3, 1), run(12, 1), run(12, 5)
    assert bool((many.found >= few.found).all())
    np.testing.assert_allclose(chunked.theta.angle, many.theta.angle, atol=1e-5)
    np.testing.assert_array_equal(chunked.found, many.found)
    draws = [
        [MOVES.sample(jax.random.fold_in(key, i), None if ex is None else ex).angle for i in range(3)]
        for key, ex in [(KEYS[0], Example(IMAGES[0], TARGET[0]))]
    ]
    assert float(few.theta.angle[0]) in [float(angle) for angle in draws[0]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GridSearch(neighbourhood=LInf(eps=0.1)), "with a grid.*RandomSearch"),
        (lambda: GridSearch(neighbourhood=MOVES, granularity=(5, 0, 31)), "granularity of right >= 1"),
        (lambda: GridSearch(neighbourhood=MOVES, granularity=(5, 31)), r"\(down, right, angle\)"),
        (lambda: GridSearch(neighbourhood=COLOURS), r"5 numbers of values \(hue, .*grey\), got \(5, 5, 31\)"),
        (lambda: GridSearch(neighbourhood=replace(COLOURS, per_pixel=True)), "with a grid.*whole image"),
        (lambda: GridSearch(neighbourhood=MOVES, chunk=0), "chunk"),
        (lambda: RandomSearch(neighbourhood=MOVES, num=0), "num >= 1"),
        (lambda: RandomSearch(neighbourhood=MOVES, chunk=0), "chunk"),
    ],
)
def test_options_are_checked(make, words):
    with pytest.raises(ValueError, match=words):
        make()
