"""Foreign models become `types.Model` with their arrays as arguments, in eval mode."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxrobust.models import from_callable, score_fn

SHAPE = (4, 4, 1)
X = jnp.asarray(np.random.default_rng(0).random((5, *SHAPE)), jnp.float32)
W = jnp.asarray(np.random.default_rng(1).normal(size=(16, 3)), jnp.float32)


def linear(w, x):
    return x.reshape(len(x), -1) @ w


@jax.tree_util.register_pytree_node_class
@dataclass
class Net:
    """As an equinox module is: a callable pytree, some of whose leaves are no arrays."""

    w: jax.Array
    activation: object = jnp.tanh

    def __call__(self, x):
        return self.activation(linear(self.w, x))

    def tree_flatten(self):
        return (self.w, self.activation), None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children)


class Noisy(nnx.Module):
    """Batch normalisation and dropout: in train mode rows disturb each other."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(16, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.norm(self.linear(x.reshape(len(x), -1))))))


def logits(model, x=X):
    params, stats = model.init(jax.random.key(0))
    apply = jax.jit(lambda params, stats, x: model.apply(params, stats, x, train=False)[0].logits)
    return np.asarray(apply(params, stats, x))


@pytest.mark.parametrize(
    ("logits_fn", "params", "expected"),
    [
        (linear, W, linear(W, X)),
        (lambda x: linear(W, x), None, linear(W, X)),
        (jax.tree_util.Partial(linear, W), None, linear(W, X)),
        (partial(linear, W), None, linear(W, X)),
        (Net(W), None, jnp.tanh(linear(W, X))),
        (lambda params, x: linear(params["w"], x).astype(jnp.bfloat16), {"w": W}, linear(W, X)),
    ],
    ids=["params", "closure", "Partial", "functools", "pytree", "bfloat16"],
)
def test_logits_are_the_callables(logits_fn, params, expected):
    model = from_callable(logits_fn, params, SHAPE)
    found = logits(model)
    assert model.num_classes == 3 and found.dtype == np.float32
    tolerance = 0.05 if found.astype(jnp.bfloat16).astype(np.float32).tolist() == found.tolist() else 1e-5
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("logits_fn", [Net(W), jax.tree_util.Partial(linear, W)], ids=["pytree", "Partial"])
def test_arrays_of_a_pytree_are_arguments(logits_fn):
    model = from_callable(logits_fn, None, SHAPE)
    params, stats = model.init(jax.random.key(0))
    assert [leaf.shape for leaf in jax.tree.leaves(params)] == [W.shape]
    zeroed = jax.tree.map(jnp.zeros_like, params)
    assert not np.any(model.apply(zeroed, stats, X, train=False)[0].logits)


def test_nnx_module_is_put_into_eval_mode_and_left_alone():
    module = Noisy(nnx.Rngs(0))
    module(X + 1.0)  # advances the running statistics
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)))
    model = from_callable(module, None, SHAPE)
    together = logits(model)
    for i in range(len(X)):
        np.testing.assert_allclose(logits(model, X[i : i + 1])[0], together[i], atol=1e-5)
    reference = nnx.clone(module)
    reference.eval()
    np.testing.assert_allclose(together, reference(X), atol=1e-5)
    assert not module.norm.use_running_average and not module.dropout.deterministic
    after = nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))
    jax.tree.map(np.testing.assert_array_equal, before, after)


def test_gradients_on_images_pass():
    model = from_callable(Noisy(nnx.Rngs(0)), None, SHAPE)
    score = score_fn(model, *model.init(jax.random.key(0)))
    gradient = jax.grad(lambda x: score(x, None)[:, 0].sum())(X)
    assert gradient.shape == X.shape and np.abs(gradient).max() > 0


def test_train_mode_is_refused():
    model = from_callable(linear, W, SHAPE)
    with pytest.raises(ValueError, match="eval mode only"):
        model.apply(W, {}, X, train=True)


def test_wrong_images_are_refused():
    model = from_callable(linear, W, SHAPE)
    with pytest.raises(ValueError, match=r"\[b, 4, 4, 1\], got \[5, 16\]"):
        model.apply(W, {}, X.reshape(5, 16), train=False)


@pytest.mark.parametrize(
    ("logits_fn", "params", "num_classes", "message"),
    [
        (3, None, None, "callable logits_fn, got int"),
        (linear, W, 10, "num_classes=10 logits, got 3"),
        (lambda x: np.asarray(x).reshape(len(x), -1), None, None, "JAX cannot trace"),
        (lambda x: x.mean(), None, None, r"logits of shape \[2, k\].* got shape \[\]"),
        (lambda x: (linear(W, x), x), None, None, "got a tuple"),
        (lambda x: linear(W, x).argmax(-1), None, None, r"got shape \[2\]"),
        (lambda x: linear(W, x).astype(int), None, None, "classes have no gradient"),
    ],
)
def test_what_is_no_classifier_is_refused(logits_fn, params, num_classes, message):
    with pytest.raises(ValueError, match=message):
        from_callable(logits_fn, params, SHAPE, num_classes)
