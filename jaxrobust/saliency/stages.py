"""Score functions of the library's models, cut at a layer if asked: what Grad-CAM differentiates.

Models give activations as `Outputs.taps`, from which nothing leads on to the logits. A net of linen modules
is cut by running it again with one module's output replaced; what lies before that module is then dead code,
which the compiler drops.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxrobust.numerics import compile as compiler
from jaxrobust.saliency._types import Stages
from jaxrobust.types import Array, Example, Model, Outputs, PyTree, ScoreFn

# Nothing beside any value, and far from the denormals, which processors may flush.
_HAIR = 1e-30


class _Place(NamedTuple):
    """A module by its path, and whether the activation is its output's ReLU."""

    path: str
    rectified: bool = False


def model_logits(model: Model, params: PyTree, stats: PyTree, *, at: str | None = None) -> ScoreFn:
    """The model's logits in eval mode, `(images, example) -> [b, k]`; as `Stages` if cut at a layer.

    Its arrays are arguments of what is compiled with it: other parameters compile nothing.

    Args:
        model: any; for `at`, one of linen modules (`models.build`).
        params, stats: its parameters and statistics.
        at: a tap of the model's, or else the path of a module (`"layer4_1"`, `"layer4_1/conv2"`), whose
            output is then the activation; None for no cut. A tap may be a module's output or its ReLU, if
            the net goes on by one: ReLU twice is ReLU, before a max-pool or after.

    Returns:
        A score function; pass it to `class_logit` or another target.

    Raises:
        ValueError: for a name that the model has not, or a tap from which the net cannot go on.

    >>> from jaxrobust.models import TinyCNN, build
    >>> model = build(TinyCNN(), (8, 8, 1))
    >>> scores = model_logits(model, *model.init(jax.random.key(0)), at="conv4")
    >>> images = jnp.ones((2, 8, 8, 1))
    >>> scores.features_fn(images, None).shape, scores(images, Example(images, jnp.zeros(2, int))).shape
    ((2, 4, 4, 32), (2, 10))
    """
    return _scores(_logits, model, params, stats, at)


def model_embeddings(model: Model, params: PyTree, stats: PyTree, *, at: str | None = None) -> ScoreFn:
    """The model's embeddings `[b, d]`, otherwise as `model_logits`; for `similarity` and `pair_support`."""
    return _scores(_embedding, model, params, stats, at)


def with_weights(scores: ScoreFn, params: PyTree, stats: PyTree) -> ScoreFn:
    """What `model_logits` or `model_embeddings` gave, of the same net with other weights, cut where that is.

    >>> from jaxrobust.models import TinyCNN, build
    >>> model = build(TinyCNN(), (8, 8, 1))
    >>> first, second = (model.init(jax.random.key(i)) for i in range(2))
    >>> moved = with_weights(model_logits(model, *first, at="conv4"), *second)
    >>> images = jnp.ones((1, 8, 8, 1))
    >>> bool((moved(images, Example(images, None)) == model_logits(model, *second)(images, None)).all())
    True
    """
    if isinstance(scores, Stages):
        parts = (_weighted(fn, params, stats) for fn in (scores.features_fn, scores.head_fn))
        return Stages(*parts)
    return _weighted(scores, params, stats)


def _weighted(fn: Any, params: PyTree, stats: PyTree) -> Any:
    if not isinstance(fn, Partial) or fn.func not in (_whole, _features, _head):
        raise ValueError(f"Expected what model_logits or model_embeddings gave, got {fn!r}.")
    return Partial(fn.func, *fn.args[:-2], params, stats)


def of_images(fn: Any) -> ScoreFn:
    """A function of images alone, of your own model, as a score function `(images, example)`.

    >>> scores = of_images(lambda images: images.sum(axis=(1, 2)))
    >>> scores(jnp.ones((1, 2, 2, 3)), None).tolist()
    [[4.0, 4.0, 4.0]]
    """
    return Partial(_of_images, fn)


def _of_images(fn: Any, images: Array, example: Example) -> Array:
    return fn(images)


def _logits(outputs: Outputs) -> Array:
    return outputs.logits


def _embedding(outputs: Outputs) -> Array:
    if outputs.embedding is None:
        raise ValueError(
            "Expected a model that gives an embedding, got Outputs(embedding=None). Use a face model such as "
            "FaceCNN, or explain its logits: model_logits."
        )
    return outputs.embedding


def _scores(read: Any, model: Model, params: PyTree, stats: PyTree, at: str | None) -> ScoreFn:
    if at is None:
        return Partial(_whole, read, model, params, stats)
    place = _find(model, params, stats, at)
    return Stages(
        Partial(_features, place, model, params, stats), Partial(_head, read, place, model, params, stats)
    )


def _whole(read: Any, model: Model, params: PyTree, stats: PyTree, images: Array, example: Example) -> Array:
    return read(model.apply(params, stats, images, train=False)[0])


