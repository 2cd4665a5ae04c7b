"""Who carries the runs of a loop: one run over all devices, or several side by side in one step.

The loop speaks of lists with an entry per run; a carrier makes of them what lies on the devices, and back.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrobust.training.runtime import Runtime
from jaxrobust.types import PyTree

_AXIS = "runs"
UpdateFn = Callable[..., tuple[PyTree, PyTree]]


class Carrier(Protocol):
    """`axis_name`: the mapped axis over which a step averages, None for none."""

    axis_name: str | None

    def compile(self, update: UpdateFn) -> UpdateFn:
        """Wraps `update(state, arrays, cursor, words)`; the state is donated."""
        ...

    def replicate(self, trees: Sequence[PyTree]) -> PyTree:
        """Places what every row of a run needs, a tree per run."""
        ...

    def shard(self, cursors: Sequence[PyTree]) -> PyTree:
        """Places the rows of a step, a cursor per run."""
        ...

    def local(self, tree: PyTree) -> list[PyTree]:
        """A copy per run, each on one device."""
        ...

    def fetch(self, tree: PyTree) -> list[PyTree]:
        """A copy per run as NumPy arrays; waits for the devices."""
        ...


class Alone:
    """One run, as its `Runtime` carries it."""

    def __init__(self, runtime: Runtime):
        self._runtime = runtime
        self.axis_name = runtime.axis_name

    def compile(self, update: UpdateFn) -> UpdateFn:
        """See `Carrier`."""
        return self._runtime.compile(update)

    def replicate(self, trees: Sequence[PyTree]) -> PyTree:
        """See `Carrier`."""
        (tree,) = trees
        return self._runtime.replicate(tree)

    def shard(self, cursors: Sequence[PyTree]) -> PyTree:
        """See `Carrier`."""
        (cursor,) = cursors
        return self._runtime.shard(cursor)

    def local(self, tree: PyTree) -> list[PyTree]:
        """See `Carrier`."""
        return [self._runtime.local(tree)]

    def fetch(self, tree: PyTree) -> list[PyTree]:
        """See `Carrier`."""
        return [self._runtime.fetch(tree)]


def devices_used(num_runs: int, device_count: int) -> int:
    """As many devices as give each the same number of runs.

    >>> devices_used(8, 4), devices_used(6, 4), devices_used(5, 4)
    (4, 3, 1)
    """
    return max(n for n in range(1, device_count + 1) if num_runs % n == 0)


class Together:
    """Several runs: every leaf has a leading axis with an entry per run, which the devices divide.

    `vmapped` maps the step over the runs of a device; otherwise they take turns within the step.
    """

    axis_name: str | None = None

    def __init__(self, runtime: Runtime, num_runs: int, vmapped: bool):
        self._runtime, self._vmapped = runtime, vmapped
        used = devices_used(num_runs, runtime.device_count)
        self._mesh = Mesh(np.array(runtime.devices[:used]), (_AXIS,), axis_types=(AxisType.Auto,))
        self._sharding = NamedSharding(self._mesh, PartitionSpec(_AXIS))
        self._each, self._num_runs = num_runs // used, num_runs

    def compile(self, update: UpdateFn) -> UpdateFn:
        """See `Carrier`."""

        def in_turns(*arguments: Any) -> tuple[PyTree, PyTree]:
            return jax.lax.map(lambda one: update(*one), arguments)

        spec = PartitionSpec(_AXIS)
        # Runs exchange nothing, so there is nothing to check.
        many = jax.shard_map(
            jax.vmap(update) if self._vmapped else in_turns,
            mesh=self._mesh,
            in_specs=spec,
            out_specs=spec,
            check_vma=False,
        )
        return self._runtime.jit(many, in_shardings=self._sharding, out_shardings=self._sharding)

    def replicate(self, trees: Sequence[PyTree]) -> PyTree:
        """See `Carrier`."""
        stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)
        return jax.device_put(stacked, self._sharding)

    def shard(self, cursors: Sequence[PyTree]) -> PyTree:
        """See `Carrier`."""
        return self.replicate(cursors)

    def local(self, tree: PyTree) -> list[PyTree]:
        """See `Carrier`."""

        def of(run: int, leaf: jax.Array) -> jax.Array:
            device, place = divmod(run, self._each)
            shards = sorted(leaf.addressable_shards, key=lambda shard: shard.index[0].start or 0)
            return jnp.copy(shards[device].data[place])

        return [jax.tree.map(lambda leaf, run=run: of(run, leaf), tree) for run in range(self._num_runs)]

    def fetch(self, tree: PyTree) -> list[PyTree]:
        """See `Carrier`."""
        host = jax.device_get(tree)
        return [
            jax.tree.map(lambda leaf, run=run: np.array(leaf[run]), host) for run in range(self._num_runs)
        ]
