"""What `verify` found, as values, as JSON and in words."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.evaluation.identification import Rank1
from jaxrobust.evaluation.platt import Platt
from jaxrobust.evaluation.resolution import Resolution
from jaxrobust.evaluation.view2 import View2


class Estimate(NamedTuple):
    """A number with its 95% interval over people; None where it cannot be said."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def percent(self) -> str:
        """`11.7% (9.8-13.4)`."""
        if self.value is None:
            return "–"
        interval = "" if self.low is None or self.high is None else f" ({_p(self.low)}-{_p(self.high)})"
        return f"{_p(self.value)}%{interval}"


def _p(value: float) -> str:
    return f"{100 * value:.1f}"


class TarAtFar(NamedTuple):
    """TAR at one FAR, on the pooled ROC of the pairs that are judged.

    Attributes:
        asked: the FAR asked for.
        far: the FAR achieved, at most that.
        tar: with its interval; None where the pairs cannot resolve the FAR.
        identity_pairs: from how many pairs of people the accepted impostor pairs come.
        resolution: what the number of pairs allows, also in words.
    """

    asked: float
    far: float | None
    tar: Estimate
    identity_pairs: int | None
    resolution: Resolution


class FoldRow(NamedTuple):
    """One fold: its own EER, and what its threshold from validation did to its test pairs.

    Attributes:
        fold: its number in the pair list.
        eer: on its own ROC; None without genuine pairs.
        platt: slope and threshold from validation pairs; None without any.
        validation_far: what the threshold achieved there.
        far, tar: what it achieved on the test pairs.
    """

    fold: int
    eer: float | None
    platt: Platt | None
    validation_far: float | None
    far: float | None
    tar: float | None


class Decisions(NamedTuple):
    """The decisions at the folds' validation thresholds, counted together.

    Attributes:
        asked: the FAR that the thresholds were to have, on validation pairs.
        far: achieved on the test pairs.
        tar: achieved there.
        accuracy: the mean of TAR and 1 - FAR, which does not depend on how many impostor pairs are listed.
    """

    asked: float
    far: Estimate
    tar: Estimate
    accuracy: Estimate


@dataclass(frozen=True, kw_only=True, eq=False)
class VerificationReport:
    """A verification model on a list of pairs.

    Attributes:
        model, dataset: names.
        fingerprint: of the set of people; `pairs` and `validation_pairs`: hashes of the lists (None without).
        num_people, num_images, num_genuine, num_impostor, num_identity_pairs, num_folds: of the test pairs;
            pairs of people are counted among the impostor pairs, in each fold.
        eer: on the ROC that pools the folds' decisions.
        tar_at_far: one entry per FAR asked for.
        decisions: at thresholds from validation; None without validation pairs.
        folds: one row per fold.
        view2: accuracy over folds as LFW's View 2; None for one fold, several models, or unequal numbers.
        rank1: identification among each fold's people, one gallery image a person; None where left out.
        warnings: sentences to read before the numbers.
        similarities: float64 `[m]`, of the pairs in their order.
        roc: (FAR, TAR) of the pooled curve, for plots.
        accepted: bool `[m]`, the decisions; None without validation pairs.
        draws: float64 `[num_draws, s]` of the bootstrap: EER, TAR at each FAR, then FAR, TAR and accuracy of
            the decisions; with the same pairs and seed, of the same people for two models.
        meta: seed, batch size, seconds, versions, hardware.
    """

    model: str
    dataset: str
    fingerprint: str
    pairs: str
    validation_pairs: str | None
    num_people: int
    num_images: int
    num_genuine: int
    num_impostor: int
    num_identity_pairs: int
    num_folds: int
    eer: Estimate
    tar_at_far: tuple[TarAtFar, ...]
    decisions: Decisions | None
    folds: tuple[FoldRow, ...]
    view2: View2 | None
    rank1: Rank1 | None
    warnings: tuple[str, ...]
    similarities: np.ndarray = field(repr=False)
    roc: tuple[np.ndarray, np.ndarray] = field(repr=False)
    accepted: np.ndarray | None = field(repr=False)
    draws: np.ndarray = field(repr=False)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, as what `json.dumps` takes; what cannot be said is None."""
        names = [f.name for f in dataclasses.fields(self)]
        left = {"similarities", "roc", "accepted", "draws"}
        found = {name: plain(getattr(self, name)) for name in names if name not in left}
        if self.rank1 is not None:
            found["rank1"]["rate"] = self.rank1.rate
        return found

    def summary(self) -> str:
        """A few lines for a terminal: the warnings last, so that they are seen."""
        lines = [
            f"{self.model or 'model'} on {self.dataset}: {self.num_genuine:,} genuine and "
            f"{self.num_impostor:,} impostor pairs of {self.num_people} people, {self.num_folds} folds",
            f"EER {self.eer.percent()}",
        ]
        for row in self.tar_at_far:
            if row.tar.value is not None and row.far is not None:
                lines.append(
                    f"TAR {row.tar.percent()} at FAR {100 * row.far:.3g}% (asked {100 * row.asked:.3g}%), "
                    f"whose false accepts come from {row.identity_pairs} pairs of people"
                )
            lines.append(f"  {row.resolution.words}")
        if self.decisions is not None:
            lines.append(
                f"Thresholds from validation, asked FAR {100 * self.decisions.asked:.3g}%: achieved FAR "
                f"{self.decisions.far.percent()}, TAR {self.decisions.tar.percent()}"
            )
        if self.view2 is not None:
            mean, error = 100 * self.view2.mean, 100 * self.view2.standard_error
            lines.append(f"Accuracy over {self.num_folds} folds (View 2): {mean:.2f}% +- {error:.2f}")
        if self.rank1 is not None:
            lines.append(
                f"Rank-1 {100 * self.rank1.rate:.1f}% of {self.rank1.num_probes} probes, one gallery image a "
                "person"
            )
        lines.append("Intervals: 95%, by resampling people.")
        return "\n".join([*lines, *(f"Warning: {warning}" for warning in self.warnings)])


def plain(value: Any) -> Any:
    """Named tuples as dicts, numpy as Python, NaN and infinity as None."""
    if hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
