"""What a saliency audit does: maps, regions, perturbations and controls, as one value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jaxrobust import _validate, saliency
from jaxrobust.audits._saliency_measure import SALIENT, Plan
from jaxrobust.audits._saliency_report import WORST_MAP
from jaxrobust.audits.perturbations import Fill, Perturbation, Replacement, confined
from jaxrobust.saliency import IntegratedGradients, Occlusion, Region, SaliencyMap, TopFraction


@dataclass(frozen=True, kw_only=True)
class SaliencyAudit:
    """What is audited: the same for pairs and classes.

    Args:
        maps: by name. A `GradCAM` explains the target that `stages` has under its name.
        regions: by name, from small to large; the headline is spoken of.
        perturbations: by name; the first is the headline's. Attacks are confined to the region.
        controls: of `saliency.CONTROLS`; the excess over the first is spoken of in the verdict.
        headline: the name of the region of the verdict, the pictures and the comparison of maps; None for
            the one in the middle, the smaller of two.
        num_sanity: on how many rows of each model the insertion and deletion curves and the maps of
            randomised layers are made; 0 for none.
        batch_size: images, or pairs, per compiled call.
        chunk: the most images that go through the model at once, see `saliency_maps`.
        num_draws: of the bootstrap over people (or images).
        seed: of maps that draw, of controls, of attacks, of the choice of pairs and of the bootstrap.

    Raises:
        ValueError: for none of a kind, an unknown control or headline, numbers out of range.
    """

    maps: Mapping[str, SaliencyMap] = field(
        default_factory=lambda: {
            "occlusion": Occlusion(),
            "integrated_gradients": IntegratedGradients(),
        }
    )
    regions: Mapping[str, Region] = field(
        default_factory=lambda: {f"top {q:g}": TopFraction(fraction=q) for q in (0.05, 0.1, 0.2)}
    )
    perturbations: Mapping[str, Perturbation] = field(default_factory=lambda: {"mean": Fill()})
    controls: Sequence[str] = ("rolled", "others", "centre_disc")
    headline: str | None = None
    num_sanity: int = 16
    batch_size: int = 64
    chunk: int | None = None
    num_draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for what in ("maps", "regions", "perturbations"):
            if not getattr(self, what):
                raise ValueError(f"Expected at least one of {what}, got none.")
        if WORST_MAP in self.maps:
            raise ValueError(f"The name {WORST_MAP!r} is taken by all maps together. Choose another.")
        for name, one in self.maps.items():
            if isinstance(one, type) or not isinstance(one, SaliencyMap):
                raise ValueError(
                    f"Expected maps[{name!r}] to be a saliency map like Occlusion(), got {one!r}."
                )
        for name, region in self.regions.items():
            if isinstance(region, type) or not isinstance(region, Region):
                raise ValueError(
                    f"Expected regions[{name!r}] to be a region like TopFraction(fraction=0.1), got "
                    f"{region!r}."
                )
        for name in self.controls:
            _validate.member("control", name, saliency.CONTROLS)
        if self.headline is not None:
            _validate.member("headline", self.headline, self.regions)
        _validate.at_least("num_sanity", self.num_sanity, 0)
        _validate.at_least("batch_size", self.batch_size, 1)
        _validate.at_least("num_draws", self.num_draws, 2)
        _validate.at_least("seed", self.seed, 0)
        ready = {}
        for name, perturbation in self.perturbations.items():
            if isinstance(perturbation, type) or not callable(
                getattr(perturbation, "replaces", perturbation)
            ):
                raise ValueError(
                    f"Expected perturbations[{name!r}] to be a replacement like Fill() or an attack, got "
                    f"{perturbation!r}."
                )
            ready[name] = perturbation if isinstance(perturbation, Replacement) else confined(perturbation)
        object.__setattr__(self, "perturbations", ready)

    @property
    def headline_region(self) -> str:
        """The region that is spoken of."""
        names = list(self.regions)
        return self.headline if self.headline is not None else names[(len(names) - 1) // 2]

    def plan(self) -> Plan:
        """With perturbations confined and places named."""
        return Plan(
            maps=self.maps,
            regions=self.regions,
            perturbations=self.perturbations,
            places=(SALIENT, *self.controls),
            headline=self.headline_region,
            num_sanity=self.num_sanity,
            batch_size=self.batch_size,
            chunk=self.chunk,
            seed=self.seed,
        )
