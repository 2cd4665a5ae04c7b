"""A frozen network as a value: a callable that is a pytree, taken apart into its structure and its arrays.

Arrays (`jax.tree_util.Partial(apply_fn, params)`, an equinox module) become arguments of what is compiled and
state that is saved; what is left is static. A plain function has no arrays, and those it closes over are
compiled in.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrobust.types import Array


class Structure(NamedTuple):
    """What is left of a callable without its arrays: hashable, equal for equal structures."""

    treedef: Any
    leaves: tuple[Any, ...]


_ARRAY = "array"


def split(fn: Callable, name: str = "fn") -> tuple[Structure, tuple[Array, ...]]:
    """`(structure, arrays)`.

    Raises:
        ValueError: for what is not callable, or whose other parts are not hashable; it says `name`.

    >>> structure, arrays = split(jax.tree_util.Partial(np.add, np.ones(2)))
    >>> merge(structure, arrays)(1.0).tolist()
    [2.0, 2.0]
    """
    if not callable(fn):
        raise ValueError(f"Expected {name} to be a callable, got {fn!r}.")
    leaves, treedef = jax.tree.flatten(fn)
    structure = Structure(treedef, tuple(_ARRAY if _is_array(leaf) else leaf for leaf in leaves))
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
    leaves = [next(remaining) if leaf is _ARRAY else leaf for leaf in structure.leaves]
    return jax.tree.unflatten(structure.treedef, leaves)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray)
