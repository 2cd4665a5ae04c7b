"""Models whose layers are drawn anew, one more at a time: a map that does not mind shows no model."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.numerics import compile as compiler
from jaxrobust.types import Array, Model, Outputs, PyTree


def _logits(outputs: Outputs) -> Array:
    return outputs.logits


class Randomised(NamedTuple):
    """A model with layers drawn anew, as a saliency audit takes it.

    Attributes:
        whole: images -> logits or embeddings.
        cut: by the name of the map (`GradCAM`) that needs it, the same cut at a layer.
    """

    whole: Any
    cut: Mapping[str, Any] = {}


def cascade(
    model: Model,
    params: PyTree,
    stats: PyTree,
    *,
    seed: int,
    read: Callable[[Outputs], Array] = _logits,
) -> dict[str, tuple[PyTree, PyTree]]:
    """Cascading randomisation (Adebayo et al., arXiv 1810.03292, section 3.1) of a model of linen modules.

    Args:
        model: from `models.build`.
        params, stats: its parameters and statistics.
        seed: >= 0, of the new draw, which is one of the model's own initialisation.
        read: what is explained, of the model's outputs. Layers that it does not depend on, such as the head
            of a face model whose embedding is explained, are left out.

    Returns:
        By the name of the layer drawn last, from the output to the input: parameters and statistics in which
        that layer and all after it are drawn anew. The last entry is a model as it is before training.

    Raises:
        ValueError: for a model whose parameters are not by layer.

    >>> from jaxrobust.models import TinyCNN, build
    >>> model = build(TinyCNN(), (8, 8, 1))
    >>> list(cascade(model, *model.init(jax.random.key(0)), seed=1))
    ['fc3', 'fc2', 'fc1', 'conv4', 'conv3', 'conv2', 'conv1']
    """
    names = _layers(model, params, stats)
    new_params, new_stats = model.init(jax.random.key(seed))
    images = jax.random.uniform(jax.random.key(seed), (2, *model.image_shape))
    run = compiler.jit(lambda p, s: read(model.apply(p, s, images, train=False)[0]))
    before = np.asarray(run(params, stats))
    found: dict[str, tuple[PyTree, PyTree]] = {}
    mixed, mixed_stats = dict(params), dict(stats)
    for name in reversed(names):
        mixed[name] = new_params[name]
        if name in mixed_stats:
            mixed_stats[name] = new_stats[name]
        if not found and np.array_equal(run(mixed, mixed_stats), before):
            continue
        found[name] = (dict(mixed), dict(mixed_stats))
    return found


def _layers(model: Model, params: PyTree, stats: PyTree) -> list[str]:
    """The outermost modules that have parameters, in the order in which they are called."""
    called: list[str] = []

    def keep(next_fn: Any, args: Any, kwargs: Any, context: Any) -> Any:
        path = context.module.path
        if len(path) == 1 and context.method_name == "__call__" and path[0] not in called:
            called.append(path[0])
        return next_fn(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, *model.image_shape), jnp.float32)
    with nn.intercept_methods(keep):
        jax.eval_shape(lambda x: model.apply(params, stats, x, train=False)[0].logits, images)
    names = [name for name in called if name in params]
    left = set(params) - set(names) if isinstance(params, Mapping) else {"params"}
    if left or not names:
        raise ValueError(
            f"Expected a model of linen modules (models.build) with its parameters by layer, got "
            f"{', '.join(sorted(left)) or 'none'} outside of any. Give randomised models yourself, or none."
        )
    return names
