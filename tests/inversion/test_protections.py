"""What protects features: by hand, row by row, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA

from jaxrobust.inversion import PROTECTIONS, Noisy, Principal, Protection, Quantised, TopK, Truncated

VALUES = jnp.asarray(np.random.default_rng(0).normal(size=(40, 6)), jnp.float32)
CASES = {
    "truncated": Truncated(keep=3),
    "principal": Principal(keep=3),
    "quantised": Quantised(bits=3),
    "noisy": Noisy(ratio=0.5),
    "top_k": TopK(keep=2),
}
ROWS = pytest.mark.parametrize("name", sorted(CASES))


def keys(n, seed=0):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(n))


def test_every_protection_has_a_row():
    assert set(CASES) == set(PROTECTIONS)
    assert all(type(CASES[name]) is PROTECTIONS[name] for name in CASES)


@ROWS
def test_is_a_value_that_works_row_by_row_and_has_a_gradient(name):
    one = CASES[name]
    assert isinstance(one, Protection) and hash(one) == hash(type(one)(**vars(one)))
    state = one.fit(VALUES)
    together = one(VALUES, state, keys(40))
    np.testing.assert_allclose(one(VALUES[5:6], state, keys(40)[5:6])[0], together[5], atol=1e-6)
    slope = jax.grad(lambda v: one(v, state, None).sum())(VALUES)
    assert np.isfinite(slope).all() and np.abs(slope).max() > 0
    assert bool((one(VALUES, state, keys(40, 1)) != together).any()) == one.random
    np.testing.assert_array_equal(one(VALUES, state, None), one(VALUES, state, None))


def test_principal_components_are_those_of_scikit_learn():
    one = Principal(keep=3)
    ours = np.asarray(one(VALUES, one.fit(VALUES), None))
    theirs = PCA(3, svd_solver="full").fit_transform(np.asarray(VALUES, np.float64))
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_quantised_values_are_the_middles_of_their_levels(bits):
    found = np.asarray(Quantised(bits=bits)(VALUES, (), None))
    scale = np.abs(VALUES).max(axis=1, keepdims=True)
    assert (np.abs(found - VALUES) <= scale / 2**bits * (1 + 1e-5)).all()
    levels = (found + scale) / (2 * scale / 2**bits) - 0.5
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    assert levels.min() > -0.1 and levels.max() < 2**bits - 0.9
    # Exactly so many: equal levels are equal numbers.
    assert [len(np.unique(row)) for row in found] == [len(np.unique(np.round(row))) for row in levels]
    # Straight through: the gradient is that of the identity.
    slope = jax.grad(lambda v: (Quantised(bits=bits)(v, (), None) * 3.0).sum())(VALUES)
    np.testing.assert_allclose(slope, 3.0, rtol=1e-6)


def test_nothing_is_left_of_nothing():
    zeros = jnp.zeros((2, 4))
    for one in (Quantised(bits=2), Noisy(ratio=1.0)):
        found, slope = jax.value_and_grad(lambda v, one=one: one(v, (), keys(2)).sum())(zeros)
        assert float(found) == 0 and np.isfinite(slope).all()


def test_noise_has_the_asked_length_and_needs_keys():
    wide = jnp.asarray(np.random.default_rng(1).normal(size=(8, 5000)), jnp.float32)
    noise = Noisy(ratio=0.5)(wide, (), keys(8)) - wide
    lengths = jnp.linalg.norm(noise, axis=1) / jnp.linalg.norm(wide, axis=1)
    np.testing.assert_allclose(lengths, 0.5, rtol=0.1)
    np.testing.assert_array_equal(Noisy(ratio=0.5)(wide, (), None), wide)


def test_top_k_keeps_the_largest_and_hides_the_order_of_the_rest():
    found = np.asarray(TopK(keep=2)(VALUES, (), None))
    ordered = np.sort(found, axis=1)
    np.testing.assert_array_equal(ordered[:, -2:], np.sort(VALUES, axis=1)[:, -2:])
    np.testing.assert_array_equal(ordered[:, :-2], np.repeat(ordered[:, -2:-1], 4, axis=1))
    np.testing.assert_array_equal(found.argmax(1), np.asarray(VALUES).argmax(1))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Truncated(keep=0), "keep >= 1"),
        (lambda: Quantised(bits=17), "bits <= 16"),
        (lambda: Noisy(ratio=0.0), "ratio > 0"),
        (lambda: Truncated(keep=7).fit(VALUES), "keep <= 6, the features there are, got keep=7"),
        (lambda: TopK(keep=2).fit(VALUES[:, None, None]), "a map"),
        (lambda: Principal(keep=3).fit(VALUES[:3]), "more than keep=3 images"),
    ],
)
def test_bad_input(call, said):
    with pytest.raises(ValueError, match=said):
        call()
