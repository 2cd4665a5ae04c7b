"""Foreign models: any callable `images -> logits`, with its parameters as arguments, as a `types.Model`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrobust.models._checks import check_image_shape, check_images
from jaxrobust.types import Array, Example, Model, Outputs, PyTree, ScoreFn

Function = Callable[..., Array]


def from_callable(
    logits_fn: Callable,
    params: PyTree,
    image_shape: tuple[int, int, int],
    num_classes: int | None = None,
    *,
    random: bool = False,
) -> Model:
    """A foreign classifier as a model that can be attacked and evaluated like the library's own.

    Where `params` is None, `logits_fn(images)` is called, and its own arrays become the parameters: those of
    an nnx module (a copy is put into eval mode; the module itself stays as it was), and those of any other
    callable pytree, such as an equinox module or `jax.tree_util.Partial`. Otherwise
    `logits_fn(params, images)` is called, which suits plain JAX, haiku
    (`lambda params, x: net.apply(params, None, x)`) and linen modules that are not built
    (`lambda variables, x: net.apply(variables, x, train=False)`).

    The model has an eval mode only. Arrays that a closure captures are baked into the compiled program, and
    one program is compiled per closure: pass them as `params`.

    Args:
        logits_fn: images `[b, h, w, c]`, float32 in [0, 1], to logits `[b, k]`; it normalises by itself.
        params: any pytree of arrays, or None.
        image_shape: `(h, w, c)`.
        num_classes: k; None to take it from the logits.
        random: for a defence that draws at random in eval mode: `logits_fn` is called with one argument more,
            keys `[b]`, one per image, and draws from them alone.

    Returns:
        A `types.Model` whose `init(key)` gives the foreign parameters, whatever the key, and no statistics.

    Raises:
        ValueError: JAX cannot trace the callable, or its result is not `[b, k]` of floats.

    >>> import jax, jax.numpy as jnp
    >>> params = {"w": jnp.ones((4, 3))}
    >>> model = from_callable(lambda p, x: x.reshape(len(x), -1) @ p["w"], params, (2, 2, 1))
    >>> params, stats = model.init(jax.random.key(0))
    >>> model.apply(params, stats, jnp.ones((5, 2, 2, 1)), train=False)[0].logits.shape
    (5, 3)
    """
    if not callable(logits_fn):
        raise ValueError(f"Expected a callable logits_fn, got {type(logits_fn).__name__}.")
    image_shape = check_image_shape(image_shape)
    params, function = _split(logits_fn) if params is None else (params, logits_fn)
    found = _count_classes(function, params, image_shape, random)
    if num_classes not in (None, found):
        raise ValueError(f"Expected num_classes={num_classes} logits, got {found}. Leave num_classes out?")

    def init(key: Array) -> tuple[PyTree, PyTree]:
        return params, {}

    def apply(
        params: PyTree,
        stats: PyTree,
        x: Array,
        *,
        train: bool,
        keys: Array | None = None,
        axis_name: str | None = None,
    ) -> tuple[Outputs, PyTree]:
        if train:
            raise ValueError(
                "A foreign model has an eval mode only. To train it, write it as a linen module."
            )
        check_images(x, image_shape)
        if random and keys is None:
            raise ValueError("A random model needs keys [b]; evaluation.evaluate passes them.")
        logits = function(params, x, keys) if random else function(params, x)
        return Outputs(logits.astype(jnp.float32)), stats

    return Model(init, apply, image_shape, found, random)


def score_fn(model: Model, params: PyTree, stats: PyTree) -> ScoreFn:
    """The model in eval mode as an attack wants it: `(images, example) -> logits`; the example is not read.

    >>> import jax
    >>> from jaxrobust.models import TinyCNN, build
    >>> model = build(TinyCNN(), (8, 8, 1))
    >>> score_fn(model, *model.init(jax.random.key(0)))(jax.numpy.zeros((3, 8, 8, 1)), None).shape
    (3, 10)
    """

    def score(images: Array, example: Example) -> Array:
        return model.apply(params, stats, images, train=False)[0].logits

    return score


def _split(logits_fn: Callable) -> tuple[PyTree, Function]:
    """The arrays of a callable, and the function of (arrays, images) that is left."""
    if isinstance(logits_fn, nnx.Module):
        module = nnx.clone(logits_fn)
        module.eval()
        graph, state = nnx.split(module)
        return state, lambda state, *x: nnx.merge(graph, state)(*x)
    leaves, structure = jax.tree.flatten(logits_fn)
    dynamic = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
    static = [None if is_array else leaf for leaf, is_array in zip(leaves, dynamic)]

    def call(arrays: list[Array], *x: Array) -> Array:
        rest = iter(arrays)
        merged = [next(rest) if is_array else leaf for leaf, is_array in zip(static, dynamic)]
        return jax.tree.unflatten(structure, merged)(*x)

    return [leaf for leaf, is_array in zip(leaves, dynamic) if is_array], call


def _count_classes(
    function: Function, params: PyTree, image_shape: tuple[int, int, int], random: bool
) -> int:
    """Traces the callable on two images, without computing, and checks what comes out."""
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    keys = (jax.random.split(jax.random.key(0), 2),) if random else ()
    try:
        result = jax.eval_shape(function, params, images, *keys)
    except jax.errors.JAXTypeError as error:
        raise ValueError(
            "JAX cannot trace this callable: it converts its images to NumPy, or branches on their values. "
            "Write it with jax.numpy, or wrap it in jax.pure_callback."
        ) from error
    shape = getattr(result, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != 2 or shape[1] < 2:
        found = f"shape {list(shape)}" if shape is not None else f"a {type(result).__name__}"
        raise ValueError(f"Expected logits of shape [2, k] (k >= 2) for a batch of 2 images, got {found}.")
    if not jnp.issubdtype(result.dtype, jnp.floating):
        raise ValueError(f"Expected floating-point logits, got {result.dtype}: classes have no gradient.")
    return shape[1]
