"""Splits a target function into a hashable structure and its arrays, as jit wants them.

Arrays in partials and other pytrees become arguments of the compiled function; the rest is its static part.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrobust.types import PyTree


class _Unfolded(NamedTuple):
    """A partial as a pytree; of a type of its own, lest tuples be taken for it."""

    fn: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Structure(NamedTuple):
    """What is left of a callable without its arrays: equal for equal structures. None: an array's place."""

    treedef: Any
    leaves: tuple[Any, ...]


def split(fn: Callable) -> tuple[Structure, list[Any]]:
    """`(structure, arrays)`; ValueError for what cannot be an argument of a compiled function."""
    if not callable(fn):
        raise ValueError(
            f"Expected target_fn to be a callable (images, example) -> [b], got {type(fn).__name__}."
        )
    leaves, treedef = jax.tree.flatten(_unfold(fn))
    arrays = [leaf for leaf in leaves if _is_array(leaf)]
    structure = Structure(treedef, tuple(None if _is_array(leaf) else leaf for leaf in leaves))
    try:
        hash(structure)
    except TypeError as error:
        raise ValueError(
            f"Expected the parts of target_fn that are not arrays to be hashable, got {fn!r} ({error}). Pass "
            "parameters as arrays: functools.partial(apply_fn, params)."
        ) from None
    return structure, arrays


def merge(structure: Structure, arrays: list[Any]) -> Callable:
    """The callable again."""
    remaining = iter(arrays)
    leaves = [next(remaining) if leaf is None else leaf for leaf in structure.leaves]
    return _fold(jax.tree.unflatten(structure.treedef, leaves))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)


def _unfold(value: Any) -> PyTree:
    """Partials, of functools or JAX, as `_Unfolded`, at any depth."""

    def opened(leaf: Any) -> Any:
        if not isinstance(leaf, functools.partial):
            return leaf
        return _Unfolded(_unfold(_called(leaf.func)), _unfold(leaf.args), _unfold(leaf.keywords))

    return jax.tree.map(opened, value, is_leaf=lambda leaf: isinstance(leaf, functools.partial))


def _called(fn: Any) -> Any:
    """What a partial calls; one of JAX's around a partial has a shim there, with the inner one's parts."""
    hidden = hasattr(fn, "keywords") and not isinstance(fn, functools.partial)
    return functools.partial(fn.func, *fn.args, **fn.keywords) if hidden else fn


def _fold(value: Any) -> Any:
    """The inverse of `_unfold`."""

    def closed(leaf: Any) -> Any:
        if not isinstance(leaf, _Unfolded):
            return leaf
        return functools.partial(_fold(leaf.fn), *_fold(leaf.args), **_fold(leaf.kwargs))

    return jax.tree.map(closed, value, is_leaf=lambda leaf: isinstance(leaf, _Unfolded))
