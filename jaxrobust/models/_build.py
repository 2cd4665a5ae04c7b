"""From a linen module, which is a configuration, to `types.Model`, which is a pair of pure functions."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxrobust.models._checks import check_fields, check_image_shape, check_images
from jaxrobust.numerics import compile as compiler
from jaxrobust.types import Array, Model, Outputs, PyTree


def build(module: nn.Module, image_shape: tuple[int, int, int]) -> Model:
    """The model `(init, apply)` of a linen module for images of one shape, checked before any compilation.

    Its functions are values: models built from equal modules are equal, and trace once under jit.

    Args:
        module: a net of `MODELS`, or any linen module with a field `num_classes` whose call is
            `(x [b, h, w, c], *, train, keys=None, axis_name=None) -> Outputs` and whose collections are
            `params` and, if it has batch normalisation, `batch_stats`.
        image_shape: `(h, w, c)`.

    Returns:
        A `types.Model`; see there for `init` and `apply`.

    Raises:
        ValueError: the image is too small for the net, mean and std do not fit its channels, or a field of
            the module is out of range.

    >>> from jaxrobust.models import TinyCNN
    >>> model = build(TinyCNN(), (8, 8, 1))
    >>> model.num_classes, model == build(TinyCNN(), (8, 8, 1))
    (10, True)
    >>> build(TinyCNN(), (2, 2, 1))
    Traceback (most recent call last):
    ...
    ValueError: Expected images of at least 4x4 for TinyCNN, got 2x2. Choose a net for smaller images.
    """
    if not isinstance(module, nn.Module):
        kind = module.__name__ if isinstance(module, type) else type(module).__name__
        raise ValueError(
            f"Expected an instance of a flax.linen module, got {kind}. "
            "Other models go through models.from_callable."
        )
    image_shape = check_image_shape(image_shape)
    check_fields(module, image_shape)
    return Model(_Init(module, image_shape), _Apply(module, image_shape), image_shape, module.num_classes)


@dataclass(frozen=True)
class _Init:
    """`init(key) -> (params, stats)`; jitted, so that the forward pass of the initialisation is dead code."""

    module: nn.Module
    image_shape: tuple[int, int, int]

    def __call__(self, key: Array) -> tuple[PyTree, PyTree]:
        return _initialised()(self.module, self.image_shape, key)


def _initialise(module: nn.Module, image_shape: tuple[int, int, int], key: Array) -> tuple[PyTree, PyTree]:
    variables = module.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)
    return variables["params"], variables.get("batch_stats", {})


@functools.cache
def _initialised() -> Callable[..., tuple[PyTree, PyTree]]:
    """Dozens of random draws, each used once: the full optimiser takes 3 times longer over them."""
    options = compiler.known("xla_backend_optimization_level", 1)
    return compiler.jit(_initialise, static_argnums=(0, 1), compiler_options=options)


@dataclass(frozen=True)
class _Apply:
    """`apply(params, stats, x, *, train, keys=None, axis_name=None) -> (Outputs, stats)`."""

    module: nn.Module
    image_shape: tuple[int, int, int]

    def __call__(
        self,
        params: PyTree,
        stats: PyTree,
        x: Array,
        *,
        train: bool,
        keys: Array | None = None,
        axis_name: str | None = None,
    ) -> tuple[Outputs, PyTree]:
        check_images(x, self.image_shape)
        variables: dict[str, Any] = {"params": params}
        if stats:
            variables["batch_stats"] = stats
        options: dict[str, Any] = {"train": train, "keys": keys, "axis_name": axis_name}
        advancing = ["batch_stats"] if train and stats else []
        outputs, advanced = self.module.apply(variables, x, mutable=advancing, **options)
        return cast(Outputs, outputs), advanced["batch_stats"] if advancing else stats


def num_params(model: Model) -> int:
    """The number of parameters of a model, counted without making them.

    >>> from jaxrobust.models import SmallCNN
    >>> num_params(build(SmallCNN(), (28, 28, 1)))
    312202
    """
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))
