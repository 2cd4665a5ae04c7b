"""Rematerialisation: a training pass that keeps what enters each block and computes the rest again."""

from jaxrobust.models._build import _Apply, build
from jaxrobust.types import Model


def with_remat(model: Model) -> Model:
    """The same model, with the same parameters, whose blocks are `jax.checkpoint`ed in train mode.

    The backward pass computes each block's activations a second time, just before it needs them, so that
    those of one block at a time are in memory (arXiv 1604.06174): about a third more arithmetic in a training
    pass, for nets and batches that would not fit. Gradients are equal. Eval mode is left alone: an attack
    asks for no gradient of the weights, so its passes keep little, and repeating them would cost the most.

    Args:
        model: from `build`, of a net that is made of blocks: `PreActResNet18`, `WideResNet`, `SpatialResNet`,
            `IResNet`, `MobileFaceNet`.

    Returns:
        A `types.Model`; equal arguments give equal models, which trace once.

    Raises:
        ValueError: for any other model.

    >>> from jaxrobust.models import WideResNet
    >>> model = with_remat(build(WideResNet(depth=10, widen_factor=1), (32, 32, 3)))
    >>> model.apply.module.remat
    True
    """
    if not isinstance(model.apply, _Apply) or not hasattr(model.apply.module, "remat"):
        owner = model.apply.module if isinstance(model.apply, _Apply) else model.apply
        name = getattr(owner, "__name__", type(owner).__name__)
        raise ValueError(
            "Expected a net made of blocks (PreActResNet18, WideResNet, SpatialResNet, IResNet, "
            f"MobileFaceNet) for remat, got {name}. Leave remat out; micro-batches save memory with any net."
        )
    return build(model.apply.module.clone(remat=True), model.image_shape)
