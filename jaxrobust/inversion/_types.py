"""What the room speaks of: functions from images to features, and what protects features."""

from collections.abc import Callable
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

from jaxrobust.types import Array, PyTree

FeaturesFn: TypeAlias = Callable[..., Array]
"""`features_fn(images [b, h, w, c], keys=None) -> features [b, ...]`, row by row.

With `keys` `[b]` these are the features as they are published, with whatever noise protects them; without,
what the model makes of an image before any noise, which is what somebody who owns the model can compute of
images of his own."""


@runtime_checkable
class Protection(Protocol):
    """What is done to features before they are stored or published: a frozen, hashable dataclass.

    Attributes:
        random: whether it draws from keys.
        fitted: whether its arrays are fitted to features of images, so that it needs some.
    """

    random: ClassVar[bool]
    fitted: ClassVar[bool]

    def fit(self, values: Array) -> PyTree:
        """Its arrays, from features `[n, d]` of images that are nobody's secret; `()` for most."""
        ...

    def __call__(self, values: Array, state: PyTree, keys: Array | None) -> Array:
        """Features `[b, ...]` to what is published of them; differentiable, straight through rounding."""
        ...
