"""Nets, what makes a `types.Model` of them, `build(module, image_shape)`, and a linear embedding of faces."""

from jaxrobust.models import pca_lda
from jaxrobust.models._build import build, num_params
from jaxrobust.models.adapters import from_callable, score_fn
from jaxrobust.models.decoder import Decoder, decode
from jaxrobust.models.face_cnn import FaceCNN
from jaxrobust.models.heads import check_scale
from jaxrobust.models.import_torch import load_state_dict
from jaxrobust.models.iresnet import IResNet
from jaxrobust.models.mobile_facenet import MobileFaceNet
from jaxrobust.models.pca_lda import PCALDA
from jaxrobust.models.preact_resnet import PreActResNet18
from jaxrobust.models.precision import Precision, computes_in, in_precision, with_precision
from jaxrobust.models.remat import with_remat
from jaxrobust.models.small_cnn import SmallCNN
from jaxrobust.models.spatial_mnist import SpatialMNIST
from jaxrobust.models.spatial_resnet import SpatialResNet
from jaxrobust.models.tiny_cnn import TinyCNN
from jaxrobust.models.wide_resnet import WideResNet

MODELS = {
    "small_cnn": SmallCNN,
    "tiny_cnn": TinyCNN,
    "spatial_mnist": SpatialMNIST,
    "spatial_resnet": SpatialResNet,
    "preact_resnet18": PreActResNet18,
    "wrn": WideResNet,
    "face_cnn": FaceCNN,
    "mobile_facenet": MobileFaceNet,
    "iresnet": IResNet,
}
DECODERS = {"decoder": Decoder}
"""Nets from features to images. They are built and trained like the others, and classify nothing."""

__all__ = [
    "DECODERS",
    "MODELS",
    "PCALDA",
    "Decoder",
    "FaceCNN",
    "IResNet",
    "MobileFaceNet",
    "PreActResNet18",
    "Precision",
    "SmallCNN",
    "SpatialMNIST",
    "SpatialResNet",
    "TinyCNN",
    "WideResNet",
    "build",
    "check_scale",
    "computes_in",
    "decode",
    "from_callable",
    "in_precision",
    "load_state_dict",
    "num_params",
    "pca_lda",
    "score_fn",
    "with_precision",
    "with_remat",
]
