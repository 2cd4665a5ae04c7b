"""Regions: what lies outside stays bit for bit, within it the ball is used whole."""

import inspect
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD, RandomSearch
from jaxrobust.neighbourhoods import (
    L0,
    L1,
    L2,
    Compose,
    GaussianNoise,
    LInf,
    Masked,
    RotationTranslation,
    UniformNoise,
)
from jaxrobust.types import Ball, Example, Neighbourhood

MASK = jnp.zeros((6, 6, 1)).at[1:4, 2:6].set(1.0)
EX = Example(jax.random.uniform(jax.random.key(0), (6, 6, 2)), jnp.array(0), mask=MASK)
MOVES = RotationTranslation(max_angle=30.0, max_shift=2.0)
BALLS = [LInf(eps=0.3), L2(eps=1.0), L1(eps=3.0), L0(eps=5), L0(eps=5, features=True), UniformNoise(eps=0.3)]
OTHERS = [GaussianNoise(sigma=0.3), MOVES, Compose(parts=(MOVES, LInf(eps=0.1)))]


@pytest.mark.parametrize("inner", BALLS + OTHERS)
def test_it_is_a_ball_if_and_only_if_the_inner_one_is(inner):
    masked = Masked(neighbourhood=inner)
    assert isinstance(masked, Neighbourhood)
    assert isinstance(masked, Ball) == isinstance(inner, Ball) == (inner in BALLS)
    if inner in BALLS:
        assert (masked.norm, masked.eps) == (inner.norm, inner.eps)
        assert masked.scaled(0.5).eps == inner.scaled(0.5).eps
        assert replace(masked, neighbourhood=inner.scaled(2)).eps == inner.scaled(2).eps
    else:
        assert not hasattr(masked, "norm")
    assert masked == Masked(neighbourhood=inner)
    assert hash(masked) == hash(Masked(neighbourhood=inner))


@pytest.mark.parametrize("inner", [BALLS[0], MOVES])
def test_it_is_so_without_running_properties_too(inner):
    """As `isinstance` looks at protocols from Python 3.12 on."""
    found = {name for name in ("eps", "norm") if has_statically(Masked(neighbourhood=inner), name)}
    assert found == ({"eps", "norm"} if inner in BALLS else set())


def has_statically(value, name):
    try:
        inspect.getattr_static(value, name)
    except AttributeError:
        return False
    return True


@pytest.mark.parametrize("inner", BALLS + OTHERS)
def test_outside_the_region_nothing_changes(inner):
    masked = Masked(neighbourhood=inner)
    theta = masked.sample(jax.random.key(1), EX)
    wild = jax.tree.map(lambda leaf: leaf + 0.37, theta)
    for offset in (theta, wild, masked.project(EX, wild)):
        image = masked.apply(EX, offset)
        np.testing.assert_array_equal(jnp.where(MASK == 0, image - EX.image, 0), 0)
        gradient = jax.grad(lambda x: (masked.apply(EX._replace(image=x), theta) * (1 - MASK)).sum())(
            EX.image
        )
        np.testing.assert_array_equal(gradient, jnp.broadcast_to(1 - MASK, EX.image.shape))
    assert float(jnp.abs(masked.apply(EX, theta) - EX.image).max()) > 0.01

    def outside(x):
        return (masked.apply(EX._replace(image=x), theta) * (1 - MASK)).sum()

    np.testing.assert_array_equal(jax.grad(outside)(EX.image), jnp.broadcast_to(1 - MASK, EX.image.shape))


