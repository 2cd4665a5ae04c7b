"""Rows over devices and hosts: each process takes a share, its devices equal parts of every batch.

A program sees the rows of one device and nothing of the others, so devices never wait for each other. What
the processes found is gathered on the host, so that every one holds the results of all rows and decides
alike; with several processes each must therefore make the same calls.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxrobust import _validate
from jaxrobust.numerics.compile import jit
from jaxrobust.types import PyTree

_AXIS = "rows"
# What all processes together send each other at a time; each of their devices holds it.
PIECE_BYTES = 2**28


@functools.cache
def mesh_of(num_devices: int | None) -> Mesh:
    """So many of this process's devices; None for all."""
    devices = jax.local_devices()
    if num_devices is not None:
        _validate.at_least("num_devices", num_devices, 1)
        _validate.within("num_devices", num_devices, 1, len(devices), "These are the devices of this host.")
    return Mesh(np.array(devices[:num_devices]), (_AXIS,), axis_types=(AxisType.Auto,))


def rounded_up(batch_size: int, mesh: Mesh) -> int:
    """The next multiple of the number of devices."""
    return -(-batch_size // mesh.size) * mesh.size


def everywhere(mesh: Mesh, tree: PyTree) -> PyTree:
    """A copy of every leaf on each device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def compiled(fn: Callable[..., PyTree], num_static: int) -> Any:
    """`program(mesh, *static, shared, rows)` of a function `fn(*static, shared, rows)`.

    The leaves of `shared` are whole on every device; those of `rows`, and of what comes back, have a leading
    axis of rows, which the devices divide. `fn` must treat every row by itself.
    """

    def program(mesh: Mesh, *args: Any) -> PyTree:
        *static, shared, rows = args
        # Nothing is exchanged, so there is nothing to check; and a user's attack need not mark what varies.
        return jax.shard_map(
            functools.partial(fn, *static),
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec(_AXIS)),
            out_specs=PartitionSpec(_AXIS),
            check_vma=False,
        )(shared, rows)

    return jit(program, static_argnums=tuple(range(num_static + 1)))


def started(program: Any, mesh: Mesh, *static: Any, shared: PyTree, rows: PyTree) -> PyTree:
    """One call on rows whose number the devices divide, not waited for; `shared` comes from `everywhere`.

    Rows may come from another call, and then stay where they are.
    """
    return program(mesh, *static, shared, jax.device_put(rows, NamedSharding(mesh, PartitionSpec(_AXIS))))


def call(program: Any, mesh: Mesh, *static: Any, shared: PyTree, rows: PyTree) -> PyTree:
    """What `started` starts, as NumPy leaves."""
    return jax.device_get(started(program, mesh, *static, shared=shared, rows=rows))


def at(tree: PyTree, rows: Any) -> PyTree:
    """These rows of every leaf."""
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def batches(num_rows: int, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Positions `[batch_size]` and the number that count; the last batch repeats its last row."""
    for start in range(0, num_rows, batch_size):
        positions = np.arange(start, start + batch_size)
        yield np.minimum(positions, num_rows - 1), min(batch_size, num_rows - start)


def largest_share(num_rows: int) -> int:
    """The rows of the process that has most."""
    return -(-num_rows // jax.process_count())


def shares(num_rows: int) -> list[int]:
    """How many rows each process takes, in the order of the processes."""
    most = largest_share(num_rows)
    return [max(0, min(most, num_rows - most * process)) for process in range(jax.process_count())]


def share(num_rows: int) -> slice:
    """This process's rows: a contiguous part."""
    counts = shares(num_rows)
    start = sum(counts[: jax.process_index()])
    return slice(start, start + counts[jax.process_index()])


def gathered(tree: PyTree, counts: Sequence[int]) -> PyTree:
    """The rows of all processes in their order, on every process, bit for bit.

    `counts`: the rows of each process. Leaves are NumPy arrays with as many as this process's count, alike in
    dtype and in their other axes on all. They pass through the devices, piece by piece.
    """
    leaves, structure = jax.tree.flatten(tree)
    if len(counts) == 1 or not any(counts):
        return tree
    row_bytes = sum(_row_bytes(leaf) for leaf in leaves)
    # Twice, for `_room`.
    step = max(1, PIECE_BYTES // (2 * len(counts) * max(row_bytes, 1)))
    found: list[list[list[np.ndarray]]] = [[[] for _ in counts] for _ in leaves]
    for start in range(0, max(counts), step):
        piece = [leaf[start : start + step] for leaf in leaves]
        for per_process, parts in zip(found, _of_all(piece, [min(max(n - start, 0), step) for n in counts])):
            for rows, part in zip(per_process, parts):
                rows.append(part)
    return jax.tree.unflatten(
        structure, [np.concatenate([part for rows in one for part in rows]) for one in found]
    )


def _of_all(leaves: Sequence[np.ndarray], counts: Sequence[int]) -> list[list[np.ndarray]]:
    """For each leaf the rows of each process."""
    raw = np.frombuffer(b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in leaves), np.uint8)
    room = _room(max(counts) * sum(map(_row_bytes, leaves)))
    sent = np.asarray(multihost_utils.process_allgather(np.pad(raw, (0, room - raw.size))))
    parts: list[list[np.ndarray]] = [[] for _ in leaves]
    for count, received in zip(counts, sent):
        start = 0
        for part, leaf in zip(parts, leaves):
            size = count * _row_bytes(leaf)
            values = np.frombuffer(received[start : start + size].tobytes(), leaf.dtype)
            part.append(values.reshape(count, *leaf.shape[1:]))
            start += size
    return parts


def _row_bytes(leaf: np.ndarray) -> int:
    return leaf.dtype.itemsize * int(np.prod(leaf.shape[1:]))


def _room(size: int) -> int:
    """The next power of two: every length is a program of its own for the collective."""
    return 1 << size.bit_length()
