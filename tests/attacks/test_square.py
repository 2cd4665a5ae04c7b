"""The Square Attack: its schedule and shapes against NumPy, closed forms, and what it spends."""

import functools
import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import Square
from jaxrobust.attacks._windows import sides, square, stripes, tiles, windows
from jaxrobust.neighbourhoods import L1, L2, LInf, Masked, RotationTranslation
from jaxrobust.numerics import losses
from jaxrobust.types import Example

SHAPE = (8, 8, 2)
# Smooth weights, as a net's are: squares can follow them.
ROWS, COLUMNS = np.indices(SHAPE[:2]) / 8.0
WEIGHTS = np.stack([np.sin(5 * ROWS + COLUMNS), np.cos(3 * COLUMNS)], -1)
WEIGHTS[-1] = WEIGHTS[:, -1] = 0  # where only single pixels come
WEIGHTS = jnp.asarray(WEIGHTS, jnp.float32)
KEYS = jax.random.split(jax.random.key(0), 4)
CLEAR = jax.random.uniform(jax.random.key(1), (4, *SHAPE), minval=0.4, maxval=0.6)
BASE = (CLEAR * WEIGHTS).sum(axis=(1, 2, 3))
ZEROS = jnp.zeros(4, jnp.int32)
MASK = jnp.broadcast_to(jnp.ones((8, 8, 1)).at[:, :3].set(0.0), (4, 8, 8, 1))


def linear(images, ex):
    """Two classes; class 1 wins where <w, x> has risen by `ex.reference`."""
    rise = (images * WEIGHTS).sum(axis=(1, 2, 3)) - BASE
    return jnp.stack([0 * rise, rise - ex.reference], axis=-1)


@functools.partial(jax.jit, static_argnums=(0,))
def run(attack, needed, target=ZEROS):
    """`needed` [b]: how far <w, x> must rise."""
    return attack(KEYS, linear, Example(CLEAR, target, reference=needed, mask=MASK))


def rise(result):
    return np.asarray(((result.image - CLEAR) * WEIGHTS).sum(axis=(1, 2, 3)))


def test_the_sides_are_the_papers_schedule():
    queries = 10_000
    found = sides(queries, 0.8, (32, 32), odd=False)
    marks = [10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000]
    expected = []
    for i in range(queries):
        p = 0.8 / 2 ** sum(i > mark for mark in marks)
        expected.append(max(round(np.sqrt(p * 32 * 32)), 1))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(sides(1000, 0.8, (32, 32), odd=False), found[::10])
    odd = sides(queries, 0.8, (32, 32), odd=True)
    assert (odd % 2 == 1).all()
    assert odd.min() == 3
    assert set(odd - found) <= {0, 1, 2}
    assert sides(10, 1.0, (6, 20), odd=True)[0] == 5
    assert sides(10, 1.0, (6, 20), odd=False)[0] == 6


