"""What `measure_reconstructions` found, as values, as JSON and in words."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.evaluation._verification_report import Estimate, plain
from jaxrobust.evaluation.identification import Rank1
from jaxrobust.evaluation.leak import Band


class LikenessRow(NamedTuple):
    """How like the victims' images something is, the mean over images.

    Attributes:
        name: `reconstruction`, `mean face`, `wrong identity` (the reconstruction of somebody else's image) or
            `other photo` (a real one of the same person).
        ssim: see `numerics.fidelity.ssim`.
        psnr: in dB, at most 100 for an image.
        perceptual: distance by an independent network; None without one.
    """

    name: str
    ssim: Estimate
    psnr: Estimate
    perceptual: Estimate | None


class CriticRow(NamedTuple):
    """What one critic accepts, at its threshold from validation people; decisions of folds are pooled.

    Attributes:
        name: of the critic.
        type1: reconstructions against their source image.
        type2: against other photos of the same person.
        genuine: G, real photos of one person: the ceiling of `type2`.
        wrong: c, reconstructions against photos of other people.
        mean_face: the mean face against photos.
        far: real photos of two people.
        leak: see `leak.leak_score`.
        rank1: reconstructions identified among the fold's people, each person's first photo the gallery.
        rank1_real: the same of real photos.
    """

    name: str
    type1: Estimate
    type2: Estimate
    genuine: Estimate
    wrong: Estimate
    mean_face: Estimate
    far: Estimate
    leak: Estimate
    rank1: Rank1
    rank1_real: Rank1


class HeldOut(NamedTuple):
    """Whether the attack works at all, on people of the attacker's whom it was not trained on.

    Attributes:
        num_people, num_images: of them.
        reconstruction, mean_face: SSIM.
        over_mean: the first less the second.
        over_wrong: the first less the SSIM of somebody else's reconstruction.
    """

    num_people: int
    num_images: int
    reconstruction: Estimate
    mean_face: Estimate
    over_mean: Estimate
    over_wrong: Estimate


class Strip(NamedTuple):
    """Per image of a fold, what a page shows beside it: places in the fold's arrays, and how like they are.

    Attributes:
        ssim: float `[n]`, of the reconstructions: best, median and worst are by it.
        other: int `[n]`, the other photo of the person.
        wrong: int `[n]`, whose reconstruction is the wrong identity's.
    """

    ssim: np.ndarray
    other: np.ndarray
    wrong: np.ndarray

    def picks(self) -> dict[str, int]:
        """The images reconstructed `best`, `median` and `worst`."""
        order = np.argsort(-self.ssim, kind="stable")
        return {
            "best": int(order[0]),
            "median": int(order[(len(order) - 1) // 2]),
            "worst": int(order[-1]),
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class ReconstructionReport:
    """What features give away.

    Attributes:
        band: the verdict, from the leak by the judging critic.
        why_undetermined: sentences, empty for the other bands.
        leak: of the judging critic.
        judge: its name among `critics`.
        critics: a row each.
        likeness: of the reconstruction and of the three controls.
        calibrated_ssim: see `leak.calibrated_ssim`; None values where another photo is no liker than the
            mean face.
        held_out: whether the attack works.
        num_people, num_images, num_folds: of the victims; `num_genuine`, `num_wrong` pairs that were judged.
        window: of the SSIM, in pixels; its Gaussian has sigma 1.5, the data range is 1.
        warnings: sentences to read before the numbers.
        strips: one per fold.
        draws: by name, float64 `[num_draws]` each: with equal victims and seed, of the same people for two
            models, so that differences are paired.
        meta: seed and numbers of the measurement.
    """

    band: Band
    why_undetermined: tuple[str, ...]
    leak: Estimate
    judge: str
    critics: tuple[CriticRow, ...]
    likeness: tuple[LikenessRow, ...]
    calibrated_ssim: Estimate
    held_out: HeldOut
    num_people: int
    num_images: int
    num_folds: int
    num_genuine: int
    num_wrong: int
    window: int
    warnings: tuple[str, ...]
    strips: tuple[Strip, ...] = field(repr=False)
    draws: Mapping[str, np.ndarray] = field(repr=False)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, as what `json.dumps` takes; what cannot be said is None."""
        names = [f.name for f in dataclasses.fields(self) if f.name not in ("strips", "draws")]
        return {name: plain(getattr(self, name)) for name in names}

    def summary(self) -> str:
        """A few lines for a terminal."""
        lines = [
            f"Privacy risk {self.band.value}: leak {self.leak.percent()} by {self.judge}, "
            f"{self.num_images} images of {self.num_people} victims, {self.num_folds} folds"
        ]
        lines += [f"  {reason}" for reason in self.why_undetermined]
        for row in self.critics:
            lines.append(
                f"{row.name}: type I {row.type1.percent()}, type II {row.type2.percent()} of at most "
                f"{row.genuine.percent()}, others' {row.wrong.percent()}, mean face "
                f"{row.mean_face.percent()}, rank-1 {100 * row.rank1.rate:.0f}% (real photos "
                f"{100 * row.rank1_real.rate:.0f}%)"
            )
        lines.append("SSIM " + ", ".join(f"{row.name} {_number(row.ssim)}" for row in self.likeness))
        lines.append(f"Calibrated SSIM {_number(self.calibrated_ssim)}")
        lines.append("Intervals: 95%, by resampling victims.")
        return "\n".join([*lines, *(f"Warning: {warning}" for warning in self.warnings)])


def _number(estimate: Estimate) -> str:
    return "–" if estimate.value is None else f"{estimate.value:.3f}"
