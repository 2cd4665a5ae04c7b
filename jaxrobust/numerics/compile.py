"""`jit` with the compiler options that help on CPU, found by probing; on GPU and TPU it is `jax.jit`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# XLA's YNN fusion, on by default since JAX 0.10, makes an unpadded 3x3 convolution up to ten times slower.
_CANDIDATES = {"xla_cpu_experimental_ynn_fusion_type": ""}


def _accepted(name: str, value: Any) -> bool:
    """Whether this version's CPU compiler knows the option."""
    device = jax.local_devices(backend="cpu")[0]
    argument = jax.ShapeDtypeStruct((), jnp.float32, sharding=jax.sharding.SingleDeviceSharding(device))
    try:
        jax.jit(lambda x: x + 1, compiler_options={name: value}).lower(argument).compile()
    except Exception:  # noqa: BLE001  the kind of error differs between versions of JAX
        return False
    return True


@functools.cache
def _probed() -> dict[str, Any]:
    return {name: value for name, value in _CANDIDATES.items() if _accepted(name, value)}


def cpu_options() -> dict[str, Any] | None:
    """The compiler options for this process: None on GPU and TPU, and where no option is known."""
    if jax.default_backend() != "cpu":
        return None
    return dict(_probed()) or None


def jit(fn: Callable, **jit_options: Any) -> Callable:
    """`jax.jit` with `cpu_options()`; every top-level jit of the library goes through here.

    Args:
        fn: the function to compile.
        **jit_options: options of `jax.jit`, passed on; `compiler_options` given here win.

    Returns:
        The jitted function.

    >>> int(jit(lambda x: x + 1)(1))
    2
    """
    options = {**(cpu_options() or {}), **(jit_options.pop("compiler_options", None) or {})}
    return jax.jit(fn, compiler_options=options or None, **jit_options)
