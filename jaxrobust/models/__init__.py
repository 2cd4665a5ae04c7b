"""Nets, and what makes a `types.Model` of them: `build(module, image_shape)`."""

from jaxrobust.models._build import build, num_params
from jaxrobust.models.small_cnn import SmallCNN
from jaxrobust.models.tiny_cnn import TinyCNN

MODELS = {
    "small_cnn": SmallCNN,
    "tiny_cnn": TinyCNN,
}

__all__ = ["MODELS", "SmallCNN", "TinyCNN", "build", "num_params"]
