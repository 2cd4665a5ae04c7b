"""The joint composite: closed forms, brute force, against the greedy composites."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD, GridSearch, JointSearch, Sequence, exact_gradient, identity_start
from jaxrobust.neighbourhoods import ColourShift, Compose, LInf, RotationTranslation
from jaxrobust.numerics import losses
from jaxrobust.types import Example

EPS = 0.15
PIXELS, MOVES = LInf(eps=EPS), RotationTranslation(max_angle=40.0, max_shift=1.0)
FIRST, LAST = Compose(parts=(PIXELS, MOVES)), Compose(parts=(MOVES, PIXELS))
GRID = (3, 1, 3)
NUM, SHAPE = 6, (5, 5, 1)
IMAGES = jax.random.uniform(jax.random.key(0), (NUM, *SHAPE))
KEYS = jax.random.split(jax.random.key(1), NUM)
KERNEL = np.asarray(jax.random.normal(jax.random.key(2), (25,)))


def linear(images, ex):
    total = images.reshape(images.shape[0], -1) @ KERNEL
    return jnp.stack([-total, total], axis=-1)


def net(images, ex):
    first, second = jax.random.split(jax.random.key(3))
    kernel = 2 * jax.random.normal(first, (int(np.prod(images.shape[1:])), 10)) / 5
    hidden = jnp.tanh(images.reshape(images.shape[0], -1) @ kernel)
    return hidden @ jax.random.normal(second, (10, 4))


def run(attack, score_fn, example, keys=KEYS):
    return jax.jit(lambda keys, ex: attack(keys, score_fn, ex))(keys, example)


def margin_of(score_fn, images, target):
    return np.asarray(losses.margin(score_fn(images, None), target))


def matrices():
    """What each pose of the grid does to the 25 pixels, `[n, 25, 25]`: it is linear."""
    grid, basis = MOVES.grid(GRID), jnp.eye(25).reshape(25, *SHAPE)
    move = jax.vmap(lambda image, pose: MOVES.apply(Example(image, jnp.array(0)), pose), (0, None))
    moved = jax.jit(jax.vmap(move, (None, 0)))(basis, grid)
    return np.swapaxes(np.float64(moved).reshape(-1, 25, 25), 1, 2)


def best_offset(kernel, image):
    """The largest kernel . r over |r| <= EPS with pixels in [0, 1], in closed form."""
    up, down = np.minimum(EPS, 1 - image), np.minimum(EPS, image)
    return (kernel * np.where(kernel > 0, up, -down)).sum()


def check_parts(neighbourhood, result, example):
    """The thetas, in the parts' order, make the image, each within its own budget."""
    image = example.image
    for part, theta in zip(neighbourhood.parts, result.theta, strict=True):
        seen = example._replace(image=image)
        assert float(jax.vmap(part.distance)(seen, theta).max()) <= 1 + 1e-5
        image = jax.vmap(part.apply)(seen, theta)
    np.testing.assert_allclose(image, result.image, atol=1e-6)


@pytest.mark.parametrize(("neighbourhood", "chunk"), [(FIRST, 1), (LAST, 4)], ids=["T1", "T2"])
def test_of_a_linear_model_it_finds_the_maximum_in_closed_form(neighbourhood, chunk):
    flat = np.float64(IMAGES).reshape(NUM, 25)
    if neighbourhood is FIRST:
        # w . A (x + r) = (A^T w) . (x + r)
        kernels = [matrix.T @ KERNEL for matrix in matrices()]
        best = [max(k @ x + best_offset(k, x) for k in kernels) for x in flat]
    else:
        posed = [[matrix @ x for matrix in matrices()] for x in flat]
        best = [max(KERNEL @ a + best_offset(KERNEL, a) for a in row) for row in posed]
    attack = JointSearch(
        neighbourhood=neighbourhood,
        granularity=GRID, steps=4, step_size=0.5, loss_fn=losses.margin, chunk=chunk,
    )  # fmt: skip
    ex = Example(IMAGES, jnp.zeros(NUM, jnp.int32))
    result = run(attack, linear, ex)
    np.testing.assert_allclose(linear(result.image, None)[:, 1], best, rtol=1e-4)
    np.testing.assert_array_equal(result.found, np.array(best) > 0)
    np.testing.assert_allclose(result.distance, 1.0, atol=1e-4)
    check_parts(neighbourhood, result, ex)
    angles = result.theta[neighbourhood.parts.index(MOVES)].angle
    assert set(np.asarray(angles).tolist()) <= {-40.0, 0.0, 40.0}


@pytest.mark.slow
@pytest.mark.parametrize("pixels_first", [True, False], ids=["T1", "T2"])
def test_it_is_as_strong_as_the_greedy_composite_at_equal_radii(pixels_first):
    num = 24
    pixels, moves = LInf(eps=0.03), RotationTranslation(max_angle=15.0, max_shift=0.5)
    images, keys = jax.random.uniform(jax.random.key(4), (num, *SHAPE)), jax.random.split(KEYS[0], num)
    ex = Example(images, jnp.argmax(net(images, None), axis=-1))
    search = GridSearch(neighbourhood=moves, granularity=(3, 3, 5), loss_fn=losses.margin)
    climb = PGD(neighbourhood=pixels, steps=10, step_size=0.25, loss_fn=losses.margin)
    stages, parts = ((climb, search), (pixels, moves)) if pixels_first else ((search, climb), (moves, pixels))
    attack = JointSearch(
        neighbourhood=Compose(parts=parts),
        granularity=(3, 3, 5), steps=10, step_size=0.25, loss_fn=losses.margin, chunk=15,
    )  # fmt: skip
    greedy, joint = run(Sequence(stages=stages), net, ex, keys), run(attack, net, ex, keys)
    assert bool((joint.found >= greedy.found).all())
    gains = margin_of(net, joint.image, ex.target) - margin_of(net, greedy.image, ex.target)
    # Equal up to where the random starts lead.
    assert (gains > -0.01).mean() > 0.9
    assert gains.max() > 0.02


