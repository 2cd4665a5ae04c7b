"""What a list of pairs can and cannot say about a small false accept rate."""

from enum import StrEnum
from typing import NamedTuple

from jaxrobust import _validate
from jaxrobust.evaluation.roc import check_far

MIN_PAIRS = 10
MIN_IDENTITY_PAIRS = 1


class Resolved(StrEnum):
    """How far a TAR at a FAR can be trusted."""

    YES = "resolved"
    DESCRIPTIVE = "descriptive only"
    NO = "not resolved"


class Resolution(NamedTuple):
    """What a FAR means on a list of pairs.

    Attributes:
        far: the FAR asked about.
        level: `resolved`; `descriptive only`: a number of this list, no estimate for other people; `not
            resolved`: no number.
        impostor_pairs: how many accepted impostor pairs make up this FAR.
        identity_pairs: how many pairs of people, if the impostor pairs of two people fell together.
        words: the same as a sentence.
    """

    far: float
    level: Resolved
    impostor_pairs: float
    identity_pairs: float
    words: str


def resolution(far: float, num_impostor: int, num_identity_pairs: int) -> Resolution:
    """What a false accept rate means on so many impostor pairs of so many pairs of people.

    Two rules (ours). Fewer than 10 accepted pairs: the threshold hangs on single images, `not resolved`. And
    impostor pairs of the same two people are accepted together (two people look alike, or do not), so that
    the pairs of people are the sample: less than one of them at this FAR is `descriptive only`.

    Args:
        far: in (0, 1).
        num_impostor: impostor pairs of images, >= 1.
        num_identity_pairs: different pairs of people among them, >= 1.

    Returns:
        The `Resolution`.

    Raises:
        ValueError: numbers out of range.

    ORL's four test folds of ten people each:

    >>> [resolution(far, 18_000, 180).level.value for far in (0.01, 0.001, 0.0001)]
    ['resolved', 'descriptive only', 'not resolved']
    >>> print(resolution(0.001, 18_000, 180).words)
    FAR 0.1%: descriptive only: it is 18 of 18,000 impostor pairs, and 0.18 of 180 pairs of people.
    """
    check_far(far)
    _validate.at_least("num_impostor", num_impostor, 1)
    _validate.at_least("num_identity_pairs", num_identity_pairs, 1)
    # A product such as 0.001 * 10_000 may lie below 10 by rounding.
    pairs, people = far * num_impostor * (1 + 1e-9), far * num_identity_pairs * (1 + 1e-9)
    if pairs < MIN_PAIRS:
        level = Resolved.NO
    else:
        level = Resolved.YES if people >= MIN_IDENTITY_PAIRS else Resolved.DESCRIPTIVE
    words = (
        f"FAR {100 * far:.3g}%: {level.value}: it is {pairs:.3g} of {num_impostor:,} impostor pairs, and "
        f"{people:.3g} of {num_identity_pairs:,} pairs of people."
    )
    return Resolution(far, level, pairs, people, words)


def finest_far(num_impostor: int, num_identity_pairs: int) -> float:
    """The smallest FAR that is `resolved`; above 1 where none is.

    >>> round(finest_far(18_000, 180), 4)
    0.0056
    """
    _validate.at_least("num_impostor", num_impostor, 1)
    _validate.at_least("num_identity_pairs", num_identity_pairs, 1)
    return max(MIN_PAIRS / num_impostor, MIN_IDENTITY_PAIRS / num_identity_pairs)
