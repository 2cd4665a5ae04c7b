"""`jaxrobust.attack` and `attack_pairs`: one call for any callable `images -> logits`, or embeddings."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _validate
from jaxrobust.attacks._blocks import by_blocks
from jaxrobust.attacks._callable import Structure, merge, split
from jaxrobust.attacks._checks import goals, reads_mask
from jaxrobust.attacks._inputs import (
    check_embeddings,
    check_images,
    check_key,
    check_logits,
    check_mask,
    check_targets,
)
from jaxrobust.numerics import compile as compiler
from jaxrobust.numerics.similarity import pair_logits
from jaxrobust.types import Array, Attack, AttackResult, Example, PyTree


def attack(
    attack: Attack,
    logits_fn: Callable[[Array], Array],
    x: Any,
    y: Any,
    *,
    key: Array,
    mask: Any = None,
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
            For any number of rows: on CPU it sees blocks of them.
        x: `[b, h, w, c]`, a float dtype, in [0, 1] (rounding up to 1e-6 is clipped).
        y: classes `[b]`, or distributions `[b, k]`, of which the argmax counts as the class; the designated
            classes of a targeted attack.
        key: a typed key; row i draws from `fold_in(key, i)`, so results do not depend on `chunk`.
        mask: `[b, h, w, 1]` or `[h, w, 1]` of zeros and ones, the region that a `Masked` neighbourhood may
            change.
        chunk: attack so many images at a time, to bound memory; the last piece is padded, so one program
            serves all. None attacks all at once.

    Returns:
        `AttackResult(image, theta, found, distance, nonfinite)`, row by row; distances in radii.

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
    images, keys, mask = _checked(attack, x, key, mask, chunk)
    structure, arrays = split(logits_fn)
    num_classes = check_logits(_answer(structure, arrays, images.shape), images.shape[0])
    targets = check_targets(y, images.shape[0], num_classes)
    example = Example(image=images, target=targets, mask=mask)
    return _in_chunks(attack, structure, _logits, arrays, (), keys, example, chunk)


def attack_pairs(
    attack: Attack,
    embed_fn: Callable[[Array], Array],
    x: Any,
    partners: Any,
    same: Any,
    *,
    threshold: float,
    key: Array,
    scale: float = 1.0,
    mask: Any = None,
    chunk: int | None = None,
) -> AttackResult:
    r"""Attacks a verification model pair by pair: dodging where the two are the same, else impersonation.

    The model says that x and its partner match where $\cos(f(x), f(x')) > \tau$. Its two logits
    $(z/2, -z/2)$, $z = a\,(\cos - \tau)$, go to the attack, which changes x and leaves the partner as it is;
    so every attack works: of fixed radius, of minimum norm, on geometry.

    Args:
        attack: from `jaxrobust.attacks`, untargeted: with two classes away from one is towards the other.
        embed_fn: `[b, h, w, c] -> [b, d]`, any callable as in `attack`; embeddings of any length.
        x: `[b, h, w, c]`, the images to change, a float dtype, in [0, 1].
        partners: `[b, h, w, c]` images, or their embeddings `[b, d]`.
        same: bool `[b]`; whether the two show the same person.
        threshold: tau, in [-1, 1].
        key: a typed key; row i draws from `fold_in(key, i)`.
        scale: a > 0; where the decision is a probability sigmoid(z), its slope. The decision does not depend
            on it.
        mask, chunk: as in `attack`.

    Returns:
        `AttackResult`; `found`: the decision about the pair is now wrong.

    Raises:
        ValueError: for images, partners or embeddings of wrong shape or range, a threshold outside [-1, 1].

    Example:
        >>> import jax, jax.numpy as jnp, jaxrobust
        >>> from jaxrobust.attacks import PGD
        >>> from jaxrobust.neighbourhoods import LInf
        >>> def embed(images):
        ...     return images.reshape(len(images), -1) - 0.5
        >>> x = jnp.array([[0.9, 0.5], [0.9, 0.5]]).reshape(2, 1, 2, 1)
        >>> partners = jnp.array([[0.9, 0.6], [0.1, 0.5]]).reshape(2, 1, 2, 1)
        >>> pgd = PGD(neighbourhood=LInf(eps=0.3))
        >>> jaxrobust.attack_pairs(
        ...     pgd, embed, x, partners, jnp.array([True, False]), threshold=0.5, key=jax.random.key(0)
        ... ).found.tolist()
        [True, False]
    """
    images, keys, mask = _checked(attack, x, key, mask, chunk)
    _validate.within("threshold", threshold, -1, 1, "It is a cosine.")
    _validate.positive("scale", scale)
    num = images.shape[0]
    if True in goals(attack):
        raise ValueError(
            "Expected an untargeted attack on pairs, got targeted=True. Away from the right decision is "
            "towards the wrong one: dodging where the two are the same, else impersonation."
        )
    same = np.asarray(jax.device_get(same))
    if same.shape != (num,) or same.dtype != bool:
        raise ValueError(f"Expected same to be bool [{num}], got {same.dtype} of shape {same.shape}.")
    structure, arrays = split(embed_fn)
    answer = _answer(structure, arrays, images.shape)
    check_embeddings(answer, num, "embed_fn to give embeddings")
    references = _references(structure, arrays, partners, images.shape, chunk)
    if references.shape != answer.shape:
        raise ValueError(
            f"Expected the partners' embeddings {answer.shape} as embed_fn gives them, got "
            f"{references.shape}."
        )
    example = Example(images, jnp.where(same, 0, 1), reference=references, mask=mask)
    constants = (jnp.float32(threshold), jnp.float32(scale))
    return _in_chunks(attack, structure, _pairs, arrays, constants, keys, example, chunk)


def _references(
    structure: Structure, arrays: list[PyTree], partners: Any, shape: tuple[int, ...], chunk: int | None
) -> Array:
    """The partners' embeddings: as given, or of their images, in pieces of one shape."""
    if np.ndim(partners) == 2:
        check_embeddings(partners, shape[0], "partners' embeddings")
        if not np.isfinite(np.asarray(partners)).all():
            raise ValueError("Expected finite partners' embeddings, got NaN or infinity.")
        return jnp.asarray(partners, jnp.float32)
    images = check_images(partners)
    if images.shape != shape:
        raise ValueError(f"Expected partners of the shape of x, {shape}, got {images.shape}.")
    size = shape[0] if chunk is None else chunk
    pieces = [
        _embedding()(structure, arrays, _rows(images, start, size)) for start in range(0, shape[0], size)
    ]
    return jnp.concatenate(pieces)[: shape[0]]


def _embed(structure: Structure, arrays: list[PyTree], images: Array) -> Array:
    return by_blocks(merge(structure, arrays), images)


@functools.cache
def _embedding() -> Callable[..., Array]:
    return compiler.jit(_embed, static_argnums=0)


def _checked(
    attack: Any, x: Any, key: Any, mask: Any, chunk: int | None
) -> tuple[Array, Array, Array | None]:
    """Images, their keys and regions; refuses what cannot be attacked."""
    _check_attack(attack)
    check_key(key)
    if chunk is not None:
        _validate.at_least("chunk", chunk, 1, "None attacks all images at once.")
    if mask is not None and not reads_mask(attack):
        raise ValueError(
            f"Expected an attack in a Masked neighbourhood beside a mask, got {attack!r}, which would not "
            "read it. Use neighbourhood=Masked(neighbourhood=...), or leave mask out."
        )
    images = check_images(x)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images.shape[0]))
    return images, keys, check_mask(mask, images)


