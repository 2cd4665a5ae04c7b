"""SmallCNN, the MNIST net of the pixel experiments."""

from typing import ClassVar

import flax.linen as nn

from jaxrobust import _validate
from jaxrobust.models._layers import Dense, dropout, normalise
from jaxrobust.models._plain import classify, two_stages
from jaxrobust.types import Array, Outputs


class SmallCNN(nn.Module):
    """conv 3x3 32, 32, max-pool, 64, 64, max-pool, dense 200, dropout 0.5, dense 200, dense k; no padding.

    The net of Carlini and Wagner (arXiv 1608.04644) as TRADES (arXiv 1901.08573) and the source of SRT use it
    on MNIST; ReLU after every layer but the last. 312,202 parameters on `[28, 28, 1]` with 10 classes.

    Attributes:
        num_classes: k.
        dtype: the compute dtype by name; parameters and logits are float32 always.
        mean, std: normalisation per channel, inside the net; empty for none, as the source.
        widths: filters of the two stages.
        hidden: units of the two hidden dense layers.
        dropout: the rate after the first hidden layer, in [0, 1), by row keys.

    Its taps are the activations `conv1` to `conv4`.

    >>> import jax
    >>> from jaxrobust.models import build
    >>> model = build(SmallCNN(), (28, 28, 1))
    >>> params, stats = model.init(jax.random.key(0))
    >>> outputs, _ = model.apply(params, stats, jax.numpy.zeros((2, 28, 28, 1)), train=False)
    >>> outputs.logits.shape, outputs.embedding.shape
    ((2, 10), (2, 200))
    """

    num_classes: int = 10
    dtype: str = "float32"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    widths: tuple[int, int] = (32, 64)
    hidden: int = 200
    dropout: float = 0.5

    native_shape: ClassVar[tuple[int, int, int]] = (28, 28, 1)
    min_size: ClassVar[int] = 16

    def check(self, image_shape: tuple[int, int, int]) -> None:
        """Raises ValueError for fields out of range."""
        _validate.within("dropout", self.dropout, 0.0, 0.99)

    def torch_prefix(self, layer: str) -> str:
        """The name of a layer in TRADES' state dicts."""
        return f"feature_extractor.{layer}" if layer.startswith("conv") else f"classifier.{layer}"

    def torch_flattened(self, image_shape: tuple[int, int, int]) -> dict[str, tuple[int, int, int]]:
        """The dense layers that read a flattened activation, with its shape (h, w, c)."""
        h, w = (((size - 4) // 2 - 4) // 2 for size in image_shape[:2])
        return {"fc1": (h, w, self.widths[1])}

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, keys: Array | None = None, axis_name: str | None = None
    ) -> Outputs:
        """`x` `[b, h, w, c]` in [0, 1] to Outputs; train mode needs `keys` `[b]` where dropout > 0."""
        x = normalise(x, self.mean, self.std)
        x, taps = two_stages(x, self.widths, padding="VALID", dtype=self.dtype)
        x = nn.relu(Dense(self.hidden, self.dtype, name="fc1")(x))
        x = dropout(x, self.dropout, train=train, keys=keys, layer=0)
        x = nn.relu(Dense(self.hidden, self.dtype, name="fc2")(x))
        return classify(x, self.num_classes, "fc3", taps)