def numpy_eta(side):
    """Eq. (2) of arXiv:1912.00049 as printed: the left half of a window, then minus the right."""

    def rectangle(height, width):
        n = height // 2
        value = np.zeros((height, width))
        for r in range(1, height + 1):
            for s in range(1, width + 1):
                m = n - max(abs(r - height // 2 - 1), abs(s - width // 2 - 1))
                value[r - 1, s - 1] = sum(1 / (n + 1 - k) ** 2 for k in range(m + 1))
        return value

    half = side // 2
    value = np.concatenate([rectangle(side, half), -rectangle(side, side - half)], axis=1)
    return value / np.linalg.norm(value)


def test_a_window_on_a_clean_image_is_eta():
    """With nothing to mix, Alg. 3 gives one window all the length: eta with random signs and orientation."""
    side, eps = 5, 0.3
    new = jax.jit(jax.vmap(lambda key: windows(key, jnp.zeros(SHAPE), side, eps)))(
        jax.random.split(jax.random.key(3), 40)
    )
    np.testing.assert_allclose(jnp.sqrt((new**2).sum(axis=(1, 2, 3))), eps, rtol=1e-5)
    eta, seen = numpy_eta(side), set()
    for offset in np.asarray(new):
        rows, columns = np.nonzero(np.abs(offset[..., 0]))
        window = offset[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert window.shape[:2] == (side, side)
        for channel in range(2):
            unit = window[..., channel] * np.sqrt(2) / eps
            matches = [
                (turned, sign)
                for turned in (False, True)
                for sign in (1, -1)
                if np.allclose(unit, sign * (eta.T if turned else eta), atol=1e-5)
            ]
            assert len(matches) == 1
            seen.add((channel, *matches[0]))
        seen.add((rows.min(), columns.min()))
    assert {(c, t, s) for c in (0, 1) for t in (False, True) for s in (1, -1)} <= seen
    places = [corner for corner in seen if len(corner) == 2]
    assert {row for row, _ in places} == {column for _, column in places} == {0, 1, 2}


def test_a_window_takes_the_length_of_both_and_what_is_unused():
    theta = 0.05 * jax.random.normal(jax.random.key(0), SHAPE)
    eps = 1.2 * float(jnp.linalg.norm(theta))
    new = jax.jit(jax.vmap(lambda key: windows(key, theta, 3, eps)))(jax.random.split(jax.random.key(1), 20))
    np.testing.assert_allclose(jnp.sqrt((new**2).sum(axis=(1, 2, 3))), eps, rtol=1e-5)
    for offset in np.asarray(new):
        kept = (offset == np.asarray(theta)).all(axis=-1)
        freed = (np.asarray(theta) ** 2)[~kept].sum(axis=0)
        assert 9 <= (~kept).sum() <= 18
        unused = (eps**2 - float((theta**2).sum())) / 2
        np.testing.assert_allclose((offset**2)[~kept].sum(axis=0), freed + unused, rtol=1e-4)


def test_the_starts():
    image = jnp.zeros((28, 28, 3))
    start = np.asarray(stripes(jax.random.key(0), image, 0.1))
    assert (start == start[:1]).all()
    np.testing.assert_allclose(np.abs(start), 0.1)
    assert 0 < (start[0] > 0).mean() < 1
    tiled = np.asarray(tiles(jax.random.key(0), image, 0.1))
    assert np.linalg.norm(tiled) == pytest.approx(0.1, rel=1e-5)
    eta = numpy_eta(5) * 0.1 / np.sqrt(75)
    for row in range(5):
        for column in range(5):
            tile = tiled[1 + 5 * row : 6 + 5 * row, 1 + 5 * column : 6 + 5 * column]
            for channel in range(3):
                pair = (np.abs(tile[..., channel]), np.abs(eta))
                assert np.allclose(*pair, atol=1e-6) or np.allclose(pair[0].T, pair[1], atol=1e-6)
    small = np.asarray(tiles(jax.random.key(0), jnp.zeros((3, 4, 1)), 0.1))
    assert np.linalg.norm(small) == pytest.approx(0.1, rel=1e-5)


def test_a_square_is_one_window_of_one_sign_per_channel():
    new = np.asarray(square(jax.random.key(4), jnp.full(SHAPE, 0.01), 3, 0.2))
    changed = new != np.float32(0.01)
    assert changed.sum() == 18
    for channel in range(2):
        assert len(np.unique(new[..., channel][changed[..., channel]])) == 1
    np.testing.assert_allclose(np.abs(new[changed]), 0.2)


def test_single_pixels_may_be_anywhere_wider_windows_end_before_the_last_row_and_column():
    keys = jax.random.split(jax.random.key(0), 400)
    for side in (1, 3):
        new = jax.jit(jax.vmap(lambda key: square(key, jnp.zeros(SHAPE), side, 0.2)))(keys)  # noqa: B023
        reached = np.asarray((new != 0).any(axis=(0, 3)))
        assert reached[:-1, :-1].all()
        assert reached[-1].all() == reached[:, -1].all() == (side == 1)
        assert reached[-1].any() == reached[:, -1].any() == (side == 1)


def test_it_comes_near_the_optimum_in_l_inf():
    """Of a linear model the optimum is eps * sign(w), worth eps * ||w||_1."""
    optimum = 0.2 * float(jnp.abs(WEIGHTS).sum())
    result = run(Square(neighbourhood=LInf(eps=0.2), queries=1500), jnp.full(4, 100.0))
    assert not result.found.any()
    assert rise(result).min() > 0.97 * optimum
    assert run(Square(neighbourhood=LInf(eps=0.2), queries=1500), jnp.full(4, 0.97 * optimum)).found.all()


def test_it_comes_near_the_optimum_in_l2():
    """There it is eps * w / ||w||_2."""
    optimum = 0.5 * float(jnp.linalg.norm(WEIGHTS))
    result = run(Square(neighbourhood=L2(eps=0.5), queries=1500), jnp.full(4, 100.0))
    assert rise(result).min() > 0.45 * optimum
    lengths = np.linalg.norm(np.asarray(result.theta).reshape(4, -1), axis=1)
    assert lengths.max() <= 0.5 * (1 + 1e-6)
    assert result.distance.max() <= 1 + 1e-6


def test_it_stops_when_every_row_is_fooled_and_leaves_those_that_are():
    calls = []

    def counted(images, ex):
        jax.debug.callback(lambda: calls.append(1))
        return linear(images, ex)

    @jax.jit
    def search(needed):
        attack = Square(neighbourhood=LInf(eps=0.2), queries=300, restarts=3)
        return attack(KEYS, counted, Example(CLEAR, ZEROS, reference=needed))

    def spent(needed):
        calls.clear()
        result = jax.block_until_ready(search(needed))
        jax.effects_barrier()
        return result, len(calls)

    easy, queries = spent(jnp.full(4, 4.0))
    assert easy.found.all()
    assert queries < 100
    mixed, queries = spent(jnp.array([4.0, 1e4, 4.0, 1e4]))
    # The first searches of all, then the second and third of both rows that are left, side by side.
    assert queries == 600
    assert mixed.found.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(mixed.image[::2], easy.image[::2])


def test_restarts_begin_with_those_of_fewer():
    attack = Square(neighbourhood=LInf(eps=0.1), queries=25)
    needed = jnp.linspace(0.5, 0.8, 4) * 0.1 * jnp.abs(WEIGHTS).sum()
    results = [run(replace(attack, restarts=n), needed) for n in (1, 2, 30)]
    for fewer, more in itertools.pairwise(results):
        assert bool((more.found >= fewer.found).all())
        np.testing.assert_array_equal(more.image[fewer.found], fewer.image[fewer.found])
    assert results[-1].found.sum() > results[0].found.sum()


def test_it_leads_to_a_designated_class():
    for loss_fn in (losses.margin, losses.cross_entropy):
        attack = Square(neighbourhood=LInf(eps=0.2), queries=200, targeted=True, loss_fn=loss_fn)
        assert run(attack, jnp.full(4, 6.0), 1 - ZEROS).found.all()


@pytest.mark.parametrize("ball", [LInf(eps=0.2), L2(eps=0.5)], ids=["linf", "l2"])
def test_a_masked_ball_is_searched_in_its_region(ball):
    result = run(Square(neighbourhood=Masked(neighbourhood=ball), queries=800), jnp.full(4, 100.0))
    np.testing.assert_array_equal(result.image[:, :, :3], CLEAR[:, :, :3])
    inside = np.asarray(WEIGHTS)[:, 3:]
    optimum = 0.2 * np.abs(inside).sum() if ball == LInf(eps=0.2) else 0.5 * np.linalg.norm(inside)
    assert rise(result).min() > 0.6 * optimum


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"neighbourhood": L1(eps=1.0)}, "Expected a ball"),
        ({"neighbourhood": RotationTranslation(max_angle=3.0, max_shift=0.0)}, "Expected a ball"),
        ({"queries": 0}, "queries >= 1, got queries=0"),
        ({"restarts": 0}, "restarts >= 1"),
        ({"p_init": 0.0}, "p_init > 0"),
        ({"p_init": 1.5}, "p_init <= 1"),
    ],
)
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        Square(**{"neighbourhood": LInf(eps=0.1), **options})
