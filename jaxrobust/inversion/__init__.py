"""What a model's features give away: threat models and mitigations as values, and inversion by optimisation.

The trained inverse model is `models.Decoder`, its training `objectives.Inversion`, what both are worth
`evaluation.reconstruction`.
"""

from jaxrobust.inversion._types import FeaturesFn, Protection
from jaxrobust.inversion.distances import (
    DISTANCES,
    one_minus_confidence,
    one_minus_cosine,
    relative_squares,
)
from jaxrobust.inversion.features import (
    Features,
    content_keys,
    embedding_of,
    protected,
    publish,
    victim_features,
)
from jaxrobust.inversion.optimise import (
    OPTIMIZERS,
    Inverted,
    TVInversion,
    chosen_method,
    invert,
    total_variation,
)
from jaxrobust.inversion.perceptual import perceptual_distance
from jaxrobust.inversion.protections import PROTECTIONS, Noisy, Principal, Quantised, TopK, Truncated

__all__ = [
    "DISTANCES",
    "OPTIMIZERS",
    "PROTECTIONS",
    "Features",
    "FeaturesFn",
    "Inverted",
    "Noisy",
    "Principal",
    "Protection",
    "Quantised",
    "TVInversion",
    "TopK",
    "Truncated",
    "chosen_method",
    "content_keys",
    "embedding_of",
    "invert",
    "one_minus_confidence",
    "one_minus_cosine",
    "perceptual_distance",
    "protected",
    "publish",
    "relative_squares",
    "total_variation",
    "victim_features",
]
