"""The stateless shuffle: a permutation for every n, new for every epoch and seed, and uniform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxrobust.data.shuffle import shuffled_index, shuffled_index_on_host


def order(seed, epoch, n):
    places = jnp.arange(n, dtype=jnp.int32)
    return np.asarray(shuffled_index(jax.random.key(seed), jnp.full(n, epoch, jnp.int32), places, n))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 97, 60_000])
def test_every_index_once_per_epoch(n):
    for epoch in (0, 1, 12_345):
        np.testing.assert_array_equal(np.sort(order(0, epoch, n)), np.arange(n))


def test_epochs_and_seeds_differ():
    orders = [order(seed, epoch, 200) for seed in range(3) for epoch in range(3)]
    for i, first in enumerate(orders):
        for second in orders[:i]:
            # Two independent orders agree at one place on average, and at ten with probability 1e-7.
            assert (first == second).sum() < 10


@pytest.mark.parametrize("n", [2, 3, 10, 31])
def test_places_are_uniform(n):
    epochs = 4_000
    epoch, place = (a.reshape(-1) for a in np.meshgrid(np.arange(epochs), np.arange(n), indexing="ij"))
    index = np.asarray(shuffled_index(jax.random.key(7), jnp.asarray(epoch), jnp.asarray(place), n))
    counts = np.zeros((n, n))
    np.add.at(counts, (place, index), 1)
    chi2 = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    # Doubly stochastic counts have (n-1)^2 degrees of freedom and n/(n-1) the variance of independent ones.
    probability = stats.chi2.sf(chi2 * (n - 1) / n, (n - 1) ** 2)
    assert 1e-3 < probability < 1 - 1e-3


def test_all_permutations_of_four_are_equally_frequent():
    epochs = 12_000
    epoch, place = np.divmod(np.arange(4 * epochs), 4)
    index = np.asarray(shuffled_index(jax.random.key(3), jnp.asarray(epoch), jnp.asarray(place), 4)).reshape(
        -1, 4
    )
    counts = np.unique(index @ np.array([64, 16, 4, 1]), return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


def test_neighbours_do_not_stay_together():
    n = 10_000
    gaps = np.diff(order(1, 0, n))
    assert abs(np.corrcoef(order(1, 0, n)[:-1], order(1, 0, n)[1:])[0, 1]) < 0.04
    assert (np.abs(gaps) == 1).sum() < 15  # two on average


@pytest.mark.parametrize("n", [1, 3, 1009, 60_000])
def test_host_and_device_agree(n):
    key = jax.random.key(5)
    epoch, place = np.arange(50) // 7, np.arange(50) % n
    on_host = shuffled_index_on_host(np.asarray(jax.random.key_data(key)), epoch, place, n)
    on_device = jax.jit(shuffled_index, static_argnums=3)(key, jnp.asarray(epoch), jnp.asarray(place), n)
    np.testing.assert_array_equal(on_host, np.asarray(on_device))


def test_a_place_needs_no_other():
    whole = order(2, 4, 500)
    assert int(shuffled_index(jax.random.key(2), 4, 123, 500)) == whole[123]


@pytest.mark.parametrize("n", [0, -1, 2**31])
def test_bad_n(n):
    with pytest.raises(ValueError, match="images to shuffle"):
        shuffled_index(jax.random.key(0), 0, 0, n)
