"""Fisherfaces (Belhumeur et al., IEEE TPAMI 19(7), 1997): the floor of face verification, and a critic.

It shares nothing with the nets that are audited, neither gradients nor features, so that its opinion on a
reconstruction is an independent one. NumPy only: fitted in a second, never attacked.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from jaxrobust import _validate

_FORMAT = "jaxrobust PCALDA 1"


@dataclass(frozen=True, eq=False)
class PCALDA:
    """A linear embedding of images, made by `fit`.

    Attributes:
        mean: float64 `[h w c]`, the mean of the training images.
        projection: float64 `[h w c, d]`.
        image_shape: `(h, w, c)`.
    """

    mean: NDArray
    projection: NDArray
    image_shape: tuple[int, int, int]

    def embed(self, images: ArrayLike) -> NDArray:
        """Unit vectors float32 `[n, d]` of images `[n, h, w, c]`, float in [0, 1]; of the mean image zeros.

        Raises:
            ValueError: for other shapes, 8-bit images and values that are not finite.
        """
        rows = _rows(images, self.image_shape)
        projected = (rows - self.mean) @ self.projection
        length = np.linalg.norm(projected, axis=1, keepdims=True)
        return (projected / np.where(length > 0, length, 1)).astype(np.float32)

    def save(self, path: str | os.PathLike) -> None:
        """Writes an `.npz` file that `load` reads."""
        with Path(path).open("wb") as stream:
            np.savez(
                stream,
                format=_FORMAT,
                mean=self.mean,
                projection=self.projection,
                image_shape=np.asarray(self.image_shape),
            )


def load(path: str | os.PathLike) -> PCALDA:
    """What `PCALDA.save` wrote.

    Raises:
        ValueError: for files that are missing, damaged, or of something else.
    """
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # the reader raises errors of many kinds on damaged files
        raise ValueError(f"Cannot read {path}: {error}") from error
    if str(arrays.get("format")) != _FORMAT:
        raise ValueError(f"{path} was not written by PCALDA.save.")
    h, w, c = (int(size) for size in arrays["image_shape"])
    return PCALDA(arrays["mean"], arrays["projection"], (h, w, c))


def fit(
    images: ArrayLike,
    identity: ArrayLike,
    *,
    variance: float = 0.9,
    num_directions: int | None = None,
    regularisation: float = 0.1,
) -> PCALDA:
    r"""Principal components, then the directions that part people best.

    The p largest principal components are kept that hold a share of the variance; in their space, the d
    directions w of the largest

    .. math:: \frac{w^T S_B w}{w^T (S_W + \lambda \frac{\mathrm{tr} S_W}{p} I) w}

    (eqs. (4) and (5), with S_B and S_W the scatter between and within people, weighted by their images),
    scaled to the denominator 1. Deviation: the paper has lambda = 0 and p = n - k, where S_W is just
    invertible and its smallest eigenvalues, mostly chance, decide. After 24 people of ORL that is worse on
    unseen people than plain pixels (equal error rate 0.28 to 0.30, pixels 0.12); as here it is 0.10.

    Args:
        images: `[n, h, w, c]` of the training identities, float in [0, 1].
        identity: `[n]` integers.
        variance: the share that the p components hold, in (0, 1]; p is at most n - k for k people.
        num_directions: d, at most k - 1, the default.
        regularisation: lambda >= 0.

    Returns:
        The `PCALDA`.

    Raises:
        ValueError: fewer than two people, nobody with two images, or values out of range.

    >>> rng = np.random.default_rng(0)
    >>> people = rng.random((5, 1, 6, 6, 1))
    >>> images = np.clip(people + 0.05 * rng.normal(size=(5, 4, 6, 6, 1)), 0, 1).reshape(20, 6, 6, 1)
    >>> embedding = fit(images, np.repeat(np.arange(5), 4)).embed(images)
    >>> embedding.shape, bool((embedding[0] @ embedding[1]) > (embedding[0] @ embedding[4]))
    ((20, 4), True)
    """
    rows = _rows(images)
    people, index, counts = _people(identity, len(rows))
    d = len(people) - 1 if num_directions is None else num_directions
    _validate.at_least("num_directions", d, 1)
    _validate.within("num_directions", d, 1, len(people) - 1, "k people differ in k - 1 directions.")
    _validate.positive("variance", variance)
    _validate.within("variance", variance, 0.0, 1.0)
    _validate.non_negative("regularisation", regularisation)

    mean = rows.mean(0)
    _, singular, components = np.linalg.svd(rows - mean, full_matrices=False)
    held = np.cumsum(singular**2) / max(np.sum(singular**2), np.finfo(float).tiny)
    spanned = int((singular > singular[0] * 1e-10).sum())
    p = min(int(np.searchsorted(held, variance)) + 1, spanned, len(rows) - len(people))
    if p < d:
        raise ValueError(
            f"Expected at least num_directions={d} components, got {p} at variance={variance}. "
            "Raise variance, lower num_directions, or look whether the images are all alike."
        )
    components = components[:p].T
    z = (rows - mean) @ components
    centres = np.stack([z[index == i].mean(0) for i in range(len(people))])
    within = z - centres[index]
    s_w = within.T @ within
    s_w += regularisation * np.trace(s_w) / p * np.eye(p)
    s_b = (centres * counts[:, None]).T @ centres
    try:
        _, directions = linalg.eigh(s_b, s_w, subset_by_index=(p - d, p - 1))
    except linalg.LinAlgError:
        raise ValueError(
            f"The scatter within people is singular at regularisation={regularisation}. "
            "Raise it, or lower variance."
        ) from None
    # Largest quotient first; signs by the largest entry, so that other libraries give the same file.
    directions = directions[:, ::-1]
    projection = components @ directions
    largest = np.abs(projection).argmax(0)
    projection *= np.sign(projection[largest, np.arange(d)])
    h, w, c = np.shape(images)[1:]
    return PCALDA(mean, projection, (h, w, c))


def _rows(images: ArrayLike, image_shape: tuple[int, int, int] | None = None) -> NDArray:
    """Images as float64 `[n, h w c]`, checked."""
    array: Any = np.asarray(images)
    if array.ndim != 4 or (image_shape is not None and array.shape[1:] != image_shape):
        expected = "h, w, c" if image_shape is None else ", ".join(map(str, image_shape))
        raise ValueError(f"Expected images of shape [n, {expected}], got {list(array.shape)}.")
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"Expected float images in [0, 1], got {array.dtype}. Divide 8-bit images by 255.")
    if not np.isfinite(array).all():
        raise ValueError("Expected finite images, got NaN or infinity. Look at how they were read.")
    return array.reshape(len(array), -1).astype(np.float64)


def _people(identity: ArrayLike, num_images: int) -> tuple[NDArray, NDArray, NDArray]:
    """The identities there are, each image's place among them, and how many images each has; checked."""
    identity = np.asarray(identity)
    if identity.shape != (num_images,) or not np.issubdtype(identity.dtype, np.integer):
        raise ValueError(
            f"Expected one integer identity per image, [{num_images}], got {identity.dtype} "
            f"{list(identity.shape)}."
        )
    people, index, counts = np.unique(identity, return_inverse=True, return_counts=True)
    if len(people) < 2:
        raise ValueError(f"Expected images of at least 2 people, got {len(people)}.")
    if counts.max() < 2:
        raise ValueError(
            "Expected several images of a person, got one each: nothing says what varies within."
        )
    return people, index, counts
