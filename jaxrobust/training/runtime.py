"""Where a run executes: the wrapper of the step, placement of data, several hosts. It changes no result.

All wrappers run the same function `update(state, arrays, cursor, words) -> (state, metrics)`; state, arrays
and the words of the run's key are replicated, the rows of the cursor are divided over the devices. What
differs is who divides: the compiler (`JIT` on sharded data), or the wrapper, with an axis over which the step
averages (`PMAP`, `SHARD_MAP`).
"""

import enum
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrobust import _validate
from jaxrobust.models.precision import Precision, check_precision
from jaxrobust.numerics import compile as compile_
from jaxrobust.types import PyTree

AXIS = "batch"


class Wrapper(enum.Enum):
    """How the step is mapped over devices; AUTO is JIT on one device and PMAP on several.

    On several CPU devices AUTO is SHARD_MAP: `pmap` takes no compiler options, and without those of
    `numerics.compile` a step with convolutions takes several times as long there.
    """

    AUTO = "auto"
    JIT = "jit"
    PMAP = "pmap"
    SHARD_MAP = "shard_map"


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Performance knobs, apart from the experiment: results do not depend on them beyond rounding.

    Args:
        wrapper: see `Wrapper`.
        precision: in which the model computes, see `models.Precision`; `fit` applies it.
        donate: reuse the state's buffers for the next state.
        micro_batches: in how many parts each device takes its rows of a step, one after the other (gradient
            accumulation), for batches whose activations do not fit, >= 1. The step is that of the whole
            batch, but for nets with batch normalisation, see `make_train_step`.
        remat: keep only what enters each block of the net for the backward pass, see `models.with_remat`;
            `fit` applies it.
        prefetch: how many steps' data are placed on the devices ahead of use, and how many steps may be in
            flight, >= 1.
        num_devices: local devices to use; None for all. With several processes: all.

    Raises:
        ValueError: on a value out of range.

    >>> Runtime(wrapper=Wrapper.JIT, num_devices=1).device_count
    1
    """

    wrapper: Wrapper = Wrapper.AUTO
    precision: Precision = Precision.FLOAT32
    donate: bool = True
    micro_batches: int = 1
    remat: bool = False
    prefetch: int = 2
    num_devices: int | None = None

    def __post_init__(self):
        if not isinstance(self.wrapper, Wrapper):
            raise ValueError(
                f"Expected wrapper to be one of {', '.join(map(str, Wrapper))}, got {self.wrapper!r}."
            )
        check_precision(self.precision)
        _validate.at_least("micro_batches", self.micro_batches, 1)
        _validate.at_least("prefetch", self.prefetch, 1)
        if self.num_devices is not None:
            _validate.at_least("num_devices", self.num_devices, 1)

    @cached_property
    def devices(self) -> tuple[jax.Device, ...]:
        """The devices of all processes, grouped by process, so that each process holds a contiguous slice."""
        local = jax.local_device_count()
        if self.num_devices is not None and self.num_devices > local:
            raise ValueError(f"Expected num_devices <= {local}, the devices here, got {self.num_devices}.")
        if jax.process_count() > 1 and self.num_devices not in (None, local):
            raise ValueError("With several processes every device is used; leave num_devices unset.")
        ordered = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        return tuple(ordered[: self.num_devices] if jax.process_count() == 1 else ordered)

    @property
    def device_count(self) -> int:
        """How many devices share a global batch; the sizes of both streams must be multiples of it."""
        return len(self.devices)

    @property
    def resolved(self) -> Wrapper:
        """The wrapper in use."""
        if self.wrapper is not Wrapper.AUTO:
            return self.wrapper
        if self.device_count == 1:
            return Wrapper.JIT
        return Wrapper.SHARD_MAP if self.devices[0].platform == "cpu" else Wrapper.PMAP

    @property
    def axis_name(self) -> str | None:
        """The mapped axis to give to `make_train_step`; None where the compiler divides the batch."""
        return None if self.resolved is Wrapper.JIT else AXIS

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and messages."""
        return jax.process_index() == 0

    @cached_property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (AXIS,), axis_types=(AxisType.Auto,))

    @cached_property
    def _local_mesh(self) -> Mesh:
        local = [device for device in self.devices if device.process_index == jax.process_index()]
        return Mesh(np.array(local), (AXIS,), axis_types=(AxisType.Auto,))

    def compile(self, update: Callable[..., tuple[PyTree, PyTree]]) -> Callable[..., tuple[PyTree, PyTree]]:
        """Wraps `update(state, arrays, cursor, words)`, which must have been built for `axis_name`.

        Its arguments must come from `replicate` (state, arrays, words) and `shard` (cursor); the state is
        donated, do not use it again. The key travels as words (`jax.random.key_data`), because on several
        hosts `pmap` takes a typed key through the host at every call.
        """
        if self.resolved is Wrapper.PMAP:
            return jax.pmap(
                self._precisely(update),
                axis_name=AXIS,
                devices=self.devices,
                donate_argnums=self._donated,
            )
        everywhere, by_row = PartitionSpec(), PartitionSpec(AXIS)
        if self.resolved is Wrapper.SHARD_MAP:
            specs = (everywhere, everywhere, by_row, everywhere)
            update = jax.shard_map(update, mesh=self._mesh, in_specs=specs, out_specs=everywhere)
        replicated, rows = NamedSharding(self._mesh, everywhere), NamedSharding(self._mesh, by_row)
        return self.jit(
            update, in_shardings=(replicated, replicated, rows, replicated), out_shardings=replicated
        )

    def jit(self, update: Callable[..., tuple[PyTree, PyTree]], **shardings: Any) -> Any:
        """`numerics.compile.jit` as the knobs say; the first argument is donated."""
        # XLA's CPU compiler drops what keeps the second computation apart, and then merges it with the first.
        options = compile_.known("xla_disable_hlo_passes", "cse_barrier_expander") if self.remat else {}
        return compile_.jit(
            self._precisely(update), donate_argnums=self._donated, compiler_options=options, **shardings
        )

    @property
    def _donated(self) -> tuple[int, ...]:
        return (0,) if self.donate else ()

    def _precisely(
        self, update: Callable[..., tuple[PyTree, PyTree]]
    ) -> Callable[..., tuple[PyTree, PyTree]]:
        """`update`, traced in the precision's context."""

        @wraps(update)
        def traced(*args: Any) -> tuple[PyTree, PyTree]:
            with self.precision.context():
                return update(*args)

        return traced

    def replicate(self, tree: PyTree) -> PyTree:
        """Puts a copy of every leaf on every device, once; the result is what `compile`d functions take."""
        if self.resolved is Wrapper.PMAP:
            return jax.tree.map(self._stack, tree)
        sharding = NamedSharding(self._mesh, PartitionSpec())
        return jax.tree.map(lambda leaf: self._place(leaf, sharding), tree)

    def shard(self, cursor: PyTree) -> PyTree:
        """Divides the leading axis of this process's rows over its devices.

        Raises:
            ValueError: if the devices do not divide the rows.
        """
        here = self._local_mesh.size
        for leaf in jax.tree.leaves(cursor):
            if leaf.shape[0] % here:
                raise ValueError(
                    f"{leaf.shape[0]} rows cannot be divided over {here} devices. "
                    "Choose a batch size whose two streams are multiples of the number of devices."
                )
        if self.resolved is Wrapper.PMAP:
            sharding = NamedSharding(self._local_mesh, PartitionSpec(AXIS))
            return jax.device_put(
                jax.tree.map(lambda x: np.reshape(x, (here, x.shape[0] // here, *x.shape[1:])), cursor),
                sharding,
            )
        sharding = NamedSharding(self._mesh, PartitionSpec(AXIS))
        return jax.tree.map(lambda leaf: self._place(leaf, sharding), cursor)

    def local(self, tree: PyTree) -> PyTree:
        """One copy of a replicated tree, as arrays on this process's first device.

        Whoever holds them may keep them: where the next step is given the tree's buffers, they are new ones.
        """
        stacked = self.resolved is Wrapper.PMAP

        def first(leaf: jax.Array) -> jax.Array:
            shard = leaf.addressable_data(0)
            shard = shard[0] if stacked else shard
            return jnp.copy(shard) if self.donate else shard

        return jax.tree.map(first, tree)

    def fetch(self, tree: PyTree) -> PyTree:
        """One copy of a replicated tree as NumPy arrays that own their memory; waits for the devices."""
        host = jax.device_get(jax.tree.map(lambda leaf: leaf.addressable_data(0), tree))
        stacked = self.resolved is Wrapper.PMAP
        return jax.tree.map(lambda shard: np.array(shard[0] if stacked else shard), host)

    def _place(self, leaf: Any, sharding: NamedSharding) -> jax.Array:
        """A global array from this process's part."""
        if jax.process_count() == 1:
            return jax.device_put(leaf, sharding)
        leaf = np.asarray(leaf)
        by_row = bool(sharding.spec)
        shape = (leaf.shape[0] * jax.process_count(), *leaf.shape[1:]) if by_row else leaf.shape
        return jax.make_array_from_process_local_data(sharding, leaf, shape)

    def _stack(self, leaf: Any) -> jax.Array:
        """One copy per local device along a new leading axis, as `pmap` takes them."""
        leaf = np.asarray(leaf)
        sharding = NamedSharding(self._local_mesh, PartitionSpec(AXIS))
        shape = (self._local_mesh.size, *leaf.shape)
        copies = [jax.device_put(leaf[None], device) for device in self._local_mesh.devices]
        return jax.make_array_from_single_device_arrays(shape, sharding, copies)


def initialise_distributed() -> None:
    """Joins the processes of a run on several hosts; call it before anything touches a device.

    Slurm, Open MPI, Kubernetes and TPU pods are detected. Elsewhere set JAX_COORDINATOR_ADDRESS (host:port of
    process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID in the environment of every process. On CPU, collectives
    go through gloo. A second call does nothing.

    Raises:
        ValueError: if nothing says how many processes there are, or only some of the variables are set.
    """
    if jax.distributed.is_initialized():
        return
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    if given and len(given) < len(names):
        missing = ", ".join(sorted(set(names) - set(given)))
        raise ValueError(f"{', '.join(sorted(given))} set, but not {missing}. Set all three, or none.")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if given:
        jax.distributed.initialize(
            given["JAX_COORDINATOR_ADDRESS"], int(given["JAX_NUM_PROCESSES"]), int(given["JAX_PROCESS_ID"])
        )
        return
    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"Could not find the other processes of this run ({error}). Start it under Slurm, on a TPU pod, "
            f"or set {', '.join(names)}; for one process leave the distributed option out."
        ) from error


def agree(tree: PyTree) -> PyTree:
    """Process 0's NumPy tree on every process, bit for bit; shapes and dtypes must agree already."""
    if jax.process_count() == 1:
        return tree

    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    raw = np.frombuffer(b"".join(leaf.tobytes() for leaf in leaves), np.uint8)
    sent = np.asarray(multihost_utils.broadcast_one_to_all(raw), np.uint8)
    ends = np.cumsum([leaf.nbytes for leaf in leaves])
    parts = [sent[end - leaf.nbytes : end].tobytes() for leaf, end in zip(leaves, ends)]
    received = [
        np.frombuffer(part, leaf.dtype).reshape(leaf.shape).copy() for part, leaf in zip(parts, leaves)
    ]
    return jax.tree.unflatten(structure, received)
