"""jaxrobust: train, attack and audit image-recognition models in JAX.

`jaxrobust.attack(attack, logits_fn, x, y, key=key)` attacks any model that is a callable `images -> logits`;
the rooms below (`neighbourhoods`, `attacks`, `objectives`, `training`, `evaluation`, ...) hold the parts that
it is made of.
"""

from jaxrobust.attacks.frontend import attack

__version__ = "0.1.0"

__all__ = ["__version__", "attack"]