@pytest.mark.parametrize("inner", [*BALLS, GaussianNoise(sigma=0.3)])
def test_offsets_are_confined(inner):
    masked = Masked(neighbourhood=inner)
    gradient = jax.grad(lambda t: masked.apply(EX, t).sum())(masked.init(EX))
    wild = masked.init(EX) + 3.0
    thetas = (masked.sample(jax.random.key(1), EX), masked.project(EX, wild), masked.ascent(gradient))
    for theta in thetas:
        np.testing.assert_array_equal(theta * (1 - MASK), 0)
        assert 0 < float(masked.distance(EX, theta)) <= 1 + 1e-5
    # What lies outside counts for nothing.
    far = thetas[0] + 5 * (1 - MASK)
    assert float(masked.distance(EX, far)) == float(masked.distance(EX, thetas[0]))


@pytest.mark.parametrize("inner", [L2(eps=0.8), L1(eps=2.0), L0(eps=4), LInf(eps=0.2)])
def test_a_masked_ball_is_the_ball_of_the_region_alone(inner):
    """The region is a rectangle, so it can be cut out and projected as an image of its own."""
    masked = Masked(neighbourhood=inner)
    theta = jax.random.normal(jax.random.key(3), EX.image.shape)
    alone = Example(EX.image[1:4, 2:6], jnp.array(0))
    expected = inner.project(alone, theta[1:4, 2:6])
    np.testing.assert_allclose(masked.project(EX, theta)[1:4, 2:6], expected, atol=1e-6)


def test_samples_fill_the_region():
    """Not a sample of the whole image, of which a small region would get little."""
    for inner, least in ((L2(eps=0.3), 0.9), (L0(eps=5), 1.0)):
        masked = Masked(neighbourhood=inner)
        draw = jax.vmap(lambda key, masked=masked: masked.distance(GREY, masked.sample(key, GREY)))
        assert float(jnp.median(draw(jax.random.split(jax.random.key(0), 50)))) >= least


GREY = EX._replace(image=jnp.full((6, 6, 2), 0.5))


def test_geometry_is_cut_out():
    masked = Masked(neighbourhood=MOVES)
    theta = MOVES.sample(jax.random.key(2), EX)
    np.testing.assert_array_equal(
        masked.apply(EX, theta), jnp.where(MASK > 0, MOVES.apply(EX, theta), EX.image)
    )
    assert float(masked.distance(EX, theta)) == float(MOVES.distance(EX, theta))


def test_an_empty_region_leaves_the_image_and_stays_finite():
    empty = EX._replace(mask=jnp.zeros((6, 6, 1)))
    for inner in BALLS:
        masked = Masked(neighbourhood=inner)
        theta = masked.project(empty, masked.sample(jax.random.key(0), empty))
        np.testing.assert_array_equal(masked.apply(empty, theta), EX.image)
        assert float(masked.distance(empty, theta)) == 0


def test_attacks_keep_to_the_region_of_each_row():
    images = jnp.stack([EX.image, EX.image])
    masks = jnp.stack([MASK, 1 - MASK])
    example = Example(images, jnp.array([0, 0]), mask=masks)

    def score_fn(x, example):
        score = x.sum(axis=(1, 2, 3)) - EX.image.sum()
        return jnp.stack([0.5 - score, score], axis=-1)

    keys = jax.random.split(jax.random.key(0), 2)
    for inner in (L0(eps=6), L1(eps=3.0), MOVES):
        for attack in (
            PGD(neighbourhood=Masked(neighbourhood=inner), steps=5, step_size=1.0),
            RandomSearch(neighbourhood=Masked(neighbourhood=inner), num=4),
        ):
            result = jax.jit(lambda attack=attack: attack(keys, score_fn, example))()
            np.testing.assert_array_equal((result.image - images) * (1 - masks), 0)
            assert float(jnp.abs(result.image - images).max()) > 0


def test_a_missing_mask_and_no_neighbourhood_are_named():
    with pytest.raises(ValueError, match=r"Example\(image, target, mask=...\)"):
        Masked(neighbourhood=LInf(eps=0.1)).apply(EX._replace(mask=None), EX.image)
    for inner in (LInf, None, 0.1):
        with pytest.raises(ValueError, match="Expected a neighbourhood"):
            Masked(neighbourhood=inner)
