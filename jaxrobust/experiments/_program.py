"""A model as one StableHLO program that JAX runs without this library, on any platform, for any batch.

Convolution chooses its form by the platform (`numerics.convolution`), and so does the program: it holds the
forms of every platform and an index that says which platform compiles it, so that the others are dropped. On
CPU it is therefore as fast as the library, also in its gradients, and on accelerators it is XLA's own.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from jaxrobust.models import Precision
from jaxrobust.types import Array, Model, PyTree

PLATFORMS = ("cpu", "cuda", "tpu")
# The file is a flatbuffer, which addresses 2 GiB.
_LARGEST = 2**31 - 2**24


def serialised(model: Model, params: PyTree, stats: PyTree, *, gradients: bool = True) -> bytes:
    """What `jax.export.deserialize` reads: images `[b, h, w, c]`, float32 in [0, 1], to logits `[b, k]`.

    Products of float32 are made in float32 on every platform (`Precision.HIGHEST`), so that the logits are
    the same to rounding wherever the program runs.

    Args:
        model: one that draws nothing in eval mode.
        params, stats: its weights, which become constants of the program.
        gradients: with the gradient with respect to the images, for attacks: a second program in the file,
            with the weights once more.

    Raises:
        ValueError: weights that a file of 2 GiB does not hold.
    """
    _check_size((params, stats), 2 if gradients else 1)

    def logits(images: Array) -> Array:
        return model.apply(params, stats, images, train=False)[0].logits

    (rows,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((rows, *model.image_shape), jnp.float32)
    with Precision.HIGHEST.context(), _no_paths():
        exported = export.export(jax.jit(logits), platforms=PLATFORMS)(images)
        return bytes(exported.serialize(vjp_order=1 if gradients else 0))


def read(data: bytes) -> export.Exported:
    """The program of a file.

    Raises:
        ValueError: for what this version of JAX cannot read.
    """
    try:
        return export.deserialize(bytearray(data))
    except Exception as error:  # its kind differs between the causes
        raise ValueError(
            f"JAX {jax.__version__} cannot read it ({str(error)[:200] or type(error).__name__})."
        ) from error


def facts(exported: export.Exported) -> dict[str, Any]:
    """What a program says of itself, as JSON."""
    return {
        "platforms": list(exported.platforms),
        "gradients": exported.has_vjp(),
        "calling_convention_version": exported.calling_convention_version,
        "input": [str(size) for size in exported.in_avals[0].shape],
        "output": [str(size) for size in exported.out_avals[0].shape],
    }


def _check_size(weights: PyTree, copies: int) -> None:
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(weights))
    if size * copies > _LARGEST:
        cure = "Leave gradients out (gradients=False, --no-gradients)." if size <= _LARGEST else "Use fewer."
        times = "twice, once for its gradients" if copies == 2 else "once"
        raise ValueError(
            f"Expected weights of at most {_LARGEST / copies / 2**30:.2f} GiB, which the file holds {times}, "
            f"got {size / 2**30:.2f} GiB. {cure}"
        )


@contextlib.contextmanager
def _no_paths() -> Iterator[None]:
    """JAX writes where each operation stands in the source, with the paths of this machine: none of that."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def largest_difference(one_fn: Callable, other_fn: Callable, images: Array) -> float:
    """How far two functions `images -> logits` are apart, over the larger of 1 and the largest logit."""
    one, other = (jnp.asarray(fn(images)) for fn in (one_fn, other_fn))
    return float(jnp.abs(one - other).max() / jnp.maximum(1.0, jnp.abs(one).max()))
