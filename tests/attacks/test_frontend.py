"""`jaxrobust.attack` for every kind of callable, and its messages for every bad input."""

import functools
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxrobust
from jaxrobust.attacks import PGD, RandomSearch
from jaxrobust.attacks._callable import merge, split
from jaxrobust.neighbourhoods import LInf

ROOT = Path(__file__).resolve().parent.parent.parent
KEY = jax.random.key(0)
X = jax.random.uniform(jax.random.key(1), (5, 3, 3, 1))
Y = jnp.array([0, 1, 2, 0, 1])
WEIGHTS = jax.random.normal(jax.random.key(2), (9, 3))
ATTACK = PGD(neighbourhood=LInf(eps=0.3), steps=3, step_size=0.4)


def net(weights, images, *, scale=1.0):
    return scale * (images.reshape(images.shape[0], -1) @ weights)


EXPECTED = jaxrobust.attack(ATTACK, functools.partial(net, WEIGHTS), X, Y, key=KEY)


class Pytree(NamedTuple):
    """A callable pytree, as equinox modules are; `activation` is a leaf that is no array."""

    weights: jax.Array
    activation: object

    def __call__(self, images):
        return self.activation(net(self.weights, images))


class Bound:
    def __init__(self, weights):
        self.weights = weights

    def logits(self, images):
        return net(self.weights, images)


class NnxNet(nnx.Module):
    def __init__(self, train=False):
        self.dense = nnx.Linear(9, 3, use_bias=False, rngs=nnx.Rngs(0))
        self.dense.kernel[...] = WEIGHTS
        self.drop = nnx.Dropout(0.5, deterministic=not train, rngs=nnx.Rngs(1))

    def __call__(self, images):
        return self.drop(self.dense(images.reshape(images.shape[0], -1)))


class WithBatchNorm(NnxNet):
    def __init__(self):
        super().__init__()
        self.parts = nnx.List([nnx.BatchNorm(3, use_running_average=False, rngs=nnx.Rngs(0))])


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(3, use_bias=False)(images.reshape(images.shape[0], -1))


CALLABLES = {
    "closure": lambda: lambda images: net(WEIGHTS, images),
    "partial": lambda: functools.partial(net, WEIGHTS),
    "partial with options": lambda: functools.partial(net, WEIGHTS, scale=1.0),
    "partial of partial": lambda: functools.partial(functools.partial(net, scale=1.0), np.asarray(WEIGHTS)),
    "jax Partial": lambda: jax.tree_util.Partial(net, WEIGHTS),
    "pytree": lambda: Pytree(WEIGHTS, jnp.asarray),
    "bound method": lambda: Bound(WEIGHTS).logits,
    "partial as an argument": lambda: functools.partial(
        lambda fn, images, *, then: then(fn(images)),
        functools.partial(net, WEIGHTS),
        then=functools.partial(jnp.multiply, jnp.ones(())),
    ),
    "bound method as an argument": lambda: functools.partial(
        lambda fn, images: fn(images), Bound(WEIGHTS).logits
    ),
    "tuple as an argument": lambda: functools.partial(
        lambda pair, images: net(pair[0], images, scale=pair[1]["scale"]), (WEIGHTS, {"scale": 1.0}, ())
    ),
    "linen apply": lambda: functools.partial(LinenNet().apply, {"params": {"Dense_0": {"kernel": WEIGHTS}}}),
    "nnx module": NnxNet,
    "nnx method": lambda: NnxNet().__call__,
    "partial over an nnx module": lambda: functools.partial(lambda module, images: module(images), NnxNet()),
}


@pytest.mark.parametrize("kind", CALLABLES)
def test_any_callable_gives_the_same(kind):
    result = jaxrobust.attack(ATTACK, CALLABLES[kind](), X, Y, key=KEY)
    np.testing.assert_allclose(result.image, EXPECTED.image, atol=1e-6)
    np.testing.assert_array_equal(result.found, EXPECTED.found)


