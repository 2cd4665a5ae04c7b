"""The leak score of a privacy audit and its bands; CN111539382A leaves both open, so they are ours."""

from enum import StrEnum

import numpy as np

from jaxrobust.evaluation._verification_report import Estimate
from jaxrobust.numerics.metrics import wilson_interval

LOW, HIGH = 0.1, 0.5
LEAST_GENUINE = 0.3


class Band(StrEnum):
    """How much a model's features give away."""

    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    UNDETERMINED = "UNDETERMINED"


def leak_score(type2: float, wrong: float, genuine: float) -> float:
    """clip((T2 - c) / (G - c), 0, 1): type-II acceptance between chance and a real photo.

    0: a reconstruction is taken for its person as seldom as somebody else's; 1: as often as another photo.

    Args:
        type2: T2, how often the critic accepts a reconstruction against another photo of its person.
        wrong: c, how often against a photo of another person.
        genuine: G, how often it accepts two photos of one person.

    Returns:
        The score; NaN where G <= c, as then the critic tells nobody from anybody.

    >>> leak_score(0.5, 0.02, 0.75)
    0.6575342465753424
    """
    span = genuine - wrong
    return float(np.clip((type2 - wrong) / span, 0, 1)) if span > 0 else float("nan")


def calibrated_ssim(reconstruction: float, mean_face: float, other_photo: float) -> float:
    """(SSIM of the reconstruction - of the mean face) / (of another photo - of the mean face).

    0: no better than the mean face; 1: as like as another photo of the person. NaN where another photo is no
    more like than the mean face.
    """
    span = other_photo - mean_face
    return (reconstruction - mean_face) / span if span > 0 else float("nan")


def doubts(
    *,
    over_mean: Estimate,
    over_wrong: Estimate,
    genuine: Estimate,
    genuine_over_wrong: Estimate,
    leak: Estimate,
    num_victims: int,
    constant: bool,
    least_genuine: float = LEAST_GENUINE,
) -> tuple[str, ...]:
    """Why nothing can be said of a leak: sentences; none where something can.

    A failed attack says nothing of what a better one would find, and so is never LOW. Whether it failed is
    seen on people whom the attacker holds out: the reconstruction must be liker than the mean face, and liker
    than the reconstruction of somebody else. (The second is ours: a decoder that does not look at its input
    learns one face, and that may be liker than the mean.) Both by the lower limit of their intervals. And
    where none of a few victims is recognised, resampling them shows no spread, however few they are: LOW
    needs so many that none of them would put Wilson's interval below its bound, which is 35 (ours, too).

    Args:
        over_mean: SSIM of the reconstruction less that of the mean face, on held-out attackers.
        over_wrong: less that of somebody else's reconstruction, on the same.
        genuine: G of the critic.
        genuine_over_wrong: G - c.
        leak: the score.
        num_victims: how many were resampled: people, or images.
        constant: whether the features are the same whatever the image.
        least_genuine: a critic that accepts fewer genuine pairs is no judge; 0.3 is ours.
    """
    said = []
    if constant:
        said.append("The features are constant: there is nothing to invert.")
    for gain, whom in ((over_mean, "the mean face"), (over_wrong, "the reconstruction of somebody else")):
        if gain.low is None or gain.low <= 0:
            said.append(
                f"On held-out attackers the reconstruction does not beat {whom} (SSIM {_signed(gain)}): the "
                "attack failed, which does not say that a better one would."
            )
    if genuine.value is None or genuine.value < least_genuine:
        share = "–" if genuine.value is None else f"{100 * genuine.value:.0f}%"
        said.append(
            f"The critic accepts {share} of the genuine pairs of the victims, less than "
            f"{100 * least_genuine:.0f}%: it does not know people well enough to judge."
        )
    elif genuine_over_wrong.low is None or genuine_over_wrong.low <= 0:
        said.append("The critic accepts others' reconstructions as often as real photos: it is no judge.")
    if not said and (leak.low is None or leak.high is None):
        said.append("There are too few people for an interval of the leak.")
    most = wilson_interval(0, num_victims)[1]
    if not said and leak.high is not None and leak.high < LOW <= most:
        said.append(
            f"{num_victims} victims are too few for LOW: where none of so many is recognised, up to "
            f"{100 * most:.0f}% of all may be."
        )
    return tuple(said)


def band_of(leak: Estimate, why_not: tuple[str, ...]) -> Band:
    """LOW if the interval lies below 0.1, HIGH if above 0.5, else MEDIUM; UNDETERMINED with doubts.

    >>> band_of(Estimate(0.02, 0.0, 0.09), ()).value, band_of(Estimate(0.7, 0.4, 0.9), ()).value
    ('LOW', 'MEDIUM')
    """
    if why_not or leak.low is None or leak.high is None:
        return Band.UNDETERMINED
    if leak.high < LOW:
        return Band.LOW
    return Band.HIGH if leak.low > HIGH else Band.MEDIUM


def _signed(gain: Estimate) -> str:
    if gain.value is None:
        return "not known"
    limits = "" if gain.low is None or gain.high is None else f" ({gain.low:+.3f} to {gain.high:+.3f})"
    return f"{gain.value:+.3f}{limits}"
