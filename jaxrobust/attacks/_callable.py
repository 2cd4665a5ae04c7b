"""Splits any callable `images -> logits` into a hashable structure and its arrays, as jit wants them.

Arrays (parameters) become arguments of the compiled function; everything else is its static description. Two
callables of equal structure share one compilation, whatever the values of their arrays.
"""

import functools
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrobust.types import PyTree


class _Slot(NamedTuple):
    """Marks the place of an array, or of the state of an nnx module, in the static part."""

    graph: Any = None


class _Unfolded(NamedTuple):
    """A partial, or a bound method, as a pytree; of a type of its own, lest tuples be taken for it."""

    fn: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Structure(NamedTuple):
    """What is left of a callable without its arrays: hashable, equal for equal structures."""

    treedef: Any
    leaves: tuple[Any, ...]


def _nnx() -> Any:
    """flax.nnx if somebody has imported it; importing it here would slow every start."""
    return sys.modules.get("flax.nnx")


def _is_module(value: Any) -> bool:
    nnx = _nnx()
    return nnx is not None and isinstance(value, nnx.Module)


def _unfold(value: Any) -> PyTree:
    """Partials and bound methods as `_Unfolded`, at any depth, so that the arrays they hold come to light."""
    if isinstance(value, functools.partial):
        args = tuple(_unfold(arg) for arg in value.args)
        return _Unfolded(_unfold(value.func), args, {k: _unfold(v) for k, v in value.keywords.items()})
    if isinstance(value, types.MethodType):
        return _Unfolded(value.__func__, (_unfold(value.__self__),), {})
    return value


def _fold(value: Any) -> Any:
    """The inverse of `_unfold`; what was not unfolded comes back as it is."""
    if not isinstance(value, _Unfolded):
        return value
    args = tuple(_fold(arg) for arg in value.args)
    return functools.partial(_fold(value.fn), *args, **{k: _fold(v) for k, v in value.kwargs.items()})


def _check_eval_mode(module: Any) -> None:
    """Refuses an nnx module with a part that is in train mode, as far as its attributes tell."""
    for path, part in _nnx().iter_graph(module):
        batch_norm = getattr(part, "use_running_average", None) is False
        dropout = getattr(part, "deterministic", None) is False and getattr(part, "rate", 1.0) != 0
        if batch_norm or dropout:
            where = ".".join(map(str, path)) or type(part).__name__
            raise ValueError(
                f"Expected a model in eval mode, got {type(part).__name__} {where!r} in train mode: attacks "
                "on batch statistics or dropout measure nothing. Call model.eval() first."
            )


def split(fn: Callable) -> tuple[Structure, list[PyTree]]:
    """`(structure, arrays)`; raises ValueError for what cannot be an argument of a compiled function."""
    if not callable(fn):
        raise ValueError(f"Expected logits_fn to be a callable images -> logits, got {type(fn).__name__}.")
    leaves, treedef = jax.tree.flatten(_unfold(fn), is_leaf=_is_module)
    static, arrays = [], []
    for leaf in leaves:
        if _is_module(leaf):
            _check_eval_mode(leaf)
            graph, state = _nnx().split(leaf)
            static.append(_Slot(graph))
            arrays.append(state)
        elif isinstance(leaf, jax.Array | np.ndarray):
            static.append(_Slot())
            arrays.append(leaf)
        else:
            static.append(leaf)
    structure = Structure(treedef, tuple(static))
    try:
        hash(structure)
    except TypeError as error:
        raise ValueError(
            f"Expected the parts of logits_fn that are not arrays to be hashable, got {fn!r} ({error}). Pass "
            "parameters as arrays: functools.partial(apply_fn, params)."
        ) from None
    return structure, arrays


def merge(structure: Structure, arrays: list[PyTree]) -> Callable:
    """The callable again."""
    remaining = iter(arrays)

    def restore(leaf: Any) -> Any:
        if not isinstance(leaf, _Slot):
            return leaf
        value = next(remaining)
        return value if leaf.graph is None else _nnx().merge(leaf.graph, value)

    return _fold(jax.tree.unflatten(structure.treedef, [restore(leaf) for leaf in structure.leaves]))
