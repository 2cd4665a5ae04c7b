"""Several neighbourhoods at once, in order: the joint composite of eq. (18) of CN111401445A."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxrobust.types import Array, Example, Neighbourhood, Theta


@dataclass(frozen=True, kw_only=True)
class Compose:
    r"""$T(x; \theta) = T_n(\ldots T_1(x; \theta_1) \ldots; \theta_n)$, every part within its own budget.

    `theta` is the tuple of the parts'; each part sees the image its predecessors made, and measures its
    distance from that image; the joint distance is the largest. An attack moves all parts at once; for the
    greedy composite, which maximises one part after the other, see `jaxrobust.attacks.Sequence`.

    Args:
        parts: the neighbourhoods, first applied first; at least one.

    Raises:
        ValueError: for no parts, or a part that is no neighbourhood.

    Example:
        >>> from jaxrobust.neighbourhoods import LInf, RotationTranslation
        >>> joint = Compose(parts=(RotationTranslation(max_angle=30.0, max_shift=3.0), LInf(eps=0.1)))
        >>> joint.scaled(0.5).parts[1]
        LInf(eps=0.05)
    """

    parts: tuple[Neighbourhood, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.parts, tuple) or not self.parts:
            raise ValueError(f"Expected parts to be a non-empty tuple of neighbourhoods, got {self.parts!r}.")
        for part in self.parts:
            if isinstance(part, type) or not isinstance(part, Neighbourhood):
                raise ValueError(f"Expected every part to be a neighbourhood, got {part!r}.")

    def _along(
        self, ex: Example, thetas_fn: Callable[[int, Neighbourhood, Example], Any]
    ) -> tuple[Theta, ...]:
        """Asks each part for its theta on the image its predecessors made."""
        thetas = []
        for i, part in enumerate(self.parts):
            thetas.append(thetas_fn(i, part, ex))
            ex = ex._replace(image=part.apply(ex, thetas[-1]))
        return tuple(thetas)

    def init(self, ex: Example) -> tuple[Theta, ...]:
        """Each part's identity."""
        return tuple(part.init(ex) for part in self.parts)

    def sample(self, key: Array, ex: Example) -> tuple[Theta, ...]:
        """A sample of each part, independent given the image it sees."""
        return self._along(ex, lambda i, part, seen: part.sample(jax.random.fold_in(key, i), seen))

    def apply(self, ex: Example, theta: tuple[Theta, ...]) -> Array:
        """The parts' transformations, first part first."""
        for part, own in zip(self.parts, theta, strict=True):
            ex = ex._replace(image=part.apply(ex, own))
        return ex.image

    def project(self, ex: Example, theta: tuple[Theta, ...]) -> tuple[Theta, ...]:
        """Projects part by part, each on the image that its projected predecessors made."""
        return self._along(ex, lambda i, part, seen: part.project(seen, theta[i]))

    def ascent(self, grad: tuple[Theta, ...]) -> tuple[Theta, ...]:
        """One radius in each part: the steepest direction for the largest of the distances."""
        return tuple(part.ascent(own) for part, own in zip(self.parts, grad, strict=True))

    def distance(self, ex: Example, theta: tuple[Theta, ...]) -> Array:
        """The largest of the parts' distances, each from the image that part sees."""
        distances = []
        for part, own in zip(self.parts, theta, strict=True):
            distances.append(part.distance(ex, own))
            ex = ex._replace(image=part.apply(ex, own))
        return jnp.stack(distances).max()

    def scaled(self, factor: float | Array) -> "Compose":
        """Every part scaled."""
        return Compose(parts=tuple(part.scaled(factor) for part in self.parts))