@pytest.mark.slow
def test_points_draw_apart_and_the_same_for_every_chunk():
    ex = Example(IMAGES, jnp.argmax(net(IMAGES, None), axis=-1))
    options = {"neighbourhood": LAST, "granularity": GRID, "steps": 1, "step_size": 1e-3}
    one, many = (run(JointSearch(**options, chunk=chunk), net, ex) for chunk in (1, 9))
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(many)):
        np.testing.assert_allclose(left, right, atol=1e-5)


@pytest.mark.slow
def test_grids_of_several_parts_are_taken_in_all_combinations():
    greys = ColourShift(brightness=0.3, contrast=0.5)
    three = Compose(parts=(MOVES, PIXELS, greys))
    ex = Example(IMAGES, jnp.argmax(net(IMAGES, None), axis=-1))
    attack = JointSearch(
        neighbourhood=three,
        granularity=(1, 1, 3, 1, 1, 3, 2, 1),
        steps=2, step_size=0.5, start_fn=identity_start, loss_fn=losses.margin, chunk=5,
    )  # fmt: skip
    result = run(attack, net, ex)
    start = {"start_fn": identity_start, "loss_fn": losses.margin}

    @jax.jit
    def alone(angle, brightness, contrast):
        """PGD on the pixels, at one point."""
        first = Example(IMAGES[0], jnp.array(0))
        pose = MOVES.init(first)._replace(angle=angle)
        shift = greys.init(first)._replace(brightness=brightness, contrast=contrast)
        light = jax.vmap(lambda image: greys.apply(Example(image, jnp.array(0)), shift))
        moved = jax.vmap(lambda image: MOVES.apply(Example(image, jnp.array(0)), pose))(IMAGES)
        climb = PGD(neighbourhood=PIXELS, steps=2, step_size=0.5, **start)
        climbed = climb(KEYS, lambda images, e: net(light(images), e), ex._replace(image=moved))
        return climbed.found, losses.margin(net(light(climbed.image), None), ex.target)

    points = itertools.product((-40.0, 0.0, 40.0), (-0.3, 0.0, 0.3), (-0.5, 0.5))
    found, margins = zip(*(alone(*map(jnp.float32, point)) for point in points))
    np.testing.assert_array_equal(result.found, np.any(found, axis=0))
    np.testing.assert_allclose(margin_of(net, result.image, ex.target), np.max(margins, axis=0), atol=1e-4)
    check_parts(three, result, ex)


def test_gridded_says_which_parts_the_grid_covers():
    """Poses are climbed here, with the pixels; colours are on the grid."""
    colours = ColourShift(hue=120.0, grey=1.0)
    images = jax.random.uniform(jax.random.key(5), (NUM, 5, 5, 3))
    ex = Example(images, jnp.argmax(net(images, None), axis=-1))
    attack = JointSearch(
        neighbourhood=Compose(parts=(MOVES, colours, PIXELS)),
        granularity=(3, 1, 1, 1, 2),
        gridded=(1,),
        steps=3,
    )
    result = run(attack, net, ex)
    pose, shift, _ = result.theta
    assert set(np.asarray(shift.hue).tolist()) <= {-120.0, 0.0, 120.0}
    assert np.abs(pose.angle).max() > 0 and not set(np.asarray(pose.angle).tolist()) <= {-40.0, 0.0, 40.0}


def test_the_model_and_the_gradient_see_the_example_alone():
    seen = []

    def score_fn(images, ex):
        seen.append((type(ex), ex.reference.shape))
        return net(images + 0 * ex.reference[:, None, None, None], None)

    def gradient_fn(keys, score_fn, loss_fn, images, ex):
        seen.append((type(ex), ex.reference.shape))
        return exact_gradient(keys, score_fn, loss_fn, images, ex)

    ex = Example(IMAGES, jnp.zeros(NUM, jnp.int32), reference=jnp.zeros(NUM))
    attack = JointSearch(neighbourhood=FIRST, granularity=GRID, steps=1, gradient_fn=gradient_fn, chunk=3)
    jax.eval_shape(lambda: attack(KEYS, score_fn, ex))
    assert set(seen) == {(Example, (3 * NUM,))}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"neighbourhood": PIXELS}, "composite"),
        ({"neighbourhood": Compose(parts=(PIXELS, PIXELS))}, "a part with a grid among.*PGD"),
        ({"neighbourhood": Compose(parts=(MOVES,))}, "a part to climb.*GridSearch"),
        ({"granularity": (3, 3)}, r"3 numbers of values \(down, right, angle\), got \(3, 3\)"),
        ({"granularity": (3, 0, 3)}, "granularity of right >= 1"),
        ({"gridded": (0,)}, "part with a grid, got part 0"),
        ({"gridded": (2,)}, "increasing places in the 2 parts"),
        ({"gridded": ()}, "a part with a grid among"),
        ({"steps": 0}, "steps >= 1"),
        ({"step_size": 0.0}, "step_size > 0"),
        ({"restarts": 0}, "restarts >= 1"),
        ({"chunk": 0}, "chunk >= 1"),
    ],
)
def test_options_are_checked(fields, words):
    with pytest.raises(ValueError, match=words):
        JointSearch(**{"neighbourhood": FIRST, **fields})