def _logits(answer: Array, example: Example, constants: tuple[()]) -> Array:
    return answer


def _pairs(answer: Array, example: Example, constants: tuple[Array, Array]) -> Array:
    assert example.reference is not None
    return pair_logits(answer, example.reference, *constants)


def _run(
    attack: Attack,
    structure: Structure,
    criterion_fn: Callable[[Array, Example, Any], Array],
    arrays: list[PyTree],
    constants: tuple[Array, ...],
    keys: Array,
    example: Example,
) -> AttackResult:
    """What is compiled: parameters, constants and rows are arguments; what comes before them is static."""
    model_fn = merge(structure, arrays)
    return attack(keys, lambda images, ex: criterion_fn(by_blocks(model_fn, images), ex, constants), example)


@functools.cache
def _compiled() -> Callable[..., AttackResult]:
    """Made on the first call: choosing compiler options starts the backend, which an import must not."""
    return compiler.jit(_run, static_argnums=(0, 1, 2))


def _in_chunks(
    attack: Attack,
    structure: Structure,
    criterion_fn: Callable,
    arrays: list[PyTree],
    constants: tuple[Array, ...],
    keys: Array,
    example: Example,
    chunk: int | None,
) -> AttackResult:
    """All rows at once, or piece by piece, the last one padded."""
    program = functools.partial(_compiled(), attack, structure, criterion_fn, arrays, constants)
    if chunk is None:
        return program(keys, example)
    num = example.image.shape[0]
    pieces = [program(*_rows((keys, example), start, chunk)) for start in range(0, num, chunk)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:num], *pieces)


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


def _answer(structure: Structure, arrays: list[PyTree], shape: tuple[int, ...]) -> Any:
    """What the model gives for such images, from an abstract call; cached, for it traces the model."""
    leaves, treedef = jax.tree.flatten(arrays)
    return _answer_of(structure, treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves), shape)


@functools.lru_cache(maxsize=128)
def _answer_of(structure: Structure, treedef: Any, leaves: tuple[Any, ...], shape: tuple[int, ...]) -> Any:
    arrays = jax.tree.unflatten(treedef, [jax.ShapeDtypeStruct(*leaf) for leaf in leaves])
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda arrays, images: merge(structure, arrays)(images), arrays, images)
