"""Shuffling without memory: the place of an image in an epoch is computed, not stored."""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

_GOLDEN = 0x9E3779B9


def _mix(x: Any) -> Any:
    """A bijective hash of 32 bits: every input bit reaches every output bit (MurmurHash3's finaliser)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def num_rounds(n: int) -> int:
    """Six rounds per bit: the distance of any image's place from uniform is then below n^-1.5."""
    return 6 * max(n - 1, 1).bit_length()


def _permute(xp: ModuleType, words: Any, epoch: Any, offset: Any, n: int, loop_fn: Any) -> Any:
    """The swap-or-not shuffle of {0 .. n-1} on NumPy's or JAX's arrays; `words` are the key's."""
    epoch, offset = xp.broadcast_arrays(xp.asarray(epoch), xp.asarray(offset))
    epoch = epoch.astype(xp.uint32)
    seed = _mix(epoch ^ np.uint32(_GOLDEN))
    for i in range(words.shape[0]):
        seed = _mix(seed ^ words[i])
    # The pairing of a round and the coin of a pair come from two unrelated streams of the same seed.
    pairing, coins = _mix(seed ^ np.uint32(0x243F6A88)), _mix(seed ^ np.uint32(0x85A308D3))

    def swap(round_number: Any, x: Any) -> Any:
        step = xp.asarray(round_number).astype(xp.uint32) * np.uint32(_GOLDEN)
        total = _mix(pairing + step) % np.uint32(n)
        partner = xp.where(x <= total, total - x, total + np.uint32(n) - x)
        coin = _mix(xp.maximum(x, partner) ^ _mix(coins + step))
        return xp.where((coin & np.uint32(1)) == 1, partner, x)

    return loop_fn(num_rounds(n), swap, offset.astype(xp.uint32)).astype(xp.int32)


def _check(n: int) -> None:
    """Raises ValueError unless 1 <= n < 2^31."""
    if not 1 <= n < 2**31:
        raise ValueError(f"Expected 1 <= n < 2^31 images to shuffle, got n={n}.")


def shuffled_index(key: jax.Array, epoch: ArrayLike, offset: ArrayLike, n: int) -> jax.Array:
    r"""The image at place `offset` of epoch `epoch`: a keyed permutation of {0 .. n-1}, evaluated at one
    place.

    The swap-or-not shuffle (Hoang, Morris and Rogaway, 2012): in round r an index x and its partner
    K_r - x mod n trade places if a coin of the pair falls so. Each round permutes {0 .. n-1}, whatever n, so
    every image comes exactly once per epoch, and any place of any epoch is found without its predecessors:
    resuming needs no state, and a slice of a batch needs no communication.

    Args:
        key: a typed key; another key is another order.
        epoch: int `[]` or `[b]`; every epoch has its own order.
        offset: int, of the same shape, in [0, n).
        n: the number of images, static.

    Returns:
        int32 indices of the shape of `offset`.

    Raises:
        ValueError: unless 1 <= n < 2^31.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> order = shuffled_index(jax.random.key(0), jnp.zeros(5, int), jnp.arange(5), 5)
        >>> sorted(order.tolist())
        [0, 1, 2, 3, 4]
    """
    return shuffled_index_from_words(jax.random.key_data(key), epoch, offset, n)


def shuffled_index_from_words(words: ArrayLike, epoch: ArrayLike, offset: ArrayLike, n: int) -> jax.Array:
    """`shuffled_index` for the raw words of a key, uint32 `[w]`, as they lie in a feed's arrays."""
    _check(n)
    return _permute(jnp, words, epoch, offset, n, lambda k, body, x: jax.lax.fori_loop(0, k, body, x))


def shuffled_index_on_host(words: ArrayLike, epoch: ArrayLike, offset: ArrayLike, n: int) -> np.ndarray:
    """The same function in NumPy, for readers that never touch a device; equal bit for bit."""
    _check(n)

    def loop(rounds: int, body: Any, x: Any) -> Any:
        for round_number in range(rounds):
            x = body(np.asarray([round_number]), x)
        return x

    shape = np.shape(offset)
    result = _permute(np, np.asarray(words), np.atleast_1d(epoch), np.atleast_1d(offset), n, loop)
    return result.reshape(shape)
