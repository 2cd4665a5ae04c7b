"""The MNIST net of the geometry experiments."""

from typing import ClassVar

import flax.linen as nn

from jaxrobust.models._layers import standardise
from jaxrobust.models._plain import classify, two_stages
from jaxrobust.types import Array, Outputs


class SpatialMNIST(nn.Module):
    """conv 3x3 32, 32, max-pool, 64, 64, max-pool, one dense layer 3136 to k; SAME padding, no dropout.

    The net that SRT's source trains against rotations and translations of MNIST; it standardises each image.

    Attributes:
        num_classes: k.
        dtype: the compute dtype by name; parameters and logits are float32 always.
        standardise: whether each image is brought to mean 0 and deviation 1 first.
        widths: filters of the two stages.

    Its taps are the activations `conv1` to `conv4`.
    """

    num_classes: int = 10
    dtype: str = "float32"
    standardise: bool = True
    widths: tuple[int, int] = (32, 64)

    native_shape: ClassVar[tuple[int, int, int]] = (28, 28, 1)
    min_size: ClassVar[int] = 4

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, keys: Array | None = None, axis_name: str | None = None
    ) -> Outputs:
        """`x` `[b, h, w, c]` in [0, 1] to Outputs; the same in train and eval mode."""
        x = standardise(x) if self.standardise else x
        x, taps = two_stages(x, self.widths, padding="SAME", dtype=self.dtype)
        return classify(x, self.num_classes, "logit", taps)
