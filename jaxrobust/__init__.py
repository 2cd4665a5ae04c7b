"""jaxrobust: train, attack and audit image-recognition models in JAX.

`jaxrobust.attack(attack, logits_fn, x, y, key=key)` attacks any model that is a callable `images -> logits`,
`jaxrobust.attack_pairs` any verification model `images -> embeddings`;
the rooms below (`neighbourhoods`, `attacks`, `objectives`, `training`, `evaluation`, ...) hold the parts that
it is made of.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxrobust.attacks.frontend import attack, attack_pairs

__version__ = "0.1.0"

__all__ = ["__version__", "attack", "attack_pairs"]


def __getattr__(name: str) -> Any:
    """The two front ends and the rooms, imported on first use: `jaxrobust --help` does not wait for JAX."""
    if name in ("attack", "attack_pairs"):
        return getattr(importlib.import_module("jaxrobust.attacks.frontend"), name)
    try:
        return importlib.import_module(f"jaxrobust.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"jaxrobust.{name}":
            raise
        raise AttributeError(f"module 'jaxrobust' has no attribute {name!r}") from None
