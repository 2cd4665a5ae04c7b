"""PreActResNet-18 of random weights: `python -m benchmarks._speed.prepare_random ROOT MODEL`, in PyTorch.

BatchNorm's statistics are those of some training images, or activations would grow from layer to layer and
the gradient vanish; labels are what the net says, so that every image is right before an attack.
"""

import sys
from pathlib import Path

import torch

from benchmarks._parity import store
from benchmarks._parity.twin import to_torch
from benchmarks._speed import problem
from benchmarks._speed.preact import PreActResNet18


def main(root: Path, model: str) -> None:
    """Writes the problem."""
    given = store.read_arrays(store.model_dir(root, model) / "given.npz")
    torch.manual_seed(0)
    net = PreActResNet18()
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the mean over all batches seen, which is one
    with torch.no_grad():
        net.train()(to_torch(given["calibration"]))
        logits = net.eval()(to_torch(given["images"]))
    state = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    problem.save(
        root,
        model,
        state,
        {
            "module": "PreActResNet18",
            "fields": {},
            "num_images": len(logits),
            "experiment": "random weights",
        },
        images=given["images"],
        labels=logits.argmax(1).int().numpy(),
        logits=logits.numpy(),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
