"""Losses of the linear models of `objectives_table` in NumPy, and one jitted step of an objective on them."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.types import Net, RowKeys
from tests.common.objectives_table import PLAIN


def run(objective, b, model=PLAIN, progress=0.5, jitted=True):
    """(loss, aux, gradient) on fixed keys and weights; row i of a stream has the same key in any batch."""
    params, stats = model.init(jax.random.key(1))
    keys = [
        jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(stream), jnp.arange(images.shape[0]))
        for stream, images in enumerate((b.image, b.unlabelled))
    ]

    def loss_fn(params):
        return objective(RowKeys(*keys), Net(model, params, stats, jnp.float32(progress)), b, ())

    step = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, aux), grads = (jax.jit(step) if jitted else step)(params)
    return loss, aux, grads


def kernel():
    """The weights of `run`."""
    return np.asarray(PLAIN.init(jax.random.key(1))[0]["kernel"], np.float64)


def log_softmax(z):
    """By row."""
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def logits_of(images):
    """x W, in float64."""
    return np.asarray(images, np.float64).reshape(len(images), -1) @ kernel()


def cross_entropy(z, target):
    """Of classes, by row."""
    return -log_softmax(z)[np.arange(len(z)), target]


def kl(z, p):
    """KL(p || softmax(z)), by row."""
    return (p * (np.log(p) - log_softmax(z))).sum(-1)
