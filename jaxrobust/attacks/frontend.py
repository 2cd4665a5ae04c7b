"""`jaxrobust.attack`: one call for any callable `images -> logits`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.attacks._callable import Structure, merge, split
from jaxrobust.attacks._inputs import check_images, check_key, check_logits, check_targets
from jaxrobust.numerics import compile as compiler
from jaxrobust.types import Array, Attack, AttackResult, Example, PyTree


def attack(
    attack: Attack,
    logits_fn: Callable[[Array], Array],
    x: Any,
    y: Any,
    *,
    key: Array,
    chunk: int | None = None,
) -> AttackResult:
    """Attacks a batch of images under any model that is a callable `images -> logits`.

    The model may be a plain function, a `functools.partial(apply_fn, params)`, a `jax.tree_util.Partial`, any
    callable pytree (equinox), a flax nnx module in eval mode, or a bound method. Arrays found in it become
    arguments of the compiled attack: a second call with equal shapes compiles nothing, also when the
    parameters have changed. Arrays that a plain function *closes over* are compiled in, as under `jax.jit`:
    make them arguments of a partial.

    Args:
        attack: from `jaxrobust.attacks`; equal configurations share one compilation.
        logits_fn: `[b, h, w, c] -> [b, k]`, in eval mode: logits, not probabilities, normalisation inside.
        x: `[b, h, w, c]`, a float dtype, in [0, 1] (rounding up to 1e-6 is clipped).
        y: classes `[b]`, or distributions `[b, k]`, of which the argmax counts as the class.
        key: a typed key; row i draws from `fold_in(key, i)`, so results do not depend on `chunk`.
        chunk: attack so many images at a time, to bound memory; the last piece is padded, so one program
            serves all. None attacks all at once.

    Returns:
        `AttackResult(image, theta, found, distance)`, row by row; distances in radii.

    Raises:
        ValueError: for images out of range, labels out of range, NaN pixels, wrong shapes or dtypes, an
            untyped key, logits of a wrong shape, an nnx module in train mode, a configuration that holds
            arrays.

    Example:
        >>> import functools, jax, jax.numpy as jnp, jaxrobust
        >>> from jaxrobust.attacks import PGD
        >>> from jaxrobust.neighbourhoods import LInf
        >>> def net(params, images):
        ...     return images.reshape(len(images), -1) @ params
        >>> params = jnp.array([[1.0, -1.0], [-1.0, 1.0]])
        >>> x, y = jnp.array([[0.6, 0.4], [0.9, 0.1]]).reshape(2, 1, 2, 1), jnp.array([0, 0])
        >>> pgd = PGD(neighbourhood=LInf(eps=0.25))
        >>> jaxrobust.attack(pgd, functools.partial(net, params), x, y, key=jax.random.key(0)).found.tolist()
        [True, False]
    """
    _check_attack(attack)
    check_key(key)
    if chunk is not None:
        _validate.at_least("chunk", chunk, 1, "None attacks all images at once.")
    images = check_images(x)
    structure, arrays = split(logits_fn)
    targets = check_targets(y, images.shape[0], _num_classes(structure, arrays, images.shape))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images.shape[0]))
    rows = (keys, Example(image=images, target=targets))
    if chunk is None:
        return _compiled()(attack, structure, arrays, *rows)
    pieces = [
        _compiled()(attack, structure, arrays, *_rows(rows, start, chunk))
        for start in range(0, images.shape[0], chunk)
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[: images.shape[0]], *pieces)


def _run(
    attack: Attack, structure: Structure, arrays: list[PyTree], keys: Array, example: Example
) -> AttackResult:
    """What is compiled: parameters, keys and rows are arguments, attack and structure are static."""
    logits_fn = merge(structure, arrays)
    return attack(keys, lambda images, ex: logits_fn(images), example)


@functools.cache
def _compiled() -> Callable[..., AttackResult]:
    """Made on the first call: choosing compiler options starts the backend, which an import must not."""
    return compiler.jit(_run, static_argnums=(0, 1))


def _rows(tree: PyTree, start: int, size: int) -> PyTree:
    """Rows `start` to `start + size`, padded by the last row of the tree."""
    return jax.tree.map(lambda leaf: leaf[jnp.minimum(start + jnp.arange(size), leaf.shape[0] - 1)], tree)


def _check_attack(attack: Any) -> None:
    if isinstance(attack, type) or not isinstance(attack, Attack):
        raise ValueError(f"Expected an attack, e.g. PGD(neighbourhood=LInf(eps=8/255)), got {attack!r}.")
    try:
        hash(attack)
    except TypeError:
        raise ValueError(
            f"Expected a hashable attack, got {attack!r}. Its fields must be numbers, tuples and functions: "
            "give radii as Python floats, not as arrays."
        ) from None


def _num_classes(structure: Structure, arrays: list[PyTree], shape: tuple[int, ...]) -> int:
    """k, from an abstract call of the model; cached, for it traces the model."""
    leaves, treedef = jax.tree.flatten(arrays)
    return _num_classes_of(structure, treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves), shape)


@functools.lru_cache(maxsize=128)
def _num_classes_of(
    structure: Structure, treedef: Any, leaves: tuple[Any, ...], shape: tuple[int, ...]
) -> int:
    arrays = jax.tree.unflatten(treedef, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    logits = jax.eval_shape(lambda arrays, images: merge(structure, arrays)(images), arrays, images)
    return check_logits(logits, shape[0])
