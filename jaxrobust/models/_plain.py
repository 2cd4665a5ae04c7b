"""What the plain convolutional nets share: two stages of two 3x3 convolutions, each closed by a pool."""

import flax.linen as nn
import jax.numpy as jnp

from jaxrobust.models._layers import Conv, Dense
from jaxrobust.numerics.convolution import Padding
from jaxrobust.numerics.pooling import max_pool
from jaxrobust.types import Array, Outputs


def two_stages(
    x: Array, widths: tuple[int, int], *, padding: Padding, dtype: str
) -> tuple[Array, dict[str, Array]]:
    """conv, conv, pool, conv, conv, pool with ReLU after each convolution: flat features and the activations.

    Called inside a compact method; the convolutions are named conv1 to conv4, and so are their activations.
    """
    taps = {}
    for stage, width in enumerate(widths):
        for i in (1, 2):
            name = f"conv{2 * stage + i}"
            linear = Conv(width, padding=padding, dtype=dtype, name=name)(x)
            taps[name] = x = nn.relu(linear)
        # The maximum of ReLUs is the ReLU of the maximum, which has a quarter of the numbers to go through.
        x = nn.relu(max_pool(linear, window=(2, 2)))
    return x.reshape(x.shape[0], -1), taps


def classify(features: Array, num_classes: int, name: str, taps: dict[str, Array]) -> Outputs:
    """The last dense layer, in float32 whatever the compute dtype of the features."""
    features = features.astype(jnp.float32)
    return Outputs(Dense(num_classes, name=name)(features), features, taps)