@pytest.mark.parametrize("kind", ["partial", "jax Partial", "pytree", "linen apply", "nnx module"])
def test_parameters_are_arguments_and_structure_is_equal(kind):
    """Equal structures share a compilation: nothing of the parameters is baked in."""
    first, arrays = split(CALLABLES[kind]())
    second, _ = split(CALLABLES[kind]())
    assert first == second
    assert hash(first) == hash(second)
    doubled = jax.tree.map(
        lambda leaf: 2 * leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, arrays
    )
    np.testing.assert_allclose(merge(first, doubled)(X), 2 * net(WEIGHTS, X), rtol=1e-5)


def test_a_second_call_with_other_parameters_compiles_nothing():
    calls = []

    def counted(weights, images):
        calls.append(images.shape)
        return net(weights, images)

    jaxrobust.attack(ATTACK, functools.partial(counted, WEIGHTS), X, Y, key=KEY)
    seen = len(calls)
    other = PGD(neighbourhood=LInf(eps=0.3), steps=3, step_size=0.4)
    moved = jaxrobust.attack(other, functools.partial(counted, -WEIGHTS), X, Y, key=jax.random.key(5))
    assert len(calls) == seen
    assert not np.array_equal(moved.image, EXPECTED.image)
    jaxrobust.attack(ATTACK, functools.partial(counted, WEIGHTS), X[:2], Y[:2], key=KEY)
    assert len(calls) > seen


def test_an_nnx_module_may_train_on_between_attacks():
    module = NnxNet()
    before = jaxrobust.attack(ATTACK, module, X, Y, key=KEY)
    module.dense.kernel[...] = -WEIGHTS
    after = jaxrobust.attack(ATTACK, module, X, Y, key=KEY)
    assert not np.array_equal(before.image, after.image)


def test_chunks_do_not_change_results_and_share_one_program():
    shapes = []

    def counted(weights, images):
        shapes.append(images.shape[0])
        return net(weights, images)

    search = RandomSearch(neighbourhood=LInf(eps=0.3), num=4)
    for attack in (ATTACK, search):
        whole = jaxrobust.attack(attack, functools.partial(net, WEIGHTS), X, Y, key=KEY)
        for chunk in (2, 5, 8):
            shapes.clear()
            pieces = jaxrobust.attack(attack, functools.partial(counted, WEIGHTS), X, Y, key=KEY, chunk=chunk)
            np.testing.assert_allclose(pieces.image, whole.image, atol=1e-6)
            np.testing.assert_array_equal(pieces.found, whole.found)
            assert pieces.distance.shape == (5,)
            assert pieces.theta.shape == X.shape
            assert set(shapes) <= {5, chunk}  # 5 from the abstract call that counts the classes


def test_distributions_as_targets():
    result = jaxrobust.attack(ATTACK, functools.partial(net, WEIGHTS), X, jax.nn.one_hot(Y, 3), key=KEY)
    np.testing.assert_allclose(result.image, EXPECTED.image, atol=1e-6)


def test_rounding_beyond_the_range_is_clipped():
    result = jaxrobust.attack(ATTACK, functools.partial(net, WEIGHTS), jnp.ones_like(X) + 5e-7, Y, key=KEY)
    assert result.distance.max() <= 1 + 1e-6


def bad(**changes):
    given = {"attack": ATTACK, "logits_fn": functools.partial(net, WEIGHTS), "x": X, "y": Y, "key": KEY}
    given.update(changes)
    return given


