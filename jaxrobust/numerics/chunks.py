"""Many rows through one compiled shape: chunks of one size, the last of them filled up."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxrobust import _validate
from jaxrobust.numerics import compile as compiler
from jaxrobust.types import PyTree


def in_chunks(
    fn: Callable, static: tuple[Any, ...], shared: tuple[Any, ...], rows: PyTree, chunk: int
) -> PyTree:
    """`fn(*static, *shared, rows)` on the host, `chunk` rows at a time; rows must not depend on each other.

    Args:
        fn: a function of a module, whose result has the rows as its leading axis.
        static: hashable arguments.
        shared: arrays that every chunk needs.
        rows: a pytree of arrays with the leading axis n, at least one row.
        chunk: rows per call, always exactly so many, so that one program serves any number.

    Returns:
        NumPy arrays with the leading axis n.
    """
    _validate.at_least("chunk", chunk, 1, "It is a number of rows.")
    num = len(jax.tree.leaves(rows)[0])
    if not num:
        raise ValueError("Expected at least one row, got none.")
    program, found = _compiled(fn, len(static)), []
    for start in range(0, num, chunk):
        part = jax.tree.map(functools.partial(_taken, at=np.minimum(start + np.arange(chunk), num - 1)), rows)
        found.append(jax.device_get(program(*static, *shared, part)))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:num], *found)


def _taken(leaf: np.ndarray, at: np.ndarray) -> np.ndarray:
    return leaf[at]


@functools.cache
def _compiled(fn: Callable, num_static: int) -> Callable:
    """Made on the first call: choosing compiler options starts the backend, which an import must not."""
    return compiler.jit(fn, static_argnums=tuple(range(num_static)))
