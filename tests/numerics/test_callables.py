"""Callables taken apart into structure and arrays, and put together again."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxrobust.numerics import callables


def times(factor, x):
    return factor * x


def test_arrays_come_apart_and_other_arrays_go_in():
    structure, arrays = callables.split(Partial(times, jnp.array(3.0)))
    assert len(arrays) == 1 and float(callables.merge(structure, arrays)(2.0)) == 6.0
    assert float(callables.merge(structure, [jnp.array(5.0)])(2.0)) == 10.0
    # Equal structures are equal whatever their arrays, so that a program is compiled once.
    assert structure == callables.split(Partial(times, np.ones(())))[0]
    assert hash(structure) == hash(callables.split(Partial(times, jnp.array(3.0)))[0])


def test_a_plain_function_has_no_arrays():
    structure, arrays = callables.split(functools.partial(times, 2.0))
    assert arrays == () and callables.merge(structure, arrays)(4.0) == 8.0


def test_bad_input():
    with pytest.raises(ValueError, match="Expected model_fn to be a callable, got 3"):
        callables.split(3, "model_fn")
    with pytest.raises(ValueError, match="parts of fn that are not arrays to be hashable"):
        callables.split(Partial(times, {1, 2}))
