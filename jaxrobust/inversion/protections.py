"""Mitigations of leaking features, as values: the same objects are an attacker's threat model.

Each is a function of one image's features alone. Gradients go straight through rounding (arXiv 1308.3432):
who attacks knows how features are protected.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust import _validate
from jaxrobust.types import Array, PyTree


@dataclass(frozen=True, kw_only=True)
class Truncated:
    """The first `keep` numbers of a vector.

    >>> Truncated(keep=2)(jnp.array([[1.0, 2.0, 3.0]]), (), None).tolist()
    [[1.0, 2.0]]
    """

    keep: int
    random: ClassVar[bool] = False
    fitted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _validate.at_least("keep", self.keep, 1)

    def fit(self, values: Array) -> PyTree:
        """No arrays."""
        _check_fits("keep", self.keep, values.shape)
        return ()

    def __call__(self, values: Array, state: PyTree, keys: Array | None) -> Array:
        """`[b, d]` to `[b, keep]`."""
        _check_fits("keep", self.keep, values.shape)
        return values[:, : self.keep]


@dataclass(frozen=True, kw_only=True)
class Principal:
    """The first `keep` principal components, about the mean of the features that it was fitted to."""

    keep: int
    random: ClassVar[bool] = False
    fitted: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _validate.at_least("keep", self.keep, 1)

    def fit(self, values: Array) -> PyTree:
        """Mean `[d]` and directions `[d, keep]`, each with its largest entry positive."""
        _check_fits("keep", self.keep, values.shape)
        if len(values) <= self.keep:
            raise ValueError(
                f"Expected more than keep={self.keep} images to fit principal components to, got "
                f"{len(values)}. Give more, or keep fewer."
            )
        rows = np.asarray(values, np.float64)
        mean = rows.mean(0)
        directions = np.linalg.svd(rows - mean, full_matrices=False)[2][: self.keep].T
        largest = np.abs(directions).argmax(0)
        directions = directions * np.sign(directions[largest, np.arange(self.keep)])
        return jnp.asarray(mean, jnp.float32), jnp.asarray(directions, jnp.float32)

    def __call__(self, values: Array, state: PyTree, keys: Array | None) -> Array:
        """`[b, d]` to `[b, keep]`."""
        mean, directions = state
        return jnp.matmul(values - mean, directions, precision=jax.lax.Precision.HIGHEST)


@dataclass(frozen=True, kw_only=True)
class Quantised:
    """Every number rounded to one of 2^bits levels, evenly spaced between -s and s.

    s, the largest absolute value of the image's own features, is published with them. One bit leaves signs.

    >>> Quantised(bits=1)(jnp.array([[1.0, 0.2, -0.4]]), (), None).tolist()
    [[0.5, 0.5, -0.5]]
    """

    bits: int
    random: ClassVar[bool] = False
    fitted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _validate.at_least("bits", self.bits, 1)
        _validate.within("bits", self.bits, 1, 16, "Float32 features have 24.")

    def fit(self, values: Array) -> PyTree:
        """No arrays."""
        return ()

    def __call__(self, values: Array, state: PyTree, keys: Array | None) -> Array:
        """`[b, ...]` of the same shape; the middles of the levels."""
        axes = tuple(range(1, values.ndim))
        scale = jnp.max(jnp.abs(values), axis=axes, keepdims=True)
        width = 2 * jnp.where(scale > 0, scale, 1) / 2**self.bits
        level = jnp.clip(jnp.floor((values + scale) / width), 0, 2**self.bits - 1)
        rounded = jnp.where(scale > 0, (level + 0.5) * width - scale, 0)
        # Exactly the levels: v + (r - v) differs from r by rounding, which would tell equal levels apart.
        return jax.lax.stop_gradient(rounded) + (values - jax.lax.stop_gradient(values))


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """Gaussian noise whose expected length is `ratio` times the features' own.

    Without keys nothing is added: that is what an attacker computes of images of his own.
    """

    ratio: float
    random: ClassVar[bool] = True
    fitted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _validate.positive("ratio", self.ratio, "Leave the protection out for no noise.")

    def fit(self, values: Array) -> PyTree:
        """No arrays."""
        return ()

    def __call__(self, values: Array, state: PyTree, keys: Array | None) -> Array:
        """`[b, ...]` of the same shape; row i draws from `keys[i]`."""
        if keys is None:
            return values
        axes = tuple(range(1, values.ndim))
        deviation = self.ratio * jnp.sqrt(jnp.mean(jnp.square(values), axis=axes, keepdims=True))
        noise = jax.vmap(lambda key: jax.random.normal(key, values.shape[1:]))(keys)
        return values + jax.lax.stop_gradient(deviation) * noise


@dataclass(frozen=True, kw_only=True)
class TopK:
    """The `keep` largest numbers, for logits; all others are raised to the smallest that is kept.

    So their order and distances are gone, and the predicted class stays; hence at least two.

    >>> TopK(keep=2)(jnp.array([[3.0, -1.0, 2.0, 0.0]]), (), None).tolist()
    [[3.0, 2.0, 2.0, 2.0]]
    """

    keep: int
    random: ClassVar[bool] = False
    fitted: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _validate.at_least("keep", self.keep, 2, "1 would make all equal, and the class would be gone.")

    def fit(self, values: Array) -> PyTree:
        """No arrays."""
        _check_fits("keep", self.keep, values.shape)
        return ()

    def __call__(self, values: Array, state: PyTree, keys: Array | None) -> Array:
        """`[b, k]` of the same shape."""
        _check_fits("keep", self.keep, values.shape)
        return jnp.maximum(values, jax.lax.top_k(values, self.keep)[0][:, -1:])


PROTECTIONS: dict[str, type[Any]] = {
    "truncated": Truncated,
    "principal": Principal,
    "quantised": Quantised,
    "noisy": Noisy,
    "top_k": TopK,
}


def _check_fits(name: str, number: int, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless the features are vectors of at least so many numbers."""
    if len(shape) != 2:
        raise ValueError(f"Expected features [b, d] to keep some of, got shape {list(shape)}, a map.")
    if number > shape[1]:
        raise ValueError(f"Expected {name} <= {shape[1]}, the features there are, got {name}={number}.")
