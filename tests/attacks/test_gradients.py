"""Adaptive attacks: surrogates and expectations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD, bpda, eot, exact_gradient
from jaxrobust.neighbourhoods import LInf
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.types import Example

WEIGHTS = jax.random.normal(jax.random.key(0), (16, 3))
IMAGES = jax.random.uniform(jax.random.key(1), (8, 4, 4, 1))
KEYS = jax.random.split(jax.random.key(2), 8)


def net(images, ex):
    return jnp.tanh(images.reshape(images.shape[0], -1) @ WEIGHTS)


def quantised(images, ex):
    return net(jnp.round(images * 3) / 3, ex)


EXAMPLE = Example(IMAGES, jnp.argmax(quantised(IMAGES, None), axis=-1))


def test_bpda_breaks_a_defence_whose_exact_gradient_is_zero():
    _, gradients = exact_gradient(KEYS, quantised, cross_entropy, IMAGES, EXAMPLE)
    assert not gradients.any()
    naive = PGD(neighbourhood=LInf(eps=0.3), steps=20, step_size=0.1, start_fn=lambda k, n, e: n.init(e))
    adaptive = PGD(
        neighbourhood=LInf(eps=0.3), steps=20, step_size=0.1, start_fn=naive.start_fn, gradient_fn=bpda(net)
    )
    run = jax.jit(lambda attack, ex: attack(KEYS, quantised, ex), static_argnums=0)
    assert not run(naive, EXAMPLE).found.any()
    result = run(adaptive, EXAMPLE)
    assert result.found.mean() > 0.8
    np.testing.assert_array_equal(
        result.found, jnp.argmax(quantised(result.image, None), -1) != EXAMPLE.target
    )


def test_bpda_scores_by_the_model_and_pulls_its_loss_gradient_through_the_surrogate():
    (losses, logits), gradients = bpda(net)(KEYS, quantised, cross_entropy, IMAGES, EXAMPLE)
    np.testing.assert_array_equal(logits, quantised(IMAGES, EXAMPLE))
    np.testing.assert_allclose(losses, cross_entropy(logits, EXAMPLE.target), rtol=1e-6)
    at_logits = jax.grad(lambda z: cross_entropy(z, EXAMPLE.target).sum())(logits)
    expected = jax.vjp(lambda x: net(x, None), IMAGES)[1](at_logits)[0]
    np.testing.assert_allclose(gradients, expected, atol=1e-6)


def test_bpda_through_the_model_itself_is_exact():
    exact = exact_gradient(KEYS, net, cross_entropy, IMAGES, EXAMPLE)
    same = bpda(net)(KEYS, net, cross_entropy, IMAGES, EXAMPLE)
    for left, right in zip(jax.tree.leaves(same), jax.tree.leaves(exact)):
        np.testing.assert_allclose(left, right, atol=1e-6)


def shaken(key, image):
    return image + 0.1 * jax.random.normal(key, image.shape)


def test_eot_is_the_mean_over_draws_of_the_row():
    (losses, logits), gradients = jax.jit(
        lambda: eot(400, shaken)(
            KEYS,
            lambda x, ex: 3.0 * x.reshape(8, -1)[:, :2] ** 2,
            cross_entropy,
            IMAGES,
            EXAMPLE._replace(target=jnp.zeros(8, jnp.int32)),
        )
    )()
    # E[3 (x + n)^2] = 3 (x^2 + 0.01)
    np.testing.assert_allclose(logits, 3 * (IMAGES.reshape(8, -1)[:, :2] ** 2 + 0.01), atol=0.1)
    assert losses.shape == (8,)
    assert not gradients.reshape(8, -1)[:, 2:].any()
    assert gradients.reshape(8, -1)[:, :2].any()


def test_eot_of_the_identity_is_exact_and_other_rows_do_not_matter():
    same = eot(3, lambda key, image: image)(KEYS, net, cross_entropy, IMAGES, EXAMPLE)
    exact = exact_gradient(KEYS, net, cross_entropy, IMAGES, EXAMPLE)
    for left, right in zip(jax.tree.leaves(same), jax.tree.leaves(exact)):
        np.testing.assert_allclose(left, right, atol=1e-6)
    whole = eot(2, shaken)(KEYS, net, cross_entropy, IMAGES, EXAMPLE)
    part = eot(2, shaken)(KEYS[3:5], net, cross_entropy, IMAGES[3:5], jax.tree.map(lambda a: a[3:5], EXAMPLE))
    for left, right in zip(jax.tree.leaves(part), jax.tree.leaves(whole)):
        np.testing.assert_allclose(left, right[3:5], atol=1e-6)


def test_gradient_functions_are_values():
    assert bpda(net) == bpda(net)
    assert hash(eot(2, shaken)) == hash(eot(2, shaken))
    with pytest.raises(ValueError, match="num >= 1"):
        eot(0, shaken)
