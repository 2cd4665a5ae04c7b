"""Random crops and flips, row by row."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _validate

# Far from the small numbers that objectives fold into the same row keys for their own draws.
_DRAWS = 0xDA7A0001


@dataclass(frozen=True, kw_only=True)
class Augment:
    """A random crop of the zero-padded image, then a random left-right flip.

    Attributes:
        pad: pixels of zeros on every side before the crop to the original size; 0 leaves the crop out.
        flip: whether to mirror each image with probability 1/2.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> keys = jax.random.split(jax.random.key(0), 2)
        >>> Augment(pad=4, flip=True)(keys, jnp.ones((2, 8, 8, 1))).shape
        (2, 8, 8, 1)
    """

    pad: int = 0
    flip: bool = False

    def __post_init__(self):
        _validate.at_least("pad", self.pad, 0)

    def __call__(self, keys: jax.Array, images: jax.Array) -> jax.Array:
        """Augments `images` `[b, h, w, c]`; row i depends on `keys[i]` only."""
        if not (self.pad or self.flip) or images.shape[0] == 0:
            return images
        return jax.vmap(self._one)(keys, images)

    def _one(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """One image `[h, w, c]`."""
        down, right, side = jax.random.bits(jax.random.fold_in(key, _DRAWS), (3,))
        if self.pad:
            places = np.uint32(2 * self.pad + 1)
            padded = jnp.pad(image, ((self.pad, self.pad), (self.pad, self.pad), (0, 0)))
            start = (down % places, right % places, np.uint32(0))
            image = jax.lax.dynamic_slice(padded, start, image.shape)
        if self.flip:
            image = jnp.where(side & 1, image[:, ::-1], image)
        return image
