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
    except Exception:  # its kind differs between versions of JAX
        return False
    return True


@functools.cache
def known(name: str, value: Any) -> dict[str, Any]:
    """`{name: value}` if the backend is CPU and its compiler knows the option, else nothing; probed once.

    For an option that helps one program: `jit(fn, compiler_options=known(name, value))`. It starts the
    backend, so call it at first use and not at import.

    >>> known("xla_cpu_no_such_option", True)
    {}
    """
    return {name: value} if jax.default_backend() == "cpu" and _accepted(name, value) else {}


@functools.cache
def _probed() -> dict[str, Any]:
    return {name: value for name, value in _CANDIDATES.items() if _accepted(name, value)}


def cpu_options() -> dict[str, Any] | None:
    """The compiler options for this process: None on GPU and TPU, and where no option is known."""
    if jax.default_backend() != "cpu":
        return None
    return dict(_probed()) or None


class Jitted:
    """A jitted function that takes the options where it is outermost; JAX refuses options within a trace."""

    def __init__(self, fn: Callable, outermost: Any, nested: Any):
        functools.update_wrapper(self, fn, updated=())
        self._outermost = outermost
        self._nested = nested

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs))):
            return self._nested(*args, **kwargs)
        try:
            return self._outermost(*args, **kwargs)
        except ValueError as error:
            # Called within a trace, but on concrete arguments.
            if "top-level" not in str(error) or "compiler_options" not in str(error):
                raise
        return self._nested(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> jax.stages.Lowered:
        return self._outermost.lower(*args, **kwargs)

    def trace(self, *args: Any, **kwargs: Any) -> jax.stages.Traced:
        return self._outermost.trace(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._outermost, name)


def jit(fn: Callable, **jit_options: Any) -> Any:
    """`jax.jit` with `cpu_options()`; every top-level jit of the library goes through here.

    Within another trace (jit, grad, vmap) it is plain `jax.jit`: the outermost program's options hold.

    Args:
        fn: the function to compile.
        **jit_options: options of `jax.jit`, passed on; `compiler_options` given here win over ours.

    Returns:
        The jitted function, with `lower` and `trace`.

    >>> int(jit(lambda x: x + 1)(1))
    2
    """
    options = {**(cpu_options() or {}), **(jit_options.pop("compiler_options", None) or {})}
    if not options:
        return jax.jit(fn, **jit_options)
    return Jitted(fn, jax.jit(fn, compiler_options=options, **jit_options), jax.jit(fn, **jit_options))
