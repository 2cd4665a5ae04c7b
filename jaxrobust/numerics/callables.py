"""Splits a callable into a hashable structure and its arrays, as jit, checkpoints and states want them.

Arrays in partials and other pytrees (`jax.tree_util.Partial(apply_fn, params)`, `functools.partial`, an
equinox module) become arguments of what is compiled and state that is saved; what is left is static. A plain
function has no arrays, and those it closes over are compiled in.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrobust.types import Array, PyTree


class _Unfolded(NamedTuple):
    """A partial as a pytree; of a type of its own, lest tuples be taken for it."""

    fn: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Structure(NamedTuple):
    """What is left of a callable without its arrays: equal for equal structures. None: an array's place."""

    treedef: Any
    leaves: tuple[Any, ...]


def split(fn: Callable, name: str = "fn") -> tuple[Structure, tuple[Array, ...]]:
    """`(structure, arrays)`.

    Raises:
        ValueError: for what is not callable, or whose other parts are not hashable; it says `name`.

    >>> structure, arrays = split(functools.partial(np.add, np.ones(2)))
    >>> merge(structure, arrays)(1.0).tolist()
    [2.0, 2.0]
    """
    if not callable(fn):
        raise ValueError(f"Expected {name} to be a callable, got {fn!r}.")
    leaves, treedef = jax.tree.flatten(_unfold(fn))
    structure = Structure(treedef, tuple(None if _is_array(leaf) else leaf for leaf in leaves))
    try:
        hash(structure)
    except TypeError as error:
        raise ValueError(
            f"Expected the parts of {name} that are not arrays to be hashable, got {fn!r} ({error}). Pass "
            "parameters as arrays: jax.tree_util.Partial(apply_fn, params)."
        ) from None
    return structure, tuple(leaf for leaf in leaves if _is_array(leaf))


def merge(structure: Structure, arrays: Sequence[Array]) -> Callable:
    """The callable again, with these arrays."""
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
