"""Saliency: which pixels support what a model says, the regions that they make, and controls for them.

Maps are frozen dataclasses, called as `method(keys [b], target_fn, example) -> [b, h, w]`; `saliency_maps`
wraps one call around them for any model. Regions, controls and agreement are NumPy, on the host.
"""

from jaxrobust.saliency._reductions import channel_sum, largest_magnitude
from jaxrobust.saliency._types import SaliencyMap, Stages, TargetFn
from jaxrobust.saliency.agreement import iou, spearman
from jaxrobust.saliency.controls import centre_disc, from_others, rolled
from jaxrobust.saliency.frontend import completeness_errors, perturbation_curves, saliency_maps
from jaxrobust.saliency.grad_cam import GradCAM
from jaxrobust.saliency.gradient import Gradient, GradientTimesInput
from jaxrobust.saliency.insertion import Deletion, Insertion, curve_area
from jaxrobust.saliency.integrated_gradients import IntegratedGradients
from jaxrobust.saliency.occlusion import Occlusion
from jaxrobust.saliency.regions import (
    REGIONS,
    BestBox,
    LargestComponent,
    Region,
    Regions,
    Threshold,
    TopFraction,
    constant_maps,
    example_masks,
    smooth,
)
from jaxrobust.saliency.rise import RISE
from jaxrobust.saliency.smooth_grad import SmoothGrad
from jaxrobust.saliency.stages import model_embeddings, model_logits, of_images, with_weights
from jaxrobust.saliency.targets import (
    class_log_odds,
    class_log_probability,
    class_logit,
    class_probability,
    negated,
    pair_support,
    similarity,
)

SALIENCY_MAPS = {
    "occlusion": Occlusion,
    "integrated_gradients": IntegratedGradients,
    "gradient": Gradient,
    "gradient_times_input": GradientTimesInput,
    "smooth_grad": SmoothGrad,
    "grad_cam": GradCAM,
    "rise": RISE,
}
REDUCTIONS = {"channel_sum": channel_sum, "largest_magnitude": largest_magnitude}
CONTROLS = {"rolled": rolled, "others": from_others, "centre_disc": centre_disc}

__all__ = [
    "CONTROLS",
    "REDUCTIONS",
    "REGIONS",
    "RISE",
    "SALIENCY_MAPS",
    "BestBox",
    "Deletion",
    "GradCAM",
    "Gradient",
    "GradientTimesInput",
    "Insertion",
    "IntegratedGradients",
    "LargestComponent",
    "Occlusion",
    "Region",
    "Regions",
    "SaliencyMap",
    "SmoothGrad",
    "Stages",
    "TargetFn",
    "Threshold",
    "TopFraction",
    "centre_disc",
    "channel_sum",
    "class_log_odds",
    "class_log_probability",
    "class_logit",
    "class_probability",
    "completeness_errors",
    "constant_maps",
    "curve_area",
    "example_masks",
    "from_others",
    "iou",
    "largest_magnitude",
    "model_embeddings",
    "model_logits",
    "negated",
    "of_images",
    "pair_support",
    "perturbation_curves",
    "rolled",
    "saliency_maps",
    "similarity",
    "smooth",
    "spearman",
    "with_weights",
]
