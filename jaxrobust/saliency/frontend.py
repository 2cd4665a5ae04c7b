"""`saliency_maps`, `completeness_errors` and `perturbation_curves`: checked, compiled once per shape."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _validate
from jaxrobust.numerics import compile as compiler
from jaxrobust.numerics.callables import Structure, merge, split
from jaxrobust.saliency._inputs import (
    as_baseline,
    as_example,
    as_key,
    as_maps,
    check_finite,
    check_map,
    check_rows,
)
from jaxrobust.saliency._types import SaliencyMap, TargetFn
from jaxrobust.saliency.insertion import Deletion, Insertion
from jaxrobust.saliency.integrated_gradients import completeness_error
from jaxrobust.types import Array, Example, PyTree


def saliency_maps(
    method: SaliencyMap,
    target_fn: TargetFn,
    x: Any,
    *,
    targets: Any = None,
    references: Any = None,
    key: Array | None = None,
    baseline: Any = 0.0,
    chunk: int | None = None,
    rows: int | None = None,
) -> Array:
    """Where each image supports its target.

    Arrays in `target_fn`, if it is made of partials, are arguments of the compiled map: a second call with
    equal shapes compiles nothing, also when the parameters or the baseline have changed. Arrays that a plain
    function closes over are compiled in, as under `jax.jit`.

    Args:
        method: from `SALIENCY_MAPS`; equal configurations share one compilation.
        target_fn: `(images, example) -> [b]`: `class_logit(...)`, `pair_support(...)`, or your own.
        x: `[b, h, w, c]`, a float dtype, in [0, 1].
        targets: classes `[b]`, of class targets; of `pair_support` 0 for the same person, 1 for another.
        references: the partners' embeddings `[b, d]`, of similarities.
        key: a typed key, for maps that draw; row i draws from `fold_in(key, i)`.
        baseline: what "absent" looks like, in [0, 1]: a level, `[c]`, `[h, w, c]` such as the mean of the
            training images, or `[b, h, w, c]`.
        chunk: the most images that go through the model at once; None: what suits the device. Results do
            not depend on it beyond rounding.
        rows: take so many images at a time, the last piece filled up, so that one program serves any number.
            None takes all at once.

    Returns:
        float32 `[b, h, w]`, signed; larger is more support of the target.

    Raises:
        ValueError: for wrong shapes, ranges or dtypes, NaN in images or maps, a missing key, a target that is
            not one number per image, and for `GradCAM` a target that is not cut in two.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxrobust.models import TinyCNN, build
        >>> from jaxrobust.saliency import Occlusion, class_logit, model_logits
        >>> model = build(TinyCNN(), (8, 8, 1))
        >>> target_fn = class_logit(model_logits(model, *model.init(jax.random.key(0))))
        >>> images = jax.random.uniform(jax.random.key(1), (2, 8, 8, 1))
        >>> saliency_maps(Occlusion(window=4, stride=2), target_fn, images, targets=[3, 1]).shape
        (2, 8, 8)
    """
    check_map(method)
    example, level = _checked(x, targets, references, baseline, chunk, rows)
    numbered = (np.arange(example.image.shape[0]), example)
    maps = _in_pieces(_map, method, target_fn, chunk, numbered, level, rows, as_key(method, key))
    check_finite(maps, "maps")
    return maps


def completeness_errors(
    maps: Any,
    target_fn: TargetFn,
    x: Any,
    *,
    targets: Any = None,
    references: Any = None,
    baseline: Any = 0.0,
    chunk: int | None = None,
    rows: int | None = None,
) -> Array:
    r"""By how much each map's sum misses what it accounts for: $\sum_p S(p) - (f(x) - f(x'))$, `[b]`.

    In the target's units; 0 up to rounding for integrated gradients with steps enough.

    Args:
        maps: `[b, h, w]`, of integrated gradients with the same target and baseline x'.
        target_fn, x, targets, references, baseline, chunk, rows: as in `saliency_maps`.
    """
    example, level = _checked(x, targets, references, baseline, chunk, rows)
    return _in_pieces(_error, None, target_fn, chunk, (as_maps(maps, example), example), level, rows)


def perturbation_curves(
    curve: Insertion | Deletion,
    target_fn: TargetFn,
    x: Any,
    maps: Any,
    *,
    targets: Any = None,
    references: Any = None,
    baseline: Any = 0.0,
    chunk: int | None = None,
    rows: int | None = None,
) -> Array:
    """The target as pixels come or go in the maps' order, `[b, steps + 1]`; `curve_area` sums it up.

    Args:
        curve: `Insertion()` or `Deletion()`.
        target_fn, x, targets, references, baseline, chunk, rows: as in `saliency_maps`; pixels that are
            absent show the baseline.
        maps: `[b, h, w]`.
    """
    if not isinstance(curve, Insertion | Deletion):
        raise ValueError(f"Expected Insertion(steps=20) or Deletion(steps=20), got {curve!r}.")
    example, level = _checked(x, targets, references, baseline, chunk, rows)
    found = _in_pieces(_curve, curve, target_fn, chunk, (as_maps(maps, example), example), level, rows)
    check_finite(found, "values of the target")
    return found


def _checked(
    x: Any, targets: Any, references: Any, baseline: Any, chunk: int | None, rows: int | None
) -> tuple[Example, Any]:
    check_rows(rows)
    if chunk is not None:
        _validate.at_least("chunk", chunk, 1, "It is a number of images; None takes what suits the device.")
    example = as_example(x, targets, references)
    return example, as_baseline(baseline, example)


def _map(
    method: Any, target_fn: TargetFn, chunk: int | None, rows: PyTree, baseline: Array, key: Array | None
) -> Array:
    numbers, example = rows
    # Maps that draw nothing do not read their keys.
    key = jax.random.key(0) if key is None else key
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
    return method(keys, target_fn, example, baseline=baseline, chunk=chunk)


def _error(
    config: None, target_fn: TargetFn, chunk: int | None, rows: PyTree, baseline: Array, key: None
) -> Array:
    maps, example = rows
    return completeness_error(maps, target_fn, example, baseline=baseline, chunk=chunk)


def _curve(
    curve: Any, target_fn: TargetFn, chunk: int | None, rows: PyTree, baseline: Array, key: None
) -> Array:
    maps, example = rows
    return curve(maps, target_fn, example, baseline=baseline, chunk=chunk)


def _run(
    fn: Callable[..., Array],
    config: Any,
    structure: Structure,
    chunk: int | None,
    arrays: tuple[Any, ...],
    rows: PyTree,
    row_baseline: Array | None,
    baseline: Array | None,
    key: Array | None,
) -> Array:
    """What is compiled: from the target's arrays on all are arguments; what comes before is static."""
    level = baseline if row_baseline is None else row_baseline
    return fn(config, merge(structure, arrays), chunk, rows, level, key)


@functools.cache
def _compiled() -> Callable[..., Array]:
    """Made on the first call: choosing compiler options starts the backend, which an import must not."""
    return compiler.jit(_run, static_argnums=(0, 1, 2, 3))


def _in_pieces(
    fn: Callable[..., Array],
    config: Any,
    target_fn: TargetFn,
    chunk: int | None,
    rows: PyTree,
    baseline: Any,
    size: int | None,
    key: Array | None = None,
) -> Array:
    """All rows at once, or piece by piece, the last one filled up by the last row."""
    structure, arrays = split(target_fn, "target_fn")
    program = functools.partial(_compiled(), fn, config, structure, chunk, arrays)
    by_row = (rows, baseline if baseline.ndim == 4 else None)
    shared = None if baseline.ndim == 4 else baseline
    if size is None:
        return program(*by_row, shared, key)
    num = jax.tree.leaves(rows)[0].shape[0]
    pieces = [program(*_rows(by_row, start, size), shared, key) for start in range(0, num, size)]
    return jnp.concatenate(pieces)[:num]


def _rows(tree: PyTree, start: int, size: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[np.minimum(start + np.arange(size), leaf.shape[0] - 1)], tree)
