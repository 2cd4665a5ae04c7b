"""MI-FGSM against a re-implementation in NumPy, float64, one example at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import MIFGSM
from jaxrobust.neighbourhoods import L2, LInf
from jaxrobust.types import Example

RNG = np.random.default_rng(3)
FIRST, SECOND = RNG.standard_normal((16, 7)), RNG.standard_normal((7, 3))
IMAGES = np.round(RNG.random((6, 4, 4, 1)) * 8) / 8
TARGET = RNG.integers(0, 3, 6)


def score(images, ex):
    return jnp.tanh(images.reshape(images.shape[0], -1) @ jnp.asarray(FIRST, jnp.float32)) @ jnp.asarray(
        SECOND, jnp.float32
    )


def numpy_gradient(x, label):
    hidden = np.tanh(x @ FIRST)
    logits = hidden @ SECOND
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    return FIRST @ ((1 - hidden**2) * (SECOND @ (probabilities - np.eye(3)[label])))


def numpy_mi_fgsm(image, label, eps, steps, decay):
    x0 = image.ravel()
    x, momentum = x0.copy(), np.zeros_like(x0)
    for _ in range(steps):
        gradient = numpy_gradient(x, label)
        momentum = decay * momentum + gradient / np.abs(gradient).sum()
        x = np.clip(np.clip(x + eps / steps * np.sign(momentum), x0 - eps, x0 + eps), 0, 1)
    return x.reshape(image.shape)


@pytest.mark.parametrize(("decay", "steps"), [(1.0, 10), (0.0, 10), (0.5, 3)])
def test_it_equals_numpy(decay, steps):
    attack = MIFGSM(neighbourhood=LInf(eps=0.2), steps=steps, decay=decay, keep_worst=False)
    example = Example(jnp.asarray(IMAGES, jnp.float32), jnp.asarray(TARGET))
    keys = jax.random.split(jax.random.key(0), 6)
    result = jax.jit(lambda ex: attack(keys, score, ex))(example)
    expected = [numpy_mi_fgsm(image, label, 0.2, steps, decay) for image, label in zip(IMAGES, TARGET)]
    np.testing.assert_allclose(result.image, np.stack(expected), atol=1e-5)


def numpy_mi_fgm(image, label, eps, steps):
    """The l_2 form: the velocity at length eps / steps, without a box."""
    x0 = image.ravel()
    x, momentum = x0.copy(), np.zeros_like(x0)
    for _ in range(steps):
        gradient = numpy_gradient(x, label)
        momentum = momentum + gradient / np.abs(gradient).sum()
        offset = x + eps / steps * momentum / np.linalg.norm(momentum) - x0
        x = x0 + offset * min(1, eps / np.linalg.norm(offset))
    return x.reshape(image.shape)


def test_in_l2_the_velocity_is_normalised_as_in_the_paper():
    attack = MIFGSM(neighbourhood=L2(eps=0.2), steps=7, keep_worst=False)
    clear = 0.4 + 0.2 * IMAGES
    example = Example(jnp.asarray(clear, jnp.float32), jnp.asarray(TARGET))
    keys = jax.random.split(jax.random.key(0), 6)
    result = jax.jit(lambda ex: attack(keys, score, ex))(example)
    expected = [numpy_mi_fgm(image, label, 0.2, 7) for image, label in zip(clear, TARGET)]
    np.testing.assert_allclose(result.image, np.stack(expected), atol=1e-5)


def test_momentum_is_kept_apart_per_example_and_matters():
    run = jax.jit(
        lambda decay: (
            MIFGSM(neighbourhood=LInf(eps=0.4), decay=decay, keep_worst=False)(
                jax.random.split(jax.random.key(0), 6),
                lambda images, ex: jnp.sin(7 * score(images, ex)),
                Example(jnp.asarray(IMAGES, jnp.float32), jnp.asarray(TARGET)),
            ).image
        )
    )
    assert float(jnp.abs(run(0.0) - run(2.0)).max()) > 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [({"steps": 0}, "steps"), ({"decay": -1.0}, "decay"), ({"step_size": 0.0}, "step_size")],
)
def test_options_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        MIFGSM(neighbourhood=LInf(eps=0.1), **options)