def _features(
    place: _Place, model: Model, params: PyTree, stats: PyTree, images: Array, example: Example | None
) -> Array:
    """The activation at a place, `[b, i, j, k]`."""
    found = _outputs_of_modules(model, params, stats, images)[0][place.path]
    return nn.relu(found) if place.rectified else found


def _head(
    read: Any, place: _Place, model: Model, params: PyTree, stats: PyTree, activation: Array, example: Example
) -> Array:
    """What the model makes of an activation at a place; of the example's images only the shape is read."""
    if place.rectified:
        # A hair above 0, where the net's own ReLU, whose input the activation is now, would have derivative
        # 0; what the net makes of the activation behind that ReLU has its own derivative there.
        activation = activation + jnp.where(activation > 0, 0.0, _HAIR).astype(activation.dtype)

    def replace(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
        here = _path(context) == place.path
        return activation if here else next_fn(*args, **kwargs)

    with nn.intercept_methods(replace):
        return read(model.apply(params, stats, example.image, train=False)[0])


def _outputs_of_modules(
    model: Model, params: PyTree, stats: PyTree, images: Array
) -> tuple[dict[str, Array], Outputs]:
    """Activations `[b, i, j, k]` by the path of the module that gives them, and the model's outputs.

    Modules that are called more than once are left out.
    """
    found: dict[str, Array] = {}
    calls: dict[str, int] = {}

    def keep(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
        value = next_fn(*args, **kwargs)
        path = _path(context)
        if path and getattr(value, "ndim", 0) == 4:
            found[path] = value
            calls[path] = calls.get(path, 0) + 1
        return value

    with nn.intercept_methods(keep):
        outputs = model.apply(params, stats, images, train=False)[0]
    return {path: value for path, value in found.items() if calls[path] == 1}, outputs


def _path(context: Any) -> str:
    """`layer4_1/conv2` of a call of that module; empty for the whole net, and for what is no call."""
    return "/".join(context.module.path) if context.method_name == "__call__" else ""


def _find(model: Model, params: PyTree, stats: PyTree, at: str) -> _Place:
    """Where a tap or a module is, from a run on two random images; a tap is checked by running on from it."""
    images = jax.random.uniform(jax.random.key(0), (2, *model.image_shape))
    example = Example(images, jnp.zeros(2, jnp.int32))

    def run(params: PyTree, stats: PyTree) -> tuple[dict[str, Array], Outputs]:
        return _outputs_of_modules(model, params, stats, images)

    def run_on(params: PyTree, stats: PyTree, activation: Array, place: _Place) -> Array:
        return _head(_logits, place, model, params, stats, activation, example)

    found, outputs = jax.device_get(compiler.jit(run)(params, stats))
    go_on = compiler.jit(run_on, static_argnums=3)
    taps = outputs.taps or {}

    def leads_on(place: _Place) -> bool:
        activation = np.maximum(found[place.path], 0) if place.rectified else found[place.path]
        # Two programs, perhaps in bfloat16; a ReLU at the wrong place changes the logits by far more.
        return _alike(np.asarray(go_on(params, stats, activation, place)), outputs.logits, 1e-2)

    if at not in taps and at in found:
        return _Place(at)
    if at in taps:
        for place in _candidates(found, taps[at]):
            if leads_on(place):
                return place
        others = [tap for tap in taps if tap != at and next(_candidates(found, taps[tap]), None)]
        raise ValueError(
            f"The net cannot be run on from its tap {at!r}, which is no module's output and no ReLU of one "
            f"before a ReLU. Other taps: {', '.join(others)}. Modules: {', '.join(sorted(found))}."
        )
    if not found:
        raise ValueError(
            f"Expected a model of linen modules (models.build) for at={at!r}, got one without. Give the two "
            "functions yourself: Stages(features_fn, head_fn)."
        )
    raise ValueError(
        f"Expected at to be a tap of the model ({', '.join(taps)}) or a module ({', '.join(sorted(found))}), "
        f"got {at!r}."
    )


def _candidates(found: dict[str, np.ndarray], tap: np.ndarray) -> Any:
    """Modules whose output, or else whose output's ReLU, is the tap; the outermost first."""
    paths = sorted((path for path in found if found[path].shape == tap.shape), key=lambda p: p.count("/"))
    for rectified in (False, True):
        for path in paths:
            if _alike(np.maximum(found[path], 0) if rectified else found[path], tap):
                yield _Place(path, rectified)


def _alike(first: np.ndarray, second: np.ndarray, tolerance: float = 1e-5) -> bool:
    """Equal up to a share of the largest value."""
    first, second = (np.asarray(value, np.float32) for value in (first, second))
    return bool(np.abs(first - second).max() <= tolerance * np.abs(second).max())
