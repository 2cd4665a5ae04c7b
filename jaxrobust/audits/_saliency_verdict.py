"""What may be signed after a saliency audit, and what stands against it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from jaxrobust.evaluation import Estimate
from jaxrobust.numerics.metrics import wilson_interval

LOW_BELOW, HIGH_ABOVE = 0.1, 0.5


class Sensitivity(StrEnum):
    """How many decisions fall when the salient region is perturbed; see `SaliencyReport.verdict`."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    UNDETERMINED = "UNDETERMINED"


class Verdict(NamedTuple):
    """What may be signed.

    The interval is the wider of the bootstrap's and Wilson's for as many people (or images) as were
    resampled: where none or all flip, resampling them shows no spread.

    Attributes:
        sensitivity: of the headline's flips, worst over maps: LOW where the interval lies below 10%, HIGH
            where it lies above 50%, MEDIUM otherwise. UNDETERMINED where there is no interval, where the
            regions are those of another model's maps, and where LOW would rest on maps that found nothing: a
            single one, constant ones, regions without pixels, or maps that no insertion or deletion curve
            tells from noise.
        localised: whether the interval of the headline's excess over the first control lies above 0 (True),
            or below (False); None where it holds 0, or is a single point.
        sentence: both in words, with their numbers.
    """

    sensitivity: Sensitivity
    localised: bool | None
    sentence: str


class Row(Protocol):
    """What a verdict reads of a `SaliencyRow`."""

    @property
    def perturbation(self) -> str: ...
    @property
    def area(self) -> float: ...
    @property
    def flips(self) -> Estimate: ...
    @property
    def excess(self) -> Mapping[str, Estimate]: ...


@dataclass(frozen=True, kw_only=True)
class Grounds:
    """What a verdict rests on.

    Attributes:
        num_maps: that were audited. num_right: decisions that were right before. num_units: people, or
            images, that are resampled.
        pointless: the share of maps that are constant, or whose region has no pixel.
        informative: whether a map's insertion or deletion curve is better than noise's; None: not looked at.
        foreign: whether the regions are another model's.
        control: by which the excess is spoken of; None without controls.
    """

    num_maps: int
    num_right: int
    num_units: int
    pointless: float
    informative: bool | None
    foreign: bool
    control: str | None


def verdict_of(worst: Row, grounds: Grounds) -> Verdict:
    """See `Verdict`; `worst` is the headline's row over all maps."""
    flips = widened(worst.flips, grounds.num_units)
    excess = worst.excess[grounds.control] if grounds.control else Estimate(None)
    localised = None
    if excess.low is not None and excess.high is not None and excess.low < excess.high:
        localised = True if excess.low > 0 else False if excess.high < 0 else None
    if flips.value is None or flips.low is None or flips.high is None:
        why = f"{grounds.num_right} decisions are too few, or of too few people, to say"
        return Verdict(Sensitivity.UNDETERMINED, localised, f"{Sensitivity.UNDETERMINED}: {why}.")
    maps = "another model's maps point" if grounds.foreign else "the maps point"
    said = (
        f"perturbing {100 * worst.area:.0f}% of the image where {maps} ({worst.perturbation}) flips "
        f"{flips.percent()} of the decisions that were right"
    )
    if excess.value is not None:
        where = "which these data do not tell from chance"
        if localised is not None:
            where = "so the model looks there" if localised else "so the model looks elsewhere"
        said += f"; that is {points(excess)} more than {_elsewhere(grounds.control)}, {where}"
    level, doubt = Sensitivity.MEDIUM, ""
    if flips.low > HIGH_ABOVE:
        level = Sensitivity.HIGH
    elif flips.high < LOW_BELOW:
        level = Sensitivity.LOW
        doubt = _doubt(grounds)
    if grounds.foreign:
        doubt = "regions of another model say nothing of how sensitive this one is where it looks itself"
    if doubt:
        level = Sensitivity.UNDETERMINED
        said += f". But {doubt}"
    return Verdict(level, localised, f"{level}: {said}.")


def _doubt(grounds: Grounds) -> str:
    """Why few flips do not show that the model is robust; empty where they do."""
    if grounds.num_maps == 1:
        return "one map alone may have missed where the model looks: audit several"
    if grounds.pointless >= 0.5:
        return "half of the maps point nowhere: they are constant, or their regions have no pixel"
    if grounds.informative is None:
        return "whether any map finds what carries the decision was not looked at (num_sanity=0)"
    if not grounds.informative:
        return "no map finds what carries the decision better than noise does"
    return ""


def widened(rate: Estimate, num: int) -> Estimate:
    """A rate's interval and Wilson's for `num` independent ones, the lower and the higher end of both.

    >>> widened(Estimate(0.0, 0.0, 0.0), 40).percent()
    '0.0% (0.0-8.8)'
    """
    if rate.value is None or rate.low is None or rate.high is None or num < 2:
        return Estimate(rate.value)
    low, high = wilson_interval(round(rate.value * num), num)
    return Estimate(rate.value, min(rate.low, low), max(rate.high, high))


def _elsewhere(control: str | None) -> str:
    words = {
        "rolled": "where the same region lies at a random place",
        "others": "where another's region lies",
        "centre_disc": "on as large a disc about the centre",
    }
    return words.get(str(control), str(control))


def points(difference: Estimate) -> str:
    """`30.4 (19.9 to 44.4) points`."""
    if difference.value is None:
        return "–"
    interval = ""
    if difference.low is not None and difference.high is not None:
        interval = f" ({100 * difference.low:.1f} to {100 * difference.high:.1f})"
    return f"{100 * difference.value:.1f}{interval} points"
