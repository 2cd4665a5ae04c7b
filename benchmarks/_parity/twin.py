"""The PyTorch twin of an exported SmallCNN, and what the peers that attack it share."""

from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks._parity import store

TOLERANCE = 1e-4


class Victim(NamedTuple):
    """What a peer attacks: the net in eval mode, `x [n, c, h, w]` in [0, 1], `y [n]`, the number of classes.

    `y` are the labels, or, where `targeted`, the classes to lead to. Some attacks seed themselves by `seed`.
    """

    net: nn.Module
    x: torch.Tensor
    y: torch.Tensor
    num_classes: int
    targeted: bool = False
    seed: int = 0

    def fooled(self, images: torch.Tensor) -> torch.Tensor:
        """Whether each image reaches the attack's aim, `[n]`."""
        with torch.no_grad():
            hit = self.net(images).argmax(1) == self.y
        return hit if self.targeted else ~hit


def build(state: dict[str, np.ndarray]) -> nn.Module:
    """The net of a state dict with TRADES' names; dropout is left out, for it does nothing in eval mode."""
    features, classifier = OrderedDict(), OrderedDict()
    for i in range(1, 5):
        shape = state[f"feature_extractor.conv{i}.weight"].shape
        features[f"conv{i}"] = nn.Conv2d(shape[1], shape[0], shape[2:])
        features[f"relu{i}"] = nn.ReLU()
        if i % 2 == 0:
            features[f"pool{i}"] = nn.MaxPool2d(2)
    for i in range(1, 4):
        shape = state[f"classifier.fc{i}.weight"].shape
        classifier[f"fc{i}"] = nn.Linear(shape[1], shape[0])
        if i < 3:
            classifier[f"relu{i}"] = nn.ReLU()
    net = nn.Sequential(
        OrderedDict(
            feature_extractor=nn.Sequential(features),
            flatten=nn.Flatten(),
            classifier=nn.Sequential(classifier),
        )
    )
    net.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return net.eval().requires_grad_(False)


def load(root: Path, model: str) -> tuple[nn.Module, float]:
    """The twin of a prepared model and the largest difference of its logits from the model's.

    Raises:
        ValueError: where they differ by more than 1e-4.
    """
    problem = store.load_problem(root, model)
    net = build(store.read_arrays(store.model_dir(root, model) / "state_dict.npz"))
    difference = float(np.abs(logits(net, problem.images) - problem.logits).max())
    if not difference <= TOLERANCE:
        raise ValueError(f"Logits of the PyTorch twin of {model} differ by {difference:.2g} > {TOLERANCE}.")
    return net, difference


def logits(net: nn.Module, images: np.ndarray) -> np.ndarray:
    """`images [n, h, w, c] -> logits [n, k]`."""
    with torch.no_grad():
        return net(to_torch(images)).numpy()


def to_torch(images: np.ndarray) -> torch.Tensor:
    """`[n, h, w, c]` to a contiguous `[n, c, h, w]`."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def to_numpy(images: torch.Tensor | np.ndarray) -> np.ndarray:
    """`[n, c, h, w]` to float32 `[n, h, w, c]`."""
    array = images.detach().numpy() if isinstance(images, torch.Tensor) else images
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1), np.float32)


def nearest(victim: Victim, candidates: list[torch.Tensor], order: float) -> torch.Tensor:
    """Image by image the candidate that fools with the smallest norm (`order` 0: most often unchanged)."""
    best, least = victim.x.clone(), torch.full((len(victim.x),), torch.inf)
    for adversarial in candidates:
        delta = (adversarial - victim.x).flatten(1)
        length = (
            (delta.abs() > 1e-6).sum(1).float()
            if order == 0
            else torch.linalg.vector_norm(delta, order, dim=1)
        )
        better = victim.fooled(adversarial) & (length < least)
        best[better], least[better] = adversarial[better], length[better]
    return best
