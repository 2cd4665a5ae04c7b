"""Targets of the robust term."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.objectives import TARGETS, distribution, hard_label


def test_hard_label_is_the_argmax():
    assert hard_label(jnp.array([[0.0, 3.0], [2.0, 1.0]])).tolist() == [1, 0]


def test_distribution_sums_to_1_and_carries_no_gradient():
    logits = jnp.array([[0.0, 3.0, -1.0]])
    np.testing.assert_allclose(distribution(logits).sum(), 1.0, rtol=1e-6)
    assert not jax.grad(lambda z: distribution(z)[0, 1])(logits).any()


def test_registry():
    assert {"hard_label": hard_label, "distribution": distribution} == TARGETS
