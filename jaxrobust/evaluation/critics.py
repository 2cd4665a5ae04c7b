"""Critics: who decides whether a reconstruction shows a person, and from which similarity on."""

from typing import NamedTuple

import numpy as np

from jaxrobust import _validate
from jaxrobust.data import Identities, Pairs
from jaxrobust.evaluation import _embed
from jaxrobust.evaluation._embed import EmbedFn
from jaxrobust.evaluation._verification_scores import check_pairs_of
from jaxrobust.evaluation.roc import check_far, roc, tar_at_far


class Critic(NamedTuple):
    """An embedding with its threshold.

    Attributes:
        embed_fn: any callable, images float32 `[b, h, w, c]` in [0, 1] -> embeddings `[b, d]`.
        threshold: pairs of a cosine at least this are accepted.
        far: the share of impostor pairs that it accepts on the validation pairs.
        tar: and of genuine ones.
    """

    embed_fn: EmbedFn
    threshold: float
    far: float
    tar: float


def calibrated_critic(
    embed_fn: EmbedFn,
    identities: Identities,
    validation: Pairs,
    *,
    far: float = 0.01,
    batch_size: int = 64,
) -> Critic:
    """A critic whose threshold has a false accept rate on validation people, who are no victims.

    Args:
        embed_fn: the victim model's, or better an independent one's such as `models.pca_lda.fit(...).embed`.
        identities: the set.
        validation: pairs of people who are not tested.
        far: in (0, 1).
        batch_size: images per call, always exactly so many.

    Returns:
        The `Critic`.

    Raises:
        ValueError: a FAR outside (0, 1), pairs of another set or of one kind only, embeddings that are not
            finite.
    """
    check_far(far)
    _validate.at_least("batch_size", batch_size, 1)
    check_pairs_of(identities, validation, "validation pairs")
    index = np.unique(np.concatenate([validation.first, validation.second]))
    units = _embed.embed(embed_fn, identities, index, batch_size)
    places = (np.searchsorted(index, rows) for rows in (validation.first, validation.second))
    point = tar_at_far(roc(_embed.cosines(units, *places), validation.genuine), far)
    assert point.threshold is not None
    return Critic(embed_fn, point.threshold, point.far, point.tar)
