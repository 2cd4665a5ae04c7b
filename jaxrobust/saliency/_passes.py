"""Many variants of every row through a model, in passes of one size: the fast path of all maps.

Variants (windows, masks, steps, noises) are numbered; a part of them is made once and serves all rows. One
pass has some rows times some variants of each as one flat batch, so that one image with thousands of variants
fills the device as well as many images with few.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from jaxrobust import _validate
from jaxrobust.saliency._types import TargetFn
from jaxrobust.types import Array, Example, PyTree

T = TypeVar("T", bound=PyTree)

# On CPU the activations of a pass should stay in the cache.
_CPU_CHUNK, _ACCELERATOR_CHUNK = 32, 1024


class Sizes(NamedTuple):
    """A pass has `rows` times `variants` images."""

    rows: int
    variants: int


def sizes(num_rows: int, num_variants: int, chunk: int | None) -> Sizes:
    """Even parts, none with more than `chunk` images: all variants of several rows, or a part of one row's.

    >>> sizes(10, 20, 64), sizes(10, 1000, 64), sizes(2, 20, 64)
    (Sizes(rows=3, variants=20), Sizes(rows=1, variants=63), Sizes(rows=2, variants=20))
    """
    if chunk is None:
        chunk = _CPU_CHUNK if jax.default_backend() == "cpu" else _ACCELERATOR_CHUNK
    _validate.at_least("chunk", chunk, 1, "It is a number of images; None takes what suits the device.")
    variants = _even(num_variants, chunk)
    return Sizes(_even(num_rows, max(chunk // variants, 1)), variants)


def _even(num: int, most: int) -> int:
    """The size of the fewest equal parts of at most `most`."""
    parts = -(-num // most)
    return -(-num // parts)


def by_groups(fn: Callable[[Any], T], rows: PyTree, size: int) -> T:
    """`fn(rows)`, row by row independent, taken `size` rows at a time; the last group is filled up."""
    num = jax.tree.leaves(rows)[0].shape[0]
    if num <= size:
        return fn(rows)
    groups = -(-num // size)
    at = jnp.minimum(jnp.arange(groups * size), num - 1).reshape(groups, size)
    found = jax.lax.map(lambda at: fn(jax.tree.map(lambda leaf: leaf[at], rows)), at)
    return jax.tree.map(lambda leaf: leaf.reshape(groups * size, *leaf.shape[2:])[:num], found)


def each_variant(fn: Callable[[Array], Array], num: int, size: int) -> Array:
    """`fn(variants [s]) -> [b, s]` for all of `range(num)`: `[b, num]`."""
    if num <= size:
        return fn(jnp.arange(num))
    parts = -(-num // size)
    found = jax.lax.map(fn, jnp.minimum(jnp.arange(parts * size), num - 1).reshape(parts, size))
    return jnp.moveaxis(found, 0, 1).reshape(found.shape[1], parts * size)[:, :num]


def sum_over_variants(fn: Callable[[Array, Array], Array], num: int, size: int) -> Array:
    """The sum of `fn(variants [s], weights [s])` over the parts of `range(num)`.

    Weights are 1, and 0 for what fills the last part up.
    """
    if num <= size:
        return fn(jnp.arange(num), jnp.ones(num))
    places = jnp.arange(-(-num // size) * size).reshape(-1, size)

    def part(at: Array) -> Array:
        return fn(jnp.minimum(at, num - 1), (at < num).astype(jnp.float32))

    total, _ = jax.lax.scan(lambda total, at: (total + part(at), None), part(places[0]), places[1:])
    return total


def values(target_fn: TargetFn, images: Array, example: Example) -> Array:
    """The target of images `[r, s, h, w, c]`, s variants of each of the example's rows: float32 `[r, s]`."""
    r, s = images.shape[:2]
    flat = images.reshape(r * s, *images.shape[2:])
    found = target_fn(flat, jax.tree.map(lambda leaf: jnp.repeat(leaf, s, axis=0), example))
    return checked(found, r * s).reshape(r, s)


def gradients(target_fn: TargetFn, images: Array, example: Example) -> Array:
    """The derivatives `[r, s, h, w, c]` of the target in the images `[r, s, h, w, c]`."""
    return jax.grad(lambda images: values(target_fn, images, example).sum())(images)


def checked(target: Array, num: int) -> Array:
    """The target in float32; ValueError unless it is one real number for each of `num` images."""
    shape, dtype = jnp.shape(target), jnp.result_type(target)
    if shape != (num,) or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"Expected target_fn to give one float for each of {num} images, got {dtype} of shape "
            f"{list(shape)}. Choose a class or a partner: class_logit(score_fn), similarity(embed_fn)."
        )
    return target.astype(jnp.float32)


def spread(baseline: float | Array, images: Array) -> Array:
    """The baseline of every image `[b, h, w, c]`, float32; ValueError for a shape that does not fit."""
    given = jnp.asarray(baseline, jnp.float32)
    check_baseline(given.shape, images.shape)
    return jnp.broadcast_to(given, images.shape)


def check_baseline(shape: tuple[int, ...], images_shape: tuple[int, ...]) -> None:
    """Raises ValueError for a baseline that is not of one of the shapes of `SaliencyMap`."""
    b, h, w, c = images_shape
    if shape not in ((), (c,), (h, w, c), (b, h, w, c)):
        raise ValueError(
            f"Expected a baseline that is a number, [{c}], [{h}, {w}, {c}] or [{b}, {h}, {w}, {c}], got "
            f"shape {list(shape)}. The mean of the training images is images.mean(axis=0)."
        )
