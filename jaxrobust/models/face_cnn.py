"""FaceCNN, a face embedding small enough to be trained on a few hundred images."""

from functools import partial
from typing import ClassVar

import flax.linen as nn

from jaxrobust import _validate
from jaxrobust.models._layers import NORMS, Conv, Dense, dropout, norm, normalise
from jaxrobust.models.heads import check_head, identify
from jaxrobust.numerics.pooling import max_pool
from jaxrobust.types import Array, Outputs

GROUPS = 8


class FaceCNN(nn.Module):
    """Four 3x3 convolutions, each normalised, with ReLU; a 2x2 max-pool after all but the last; dense to d.

    Faces that are aligned keep their places, so the last activation is flattened and not averaged. 0.57M
    parameters without the head on ORL's `[56, 46, 1]`. Normalisation is by groups (arXiv 1803.08494), which
    does not mix clean with adversarial images.

    Attributes:
        num_classes: the people it is trained on.
        dtype: the compute dtype by name; parameters, embedding and logits are float32 always.
        mean, std: normalisation per channel, inside the net; empty for none.
        scale: s of the head's logits s cos(theta_j); None for a softmax head, see `models.heads`.
        embedding_size: d.
        widths: filters of the four stages.
        norm: "group" (8 groups) or "batch".
        dropout: the rate before the dense layer, in [0, 1), by row keys.

    Its embedding `[b, d]` has unit length. Its taps are the activations `conv1` to `conv4`.

    >>> import jax
    >>> from jaxrobust.models import build
    >>> model = build(FaceCNN(num_classes=24), (56, 46, 1))
    >>> outputs, _ = jax.eval_shape(
    ...     lambda key: model.apply(*model.init(key), jax.numpy.zeros((2, 56, 46, 1)), train=False),
    ...     jax.random.key(0))
    >>> outputs.logits.shape, outputs.embedding.shape, outputs.taps["conv4"].shape
    ((2, 24), (2, 128), (2, 7, 5, 96))
    """

    num_classes: int = 10
    dtype: str = "float32"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float | None = 16.0
    embedding_size: int = 128
    widths: tuple[int, int, int, int] = (24, 48, 96, 96)
    norm: str = "group"
    dropout: float = 0.0

    native_shape: ClassVar[tuple[int, int, int]] = (56, 46, 1)
    min_size: ClassVar[int] = 8

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raises ValueError for fields out of range."""
        check_head(self.embedding_size, self.scale)
        _validate.member("norm", self.norm, NORMS)
        _validate.within("dropout", self.dropout, 0.0, 0.99)
        for width in self.widths:
            _validate.at_least("widths", width, 1)

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, keys: Array | None = None, axis_name: str | None = None
    ) -> Outputs:
        """`x` `[b, h, w, c]` in [0, 1] to Outputs; train mode needs `keys` `[b]` where dropout > 0."""
        x = normalise(x, self.mean, self.std)
        conv = partial(Conv, padding="SAME", use_bias=False, dtype=self.dtype)
        normed = partial(norm, self.norm, dtype=self.dtype, train=train, axis_name=axis_name, groups=GROUPS)
        taps = {}
        for i, width in enumerate(self.widths, start=1):
            linear = normed(conv(width, name=f"conv{i}")(x), name=f"norm{i}")
            taps[f"conv{i}"] = nn.relu(linear)
            x = nn.relu(max_pool(linear) if i < len(self.widths) else linear)
        x = dropout(x.reshape(x.shape[0], -1), self.dropout, train=train, keys=keys, layer=0)
        return identify(
            Dense(self.embedding_size, self.dtype, name="embedding")(x), self.num_classes, self.scale, taps
        )