BAD = {
    "8-bit images": (bad(x=np.zeros((5, 3, 3, 1), np.uint8)), "float dtype, got uint8.*x / 255"),
    "0 to 255": (bad(x=255 * X), r"x in \[0, 1\], got values from"),
    "normalised": (bad(x=(X - 0.5) / 0.2), "normalisation inside the model"),
    "nan": (bad(x=X.at[0, 0, 0, 0].set(jnp.nan)), "1 NaN pixels"),
    "infinite": (bad(x=X.at[0, 0, 0, 0].set(jnp.inf)), r"got values from .* to inf"),
    "one image": (bad(x=X[0]), r"rank 4, got shape \(3, 3, 1\).*x\[None\]"),
    "flat images": (bad(x=X.reshape(5, 9)), "rank 4"),
    "no images": (bad(x=X[:0], y=Y[:0]), "at least one image"),
    "label out of range": (bad(y=jnp.array([0, 1, 2, 3, 0])), r"labels in \[0, 2\], got 3 in row 3"),
    "negative label": (bad(y=jnp.array([0, 1, 2, -1, 0])), "got -1 in row 3"),
    "float labels": (bad(y=Y.astype(jnp.float32)), "integer labels"),
    "too few labels": (bad(y=Y[:4]), r"one row per image, got \(4,\)"),
    "distribution of other classes": (bad(y=jnp.full((5, 4), 0.25)), "The model has 3 classes"),
    "distribution that does not sum to 1": (bad(y=jnp.full((5, 3), 0.9)), "sum to 1.*in row 0"),
    "integer distribution": (bad(y=jnp.ones((5, 3), jnp.int32)), "float dtype"),
    "legacy key": (bad(key=jax.random.PRNGKey(0)), r"typed key.*jax.random.key\(seed\)"),
    "seed for a key": (bad(key=0), r"typed key, got 0"),
    "many keys": (bad(key=jax.random.split(KEY, 5)), "one typed key"),
    "attack class": (bad(attack=PGD), "Expected an attack"),
    "neighbourhood for an attack": (bad(attack=LInf(eps=0.1)), "Expected an attack"),
    "array in the attack": (
        bad(attack=PGD(neighbourhood=LInf(eps=jnp.array(0.1)))),
        "hashable attack.*Python floats",
    ),
    "no callable": (bad(logits_fn=WEIGHTS), "callable images -> logits"),
    "one logit": (bad(logits_fn=lambda x: x.reshape(5, -1)[:, :1]), r"\(-z/2, z/2\)"),
    "flat logits": (bad(logits_fn=lambda x: x.sum((1, 2, 3))), r"logits \[5, k\].*float32 of shape \(5,\)"),
    "labels for logits": (bad(logits_fn=lambda x: jnp.zeros((5, 3), jnp.int32)), "float logits"),
    "a pair for logits": (bad(logits_fn=lambda x: (net(WEIGHTS, x), x)), "the logits alone"),
    "chunk of 0": (bad(chunk=0), "chunk >= 1"),
    "unhashable option": (bad(logits_fn=functools.partial(net, WEIGHTS, scale={1})), "hashable"),
    "dropout in train mode": (
        bad(logits_fn=NnxNet(train=True)),
        r"eval mode, got Dropout 'drop'.*model.eval\(\)",
    ),
    "batch norm in train mode": (bad(logits_fn=WithBatchNorm()), "eval mode, got BatchNorm 'parts.0'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs_are_refused_with_a_cure(name):
    given, words = BAD[name]
    with pytest.raises(ValueError, match=words):
        jaxrobust.attack(given.pop("attack"), given.pop("logits_fn"), given.pop("x"), given.pop("y"), **given)


def test_importing_starts_no_backend_and_no_flax():
    program = (
        "import sys, jaxrobust; from jax._src import xla_bridge as b; "
        "assert not b._backends, 'a backend'; assert 'flax' not in sys.modules, 'flax'"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_the_example_runs():
    spec = importlib.util.spec_from_file_location(
        "attack_foreign_model", ROOT / "examples/attack_foreign_model.py"
    )
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    accuracies = example.main()
    assert set(accuracies) == {"plain function", "nnx module"}
    assert all(0.05 < accuracy < 0.9 for accuracy in accuracies.values()), accuracies
