"""What a privacy audit does: threat, decoder, inversion by optimisation and mitigations, as one value."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxrobust import _validate
from jaxrobust.evaluation.leak import LEAST_GENUINE
from jaxrobust.evaluation.roc import check_far
from jaxrobust.inversion import Features, Protection, TVInversion
from jaxrobust.inversion.features import check_protections

PUBLISHED = "as published"
"""The name of what is published without any further mitigation."""


def priors(steps: int = 300) -> tuple[TVInversion, ...]:
    """Inversions whose priors span what models need: what is the image itself next to none, face nets much.

    >>> [method.total_variation for method in priors()]
    [0.001, 0.03, 0.3, 3.0]
    """
    return tuple(TVInversion(total_variation=weight, steps=steps) for weight in (0.001, 0.03, 0.3, 3.0))


@dataclass(frozen=True, kw_only=True)
class PrivacyAudit:
    r"""What is audited, of people and of classes alike.

    The decoder's loss is that of `objectives.Inversion`, whose weights lambda_1 to lambda_3 are given here.

    Args:
        threat: the layer that is published and what protects it. Of a function of one's own the layer is a
            name in the report only.
        white_box: whether the attacker has the model itself. False leaves out what needs its gradients: the
            decoder with lambda_3 > 0 and inversion by optimisation. Features of images of his own he has in
            any case.
        width: of the decoder, see `models.Decoder`.
        steps: of its training.
        batch_size: of its training.
        learning_rate: of Adam, falling to 0 along a cosine.
        ssim_weight, perceptual_weight: lambda_1 and lambda_2. The latter needs `perceptual_fn`, and spoils
            that distance as a measure.
        feature_weights: values of lambda_3; a decoder is trained with each, and the best on held-out
            attackers attacks.
        flip: whether training images are mirrored at random: faces stay faces.
        optimisation: the methods of inversion by optimisation, of which the best on held-out attackers
            attacks; () for none.
        num_optimised: of how many images of victims and of held-out attackers, in each fold, spread evenly
            over people (at least two each); 0 for none.
        mitigations: by name, protections that are measured on top of the threat's own: leak against
            recognition, a decoder trained anew behind each.
        far: that thresholds of critics, and of recognition, are to have.
        least_genuine: a critic that accepts fewer genuine pairs is no judge.
        window: of the SSIM, in pixels.
        num_pairs: the most pairs of images of a kind in each fold; None for all.
        most_fitted: to how many of the attacker's images the critic is fitted, at most.
        batch_rows: images per compiled call when nothing is trained.
        num_draws: of the bootstrap over people (or images).
        seeds: a decoder for each, whose decisions count together; the first is also that of everything else
            that is drawn.

    Raises:
        ValueError: for values out of range, and no attack at all.

    >>> PrivacyAudit(steps=300).feature_weights
    (0.0, 0.1)
    """

    threat: Features = field(default_factory=Features)
    white_box: bool = True
    width: int = 32
    steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 2e-3
    ssim_weight: float = 1.0
    perceptual_weight: float = 0.0
    feature_weights: tuple[float, ...] = (0.0, 0.1)
    flip: bool = True
    optimisation: tuple[TVInversion, ...] = field(default_factory=priors)
    num_optimised: int = 20
    mitigations: Mapping[str, tuple[Protection, ...]] = field(default_factory=dict)
    far: float = 0.01
    least_genuine: float = LEAST_GENUINE
    window: int = 11
    num_pairs: int | None = 20_000
    most_fitted: int = 2000
    batch_rows: int = 64
    num_draws: int = 1000
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if not isinstance(self.threat, Features):
            raise ValueError(f"Expected threat to be Features(layer=...), got {self.threat!r}.")
        for name in ("steps", "batch_size", "window", "most_fitted", "batch_rows"):
            _validate.at_least(name, getattr(self, name), 1)
        _validate.at_least("width", self.width, 2)
        _validate.at_least("num_draws", self.num_draws, 2)
        _validate.at_least("num_optimised", self.num_optimised, 0, "0 leaves inversion by optimisation out.")
        _validate.positive("learning_rate", self.learning_rate)
        for name in ("ssim_weight", "perceptual_weight"):
            _validate.non_negative(name, getattr(self, name), "0 leaves the term out.")
        if not self.feature_weights:
            raise ValueError("Expected feature_weights such as (0.0, 0.1), got none: a decoder for each.")
        for weight in self.feature_weights:
            _validate.non_negative("feature_weights", weight)
        if len(set(self.feature_weights)) < len(self.feature_weights):
            raise ValueError(f"Expected different feature_weights, got {self.feature_weights}.")
        if not self.white_box and not any(weight == 0 for weight in self.feature_weights):
            raise ValueError(
                f"feature_weights={self.feature_weights} need the model's gradients, and white_box=False. "
                "Add 0."
            )
        for method in self.optimisation:
            if not isinstance(method, TVInversion):
                raise ValueError(f"Expected methods such as TVInversion(steps=300), got {method!r}.")
        for name, protections in self.mitigations.items():
            check_protections(protections)
            if name == PUBLISHED or not protections:
                raise ValueError(
                    f"The mitigation {name!r} protects nothing, and {PUBLISHED!r} is measured anyway. Leave "
                    "it out."
                )
        check_far(self.far)
        _validate.within("least_genuine", self.least_genuine, 0.0, 1.0)
        if self.num_pairs is not None:
            _validate.at_least("num_pairs", self.num_pairs, 1, "None takes all.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"Expected different seeds, at least one, got {self.seeds}.")
        for seed in self.seeds:
            _validate.at_least("seeds", seed, 0)

    @property
    def seed(self) -> int:
        """Of everything but the decoders."""
        return self.seeds[0]

    @property
    def weights(self) -> tuple[float, ...]:
        """The values of lambda_3 that this attacker can train with."""
        return self.feature_weights if self.white_box else (0.0,)

    @property
    def methods(self) -> tuple[TVInversion, ...]:
        """The optimisations that this attacker can run."""
        return self.optimisation if self.white_box and self.num_optimised else ()
