"""Who attacks whom in a privacy audit: the sides of a fold, samples of them, and what identifies a victim."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.data import Identities, Pairs, make_pairs, to_float
from jaxrobust.evaluation.attackers import check_two_images
from jaxrobust.inversion import publish
from jaxrobust.numerics import callables
from jaxrobust.numerics.fidelity import check_window

_MOST = 100_000


class Division(NamedTuple):
    """People of one fold, indices into `Identities.names`; nobody is in two parts.

    Attributes:
        attackers: whose images the inverse model is trained on, and the critic fitted to.
        held_out: the attacker's too: for choices and thresholds, and to see whether the attack works.
        victims: whose images are reconstructed.
    """

    attackers: np.ndarray
    held_out: np.ndarray
    victims: np.ndarray


class Side(NamedTuple):
    """Some people's images.

    Attributes:
        images: uint8 `[n, h, w, c]`.
        identity: int64 `[n]`: person, or class.
        subjects: int64 `[n]`: what is resampled: people, or each image by itself.
    """

    images: np.ndarray
    identity: np.ndarray
    subjects: np.ndarray

    @property
    def pixels(self) -> np.ndarray:
        """float32 in [0, 1]."""
        return to_float(self.images)

    def at(self, index: np.ndarray) -> "Side":
        """These images."""
        return Side(*(values[index] for values in self))

    def as_set(self, name: str) -> tuple[Identities, Pairs]:
        """A set of these people alone, and pairs of their images: all, or of impostors a hundred thousand."""
        known, whose = np.unique(self.identity, return_inverse=True)
        names = tuple(str(one) for one in known)
        identities = Identities(self.images, whose.astype(np.int32), names, "", name)
        everyone = np.arange(len(known))
        return identities, make_pairs(identities, num_impostor=at_most(identities, everyone), seed=0)


class Fold(NamedTuple):
    """One model, one attacker, his victims.

    Attributes:
        number: of the fold.
        fn: images -> features, before any protection; a pytree of its arrays where it has any.
        attackers, held_out, victims: see `Division`.
    """

    number: int
    fn: Any
    attackers: Side
    held_out: Side
    victims: Side


def side_of(identities: Identities, people: Sequence[int] | np.ndarray) -> Side:
    """All images of some people."""
    index = identities.images_of(people)
    whose = identities.identity[index].astype(np.int64)
    return Side(np.asarray(identities.images[index]), whose, whose)


def side_of_images(images: Any, labels: Any, what: str) -> Side:
    """Images of classes, each resampled by itself; floats in [0, 1] go to the nearest of 256 levels."""
    pixels, classes = np.asarray(images), np.asarray(labels)
    if pixels.ndim != 4 or not len(pixels):
        raise ValueError(
            f"Expected images of the {what} [n, h, w, c], at least one, got {list(pixels.shape)}."
        )
    if classes.shape != pixels.shape[:1] or classes.dtype.kind not in "iu":
        raise ValueError(
            f"Expected a class as integer for each of the {len(pixels)} images of the {what}, got "
            f"{classes.dtype} {list(classes.shape)}."
        )
    if pixels.dtype != np.uint8:
        if pixels.dtype.kind != "f" or not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 1:
            raise ValueError(f"Expected images of the {what} as uint8, or floats in [0, 1] without NaN.")
        pixels = np.rint(255 * pixels).astype(np.uint8)
    return Side(pixels, classes.astype(np.int64), np.arange(len(pixels)))


def at_most(identities: Identities, people: np.ndarray) -> int | None:
    """All impostor pairs, or a hundred thousand of them."""
    counts = np.bincount(identities.identity[identities.images_of(people)]).astype(np.int64)
    every = (int(counts.sum()) ** 2 - int((counts**2).sum())) // 2
    return None if every <= _MOST else _MOST


def sampled(side: Side, num: int, seed: int) -> np.ndarray:
    """Indices, ascending, of about `num` images, as many of each person as of the others, two at least."""
    rng = np.random.default_rng((seed, 2))
    order = rng.permutation(len(side.identity))
    rank = np.empty(len(order), int)
    for one in np.unique(side.identity):
        own = order[side.identity[order] == one]
        rank[own] = np.arange(len(own))
    people = rng.permutation(np.unique(side.identity))[: max(num // 2, 2)]
    each = max(num // len(people), 2)
    return np.flatnonzero((rank < each) & np.isin(side.identity, people))


def digest_of(fn: Any, images: np.ndarray, batch_size: int) -> str:
    """16 hexadecimal digits that tell one victim from another.

    Of a function's arrays; where it has none, of its features of some images, rounded.
    """
    arrays = callables.split(fn, "the model")[1]
    digest = hashlib.sha256()
    for leaf in jax.device_get(arrays):
        digest.update(f"{leaf.dtype}{leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    if not arrays:
        digest.update(np.round(publish(fn, images, batch_size=batch_size), 4).tobytes())
    return digest.hexdigest()[:16]


def digest_of_images(*images: np.ndarray) -> str:
    """The same of images."""
    digest = hashlib.sha256()
    for some in images:
        digest.update(f"{some.dtype}{some.shape}".encode())
        digest.update(np.ascontiguousarray(some).tobytes())
    return digest.hexdigest()[:16]


def features_shape(features_fn: Any, image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """What a decoder takes: `(1, 1, d)` for vectors, `(h', w', c')` for maps."""
    found = jax.eval_shape(features_fn, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)).shape[1:]
    if len(found) == 1:
        return 1, 1, int(found[0])
    if len(found) == 3:
        return int(found[0]), int(found[1]), int(found[2])
    raise ValueError(f"Expected features of an image as a vector [d] or a map [h, w, c], got {list(found)}.")


def check_fold(fold: Fold, window: int) -> None:
    """Raises ValueError where a fold cannot be audited, or not with this window of the SSIM."""
    shape = fold.victims.images.shape[1:]
    check_window(shape, window, 1.5)
    sides = {"attackers": fold.attackers, "held-out attackers": fold.held_out, "victims": fold.victims}
    for what, side in sides.items():
        if side.images.shape[1:] != shape:
            raise ValueError(
                f"The {what} have images {list(side.images.shape[1:])}, the victims {list(shape)}. Bring "
                "them to one size."
            )
        people, counts = np.unique(side.identity, return_counts=True)
        if len(people) < 2 or counts.max() < 2:
            raise ValueError(
                f"Expected {what} of at least two people (or classes), somebody with two images, got "
                f"{len(people)} with at most {counts.max()} each."
            )
    lonely = np.unique(fold.held_out.identity, return_counts=True)[1]
    if lonely.min() < 2:
        raise ValueError(
            "A held-out attacker has one image: whether the attack works is seen by two of each. Leave such "
            "people out, or add images."
        )
    check_two_images(fold.victims.identity)
