"""Who may attack whom: an inverse model that has seen its victims proves nothing."""

import hashlib
from collections.abc import Sequence

import numpy as np

from jaxrobust.data import Identities

People = Sequence[int] | np.ndarray


def check_attackers(identities: Identities, attackers: People, victims: People) -> None:
    """Raises ValueError unless the attacker's people and the victims are others, and so are their images.

    Args:
        identities: the set.
        attackers: the people (indices into `identities.names`) whom the inverse model is trained, chosen and
            checked on.
        victims: those whose images it is to reconstruct.

    Raises:
        ValueError: for people who are both, victims with fewer than two images, and for an image of a victim
            that is there under an attacker's name too.
    """
    for what, people in (("attackers", attackers), ("victims", victims)):
        given = np.asarray(people, np.int64)
        outside = given[(given < 0) | (given >= identities.num_people)]
        if not len(given) or len(outside):
            raise ValueError(
                f"Expected {what} among the people 0 .. {identities.num_people - 1} of {identities.name}, "
                f"got {outside[0] if len(outside) else 'none'}."
            )
    both = np.intersect1d(attackers, victims)
    if len(both):
        raise ValueError(
            f"{len(both)} people are attackers and victims, {identities.names[both[0]]!r} among them: an "
            "inverse model that was trained on its victims shows what it remembers, not what features leak. "
            "Take people that it has not seen, such as the test people of another fold."
        )
    check_two_images(identities.identity[identities.images_of(victims)], identities.names)
    check_images_apart(
        *(np.asarray(identities.images[identities.images_of(some)]) for some in (attackers, victims))
    )


def check_images_apart(attackers: np.ndarray, victims: np.ndarray) -> None:
    """Raises ValueError where an image `[h, w, c]` of the victims is among the attacker's, pixel for pixel.

    For classifiers, whose classes are everybody's, this alone keeps the two apart.
    """
    seen = {hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest() for image in attackers}
    same = [
        i
        for i, image in enumerate(victims)
        if hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest() in seen
    ]
    if same:
        raise ValueError(
            f"{len(same)} images of the victims are the attacker's too, the victims' image {same[0]} first. "
            "Divide them so that no image is in both."
        )


def check_two_images(identity: np.ndarray, names: Sequence[str] = ()) -> None:
    """Raises ValueError where somebody has fewer than two images: there is no other photo to match."""
    people, counts = np.unique(identity, return_counts=True)
    lonely = people[counts < 2]
    if len(lonely):
        who = names[int(lonely[0])] if names else int(lonely[0])
        raise ValueError(
            f"{len(lonely)} of {len(people)} victims have one image, {who!r} among them: type-II acceptance "
            "compares with another photo of the person. Leave them out, or add images."
        )


def overlap(identities: Identities, people: People, trained_on: People) -> str:
    """A sentence on how many of these people the model itself was trained on, which is to be stated.

    >>> two = Identities(np.zeros((2, 1, 1, 1), np.uint8), np.arange(2), ("a", "b"), "", "two")
    >>> overlap(two, [0, 1], [1])
    'The model was trained on 1 of these 2 people (b).'
    """
    known = np.intersect1d(people, trained_on)
    names = ", ".join(str(identities.names[i]) for i in known[:5]) + (", ..." if len(known) > 5 else "")
    who = f" ({names})" if len(known) else ""
    return f"The model was trained on {len(known) or 'none'} of these {len(np.unique(people))} people{who}."
