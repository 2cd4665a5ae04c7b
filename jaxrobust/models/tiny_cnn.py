"""TinyCNN: SmallCNN's like for images as small as 8x8."""

from typing import ClassVar

import flax.linen as nn

from jaxrobust import _validate
from jaxrobust.models._layers import Dense, dropout, normalise
from jaxrobust.models._plain import classify, two_stages
from jaxrobust.types import Array, Outputs


class TinyCNN(nn.Module):
    """SmallCNN with SAME padding and smaller widths, for images from 4x4 up, such as 8x8 digits.

    conv 3x3 16, 16, max-pool, 32, 32, max-pool, dense 64, dropout, dense 64, dense k. Dropout is off by
    default: so small a net gains nothing from it.

    Attributes:
        num_classes: k.
        dtype: the compute dtype by name; parameters and logits are float32 always.
        mean, std: normalisation per channel, inside the net; empty for none.
        widths: filters of the two stages.
        hidden: units of the two hidden dense layers.
        dropout: the rate after the first hidden layer, in [0, 1), by row keys.

    Its taps are the activations `conv1` to `conv4`.
    """

    num_classes: int = 10
    dtype: str = "float32"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    widths: tuple[int, int] = (16, 32)
    hidden: int = 64
    dropout: float = 0.0

    native_shape: ClassVar[tuple[int, int, int]] = (8, 8, 1)
    min_size: ClassVar[int] = 4

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raises ValueError for fields out of range."""
        _validate.within("dropout", self.dropout, 0.0, 0.99)

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, keys: Array | None = None, axis_name: str | None = None
    ) -> Outputs:
        """`x` `[b, h, w, c]` in [0, 1] to Outputs; train mode needs `keys` `[b]` where dropout > 0."""
        x = normalise(x, self.mean, self.std)
        x, taps = two_stages(x, self.widths, padding="SAME", dtype=self.dtype)
        x = nn.relu(Dense(self.hidden, self.dtype, name="fc1")(x))
        x = dropout(x, self.dropout, train=train, keys=keys, layer=0)
        x = nn.relu(Dense(self.hidden, self.dtype, name="fc2")(x))
        return classify(x, self.num_classes, "fc3", taps)
