"""Precision as a policy on a model: the type its layers compute in, and how exactly float32 is multiplied."""

import contextlib
import enum
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import flax.linen as nn
import jax

from jaxrobust.models._build import _Apply, build
from jaxrobust.types import Model

P = ParamSpec("P")
R = TypeVar("R")


class Precision(enum.Enum):
    """How a model computes. Parameters, statistics, logits, losses and images are float32 in every case.

    `FLOAT32` computes in float32 and leaves its products to the device: CPUs multiply in float32, NVIDIA GPUs
    since Ampere in TensorFloat-32 (10 bits of mantissa), TPUs in bfloat16 passes. `HIGHEST` makes them in
    full float32 everywhere (`jax.default_matmul_precision("highest")`), slower on accelerators. `BF16`
    computes the layers in bfloat16 (7 bits): weights and activations are rounded as they enter a layer and
    its sum as it leaves; batch normalisation and the last layer compute in float32. An attack's images,
    steps and projections are float32 in every case, and so is a gradient once it has left the net.
    """

    FLOAT32 = "float32"
    HIGHEST = "highest"
    BF16 = "bf16"

    @property
    def dtype(self) -> str:
        """The type of the layers by name."""
        return "bfloat16" if self is Precision.BF16 else "float32"

    def context(self) -> contextlib.AbstractContextManager:
        """In which to trace: products of float32 are made as this precision says.

        `jax.jit` keeps programs apart by it, so that each precision compiles once.
        """
        if self is Precision.HIGHEST:
            return jax.default_matmul_precision("highest")
        return contextlib.nullcontext()


def with_precision(model: Model, precision: Precision) -> Model:
    """The same model, with the same parameters, whose layers compute as `precision` says.

    `Precision.BF16` alone changes a model; the others differ in `Precision.context`. A net configured to
    compute in bfloat16 (its field `dtype`) goes on doing so.

    Args:
        model: from `build`; for the precisions other than `BF16` any.
        precision: the policy.

    Returns:
        A `types.Model`; equal arguments give equal models, which trace once.

    Raises:
        ValueError: `BF16` for a model that `build` did not make, or whose module has no field `dtype`.

    >>> from jaxrobust.models import TinyCNN
    >>> half = with_precision(build(TinyCNN(), (8, 8, 1)), Precision.BF16)
    >>> half == build(TinyCNN(dtype="bfloat16"), (8, 8, 1))
    True
    """
    check_precision(precision)
    if precision is not Precision.BF16:
        return model
    module = _module(model)
    if not hasattr(module, "dtype"):
        name = type(module).__name__
        raise ValueError(
            f"{name} cannot compute in bfloat16: it has no field dtype. Give it one that its layers read."
        )
    return build(module.clone(dtype=precision.dtype), model.image_shape)


def in_precision(fn: Callable[P, R]) -> Callable[P, R]:
    """A function with an optional keyword argument `precision`, run in its context."""

    @functools.wraps(fn)
    def run(*args: P.args, **options: P.kwargs) -> R:
        precision: Any = options.get("precision", Precision.FLOAT32)
        check_precision(precision)
        with precision.context():
            return fn(*args, **options)

    return run


def computes_in(model: Model, precision: Precision) -> str:
    """What a result says of its precision: `bf16` also where the net itself was configured so."""
    if isinstance(model.apply, _Apply) and getattr(model.apply.module, "dtype", "") == Precision.BF16.dtype:
        return Precision.BF16.value
    return precision.value


def check_precision(precision: Precision) -> None:
    """Raises ValueError for anything that is no `Precision`."""
    if not isinstance(precision, Precision):
        known = ", ".join(map(str, Precision))
        raise ValueError(f"Expected precision to be one of {known}, got {precision!r}.")


def _module(model: Model) -> nn.Module:
    if not isinstance(model.apply, _Apply):
        raise ValueError(
            "Precision.BF16 is for models of models.build, whose layers know what must stay float32. "
            "Let a foreign model compute in bfloat16 by itself, or evaluate it in Precision.FLOAT32."
        )
    return model.apply.module
