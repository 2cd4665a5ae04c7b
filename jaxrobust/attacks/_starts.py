"""Where an iterative attack starts: `start_fn(key, neighbourhood, ex) -> theta` on one example, inside."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import jax

from jaxrobust import _validate
from jaxrobust.types import Array, Example, Neighbourhood, Theta

StartFn: TypeAlias = Callable[[Array, Neighbourhood, Example], Theta]


def identity_start(key: Array, neighbourhood: Neighbourhood, ex: Example) -> Theta:
    """The clean image."""
    del key
    return neighbourhood.init(ex)


def uniform_start(key: Array, neighbourhood: Neighbourhood, ex: Example) -> Theta:
    """A random element of the neighbourhood, as in Madry et al., arXiv:1706.06083."""
    return neighbourhood.sample(key, ex)


@dataclass(frozen=True, kw_only=True)
class NearStart:
    r"""$\theta_0 = \Pi(\sigma\,\mathcal{N}(0, 1))$: noise about the clean image (TRADES, arXiv:1901.08573).

    KL losses have no gradient at the clean image itself, so the start must leave it a little.

    Args:
        sigma: in units of `theta`, which are pixels for the lp balls; >= 0.

    Raises:
        ValueError: for a negative or non-finite sigma.
    """

    sigma: float = 0.001

    def __post_init__(self) -> None:
        _validate.non_negative("sigma", self.sigma)

    def __call__(self, key: Array, neighbourhood: Neighbourhood, ex: Example) -> Theta:
        """The identity plus noise on every entry of theta, projected."""
        leaves, treedef = jax.tree.flatten(neighbourhood.init(ex))
        keys = jax.random.split(key, len(leaves))
        noisy = [
            leaf + self.sigma * jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves)
        ]
        return neighbourhood.project(ex, jax.tree.unflatten(treedef, noisy))


def near_start(sigma: float = 0.001) -> NearStart:
    """`NearStart(sigma=sigma)`: the clean image plus Gaussian noise."""
    return NearStart(sigma=sigma)
