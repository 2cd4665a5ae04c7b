"""What all sides in PyTorch share: the net, the images, seeds, verdicts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks._parity import store, twin
from benchmarks._parity.twin import Victim
from benchmarks._speed.preact import PreActResNet18
from benchmarks._speed.problem import Problem

# Saturated nets have gradients of 1e-40, over which processors take a hundred times as long; XLA flushes
# them to zero too. Before any parallel region, for threads inherit it.
torch.set_flush_denormal(True)


def net_of(problem: Problem) -> nn.Module:
    """The net in eval mode, without gradients of its weights."""
    state = store.read_arrays(problem.folder / "state_dict.npz")
    if problem.module == "SmallCNN":
        return twin.build(state)
    assert problem.module == "PreActResNet18", problem.module
    net = PreActResNet18(**problem.fields)
    net.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return net.eval().requires_grad_(False)


def load(problem: Problem) -> Victim:
    """The net and all images."""
    labels = torch.from_numpy(problem.labels).long()
    return Victim(net_of(problem), twin.to_torch(problem.images), labels, problem.logits.shape[1])


def bound(
    victim: Victim, count: int, entry: tuple[str, Callable], eps: float, settings: dict[str, Any]
) -> Callable[[int], Any]:
    """`run(seed) -> images`: an entry of `ATTACKS` with its budget, on the first images."""
    victim = victim._replace(x=victim.x[:count], y=victim.y[:count])

    def run(seed: int) -> Any:
        return entry[1](victim._replace(seed=seed), eps, settings)

    return run


def seed_all(seed: int) -> None:
    """Of the global generators, from which the peers draw."""
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def to_numpy(images: torch.Tensor | np.ndarray) -> np.ndarray:
    """`[n, h, w, c]` in [0, 1]."""
    return np.clip(twin.to_numpy(images), 0, 1)


def logits(victim: Victim, images: np.ndarray) -> np.ndarray:
    """`images [n, h, w, c] -> logits [n, k]`."""
    return twin.logits(victim.net, images)
