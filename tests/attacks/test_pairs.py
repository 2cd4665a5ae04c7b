"""The best pair of features against the full search over all pairs in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxrobust.attacks._pairs import best_pair

D = 23
RNG = np.random.default_rng(0)


@partial(jax.jit, static_argnames="chunk")
def found(alpha, beta, domain, chunk=4):
    return best_pair(alpha, beta, domain, chunk=chunk)


def full_search(alpha, beta, domain):
    """The first of the best in lexicographic order, None where no pair is admissible."""
    x, y = alpha[:, None] + alpha, -(beta[:, None] + beta)
    pairs = np.triu(np.outer(domain, domain), 1)
    score = np.where((x > 0) & (y > 0) & pairs, x * y, np.float32(0))
    first, second = divmod(int(score.argmax()), len(alpha))
    return (first, second) if score[first, second] > 0 else None


def check(alpha, beta, domain, chunk=4):
    pair = found(alpha, beta, domain, chunk=chunk)
    expected = full_search(alpha, beta, domain)
    if expected is None:
        assert float(pair.score) == 0
    else:
        assert float(pair.score) > 0
        assert (int(pair.first), int(pair.second)) == expected


def jacobians(kind, rows=40):
    alpha, beta = RNG.normal(size=(2, rows, D)).astype(np.float32)
    return {
        "independent": (alpha, beta),
        "agreeing": (alpha, -alpha + 0.1 * beta),
        "opposing": (alpha, alpha + 0.1 * beta),
        "never admissible": (alpha, alpha),
        "ties": (np.round(2 * alpha), np.round(2 * beta)),
        "few admissible": (alpha - 1, beta + 1),
        "all negative": (-np.abs(alpha), -np.abs(beta)),
        "heavy tails": (alpha**5, beta**5),
        "flat": (0 * alpha, 0 * beta),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "independent",
        "agreeing",
        "opposing",
        "never admissible",
        "ties",
        "few admissible",
        "all negative",
        "heavy tails",
        "flat",
    ],
)
def test_it_equals_the_full_search(kind):
    alphas, betas = jacobians(kind)
    for alpha, beta in zip(alphas, betas):
        check(alpha, beta, RNG.random(D) < 0.7)


def test_some_of_these_have_no_admissible_pair_and_some_do():
    """Else the test above would not see the trap that the argmax of zeros is the pair (0, 0)."""
    none = [full_search(a, b, np.ones(D, bool)) is None for a, b in zip(*jacobians("few admissible"))]
    assert 0 < sum(none) < len(none)


VALUES = hnp.arrays(np.float32, D, elements=st.integers(-3, 3).map(float))


@settings(max_examples=100, deadline=None)
@given(alpha=VALUES, beta=VALUES, domain=hnp.arrays(bool, D))
def test_of_equal_pairs_it_is_the_first(alpha, beta, domain):
    check(alpha, beta, domain)


@pytest.mark.parametrize("chunk", [1, 2, D, 1000])
def test_the_chunk_changes_nothing(chunk):
    for alpha, beta in zip(*jacobians("ties", rows=5)):
        check(alpha, beta, np.ones(D, bool), chunk=chunk)


def test_gradients_of_a_confident_model_are_not_lost_to_underflow():
    alpha, beta = RNG.normal(size=(2, D)).astype(np.float32)
    pair = found(alpha * np.float32(2.0**-100), beta * np.float32(2.0**-110), np.ones(D, bool))
    assert (int(pair.first), int(pair.second)) == full_search(alpha, beta, np.ones(D, bool))


def test_a_gradient_that_is_not_finite_leaves_its_feature_out():
    alpha, beta = RNG.normal(size=(2, D)).astype(np.float32)
    domain = np.ones(D, bool)
    domain[[3, 7]] = False
    expected = full_search(alpha, beta, domain)
    alpha[3], beta[7] = np.nan, np.inf
    pair = found(alpha, beta, np.ones(D, bool))
    assert (int(pair.first), int(pair.second)) == expected


def test_there_is_no_pair_in_one_feature_or_none():
    for domain in (np.arange(D) == 5, np.zeros(D, bool)):
        assert float(found(np.ones(D, np.float32), -np.ones(D, np.float32), domain).score) == 0


def test_rows_of_a_batch_are_those_alone():
    alphas, betas = map(jnp.asarray, jacobians("opposing", rows=8))
    domain = jnp.ones(D, bool)
    together = jax.jit(jax.vmap(partial(best_pair, chunk=3), (0, 0, None)))(alphas, betas, domain)
    for i in range(8):
        alone = found(alphas[i], betas[i], domain, chunk=3)
        assert jax.tree.map(lambda a, i=i: a[i].item(), together) == jax.tree.map(lambda a: a.item(), alone)
