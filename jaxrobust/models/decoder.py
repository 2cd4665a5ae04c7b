"""The decoder of the privacy audit: from a model's features back to the image."""

import math
from functools import partial

import flax.linen as nn
import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxrobust import _validate
from jaxrobust.models._checks import check_image_shape
from jaxrobust.models._layers import Conv, Dense, GroupNorm
from jaxrobust.models._upsample import DoubledConv
from jaxrobust.numerics.chunks import in_chunks
from jaxrobust.types import Array, Model, Outputs, PyTree

_FACTOR = 8
IMAGE = "image"
"""The tap that holds the reconstruction."""


class Decoder(nn.Module):
    """The inverse model of CN111539382A: features in, image out.

    A dense layer to H/8 x W/8 x 4c; three times: nearest x2, 3x3 convolution, group normalisation, ReLU, with
    2c, c and c/2 filters, so that each costs the same; a 3x3 convolution to the image's channels; sigmoid.
    The claims leave the net open; the form is ours, after those of NbNet (Mai et al., IEEE TPAMI 41(5),
    2019).

    It is a `types.Model` whose "images" are features: `build(Decoder(image_shape=(56, 46, 1)), (1, 1, 128))`
    takes embeddings of 128 numbers as `[b, 1, 1, 128]`. A feature *map* `[b, h', w', c']` keeps its places:
    in the dense layer's stead it goes through a 1x1 convolution to 4c and is resized (bilinear,
    antialiased) to H/8 x W/8.

    Height and width that 8 does not divide are rounded up, and the image is the centre of what comes out.
    So every pixel has weights of its own and is not blurred by resizing; what is cut off has no loss.

    Attributes:
        image_shape: `(H, W, C)` of the reconstruction.
        width: c, even.
        groups: of the normalisation, see `GroupNorm`.
        dtype: the compute dtype by name; parameters and the image are float32 always.

    `Outputs.logits` `[b, H W C]` are the pixels before the sigmoid, `taps["image"]` `[b, H, W, C]` is the
    reconstruction in [0, 1]; there is no embedding.

    >>> from jaxrobust.models import build, num_params
    >>> model = build(Decoder(image_shape=(56, 46, 1)), (1, 1, 128))
    >>> outputs, _ = jax.eval_shape(
    ...     lambda key: model.apply(*model.init(key), jax.numpy.zeros((2, 1, 1, 128)), train=False),
    ...     jax.random.key(0))
    >>> outputs.taps["image"].shape, outputs.logits.shape, num_params(model)
    ((2, 56, 46, 1), (2, 2576), 790641)
    """

    image_shape: tuple[int, int, int] = (56, 46, 1)
    width: int = 32
    groups: int = 8
    dtype: str = "float32"

    @property
    def num_classes(self) -> int:
        """How many numbers an image has."""
        return math.prod(self.image_shape)

    def check(self, features_shape: tuple[int, int, int]) -> None:
        """Raises ValueError for fields out of range."""
        check_image_shape(self.image_shape)
        _validate.at_least("width", self.width, 2)
        if self.width % 2:
            raise ValueError(f"Expected an even width, got width={self.width}. Use {self.width + 1}.")
        _validate.at_least("groups", self.groups, 1)

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, keys: Array | None = None, axis_name: str | None = None
    ) -> Outputs:
        """`x` `[b, h', w', c']`, features of any scale, to Outputs; both modes are the same."""
        height, width, channels = self.image_shape
        h, w = (-(-size // _FACTOR) for size in (height, width))
        x = self._seed(x, h, w)
        for i, features in enumerate((2 * self.width, self.width, self.width // 2), start=1):
            x = DoubledConv(features, self.dtype, name=f"conv{i}")(x)
            x = nn.relu(GroupNorm(self.groups, dtype=self.dtype, name=f"norm{i}")(x))
        x = Conv(channels, padding="SAME", dtype=self.dtype, name="to_image")(x)
        top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
        logits = x[:, top : top + height, left : left + width].astype("float32")
        return Outputs(logits.reshape(x.shape[0], -1), None, {IMAGE: nn.sigmoid(logits)})

    def _seed(self, x: Array, h: int, w: int) -> Array:
        """`[b, h, w, 4c]`, what the doublings start from."""
        b, rows, columns, _ = x.shape
        wide = 4 * self.width
        if rows * columns == 1:
            dense = partial(Dense, dtype=self.dtype, name="seed")
            return dense(h * w * wide)(x.reshape(b, -1)).reshape(b, h, w, wide)
        x = Conv(wide, (1, 1), dtype=self.dtype, name="seed")(x)
        return x if (rows, columns) == (h, w) else jax.image.resize(x, (b, h, w, wide), "linear")


def decode(
    model: Model, params: PyTree, stats: PyTree, features: ArrayLike, *, batch_size: int = 64
) -> np.ndarray:
    """Images from features by a trained decoder, in batches of one size.

    Args:
        model: from `build(Decoder(...), features_shape)`.
        params, stats: its weights.
        features: `[n, d]` or `[n, h', w', c']`, as `inversion.publish` gives them.
        batch_size: rows per call, always exactly so many.

    Returns:
        float32 `[n, H, W, C]` in [0, 1].

    Raises:
        ValueError: for features of another shape than the decoder's.
    """
    values = np.asarray(features, np.float32)
    if values.ndim == 2:
        values = values[:, None, None]
    if values.shape[1:] != model.image_shape:
        raise ValueError(
            f"Expected features [n, {', '.join(map(str, model.image_shape))}], as the decoder was trained "
            f"with, got {list(np.shape(features))}."
        )
    return in_chunks(_decoded, (model,), (params, stats), values, batch_size)


def _decoded(model: Model, params: PyTree, stats: PyTree, features: Array) -> Array:
    taps = model.apply(params, stats, features, train=False)[0].taps
    assert taps is not None
    return taps[IMAGE]
