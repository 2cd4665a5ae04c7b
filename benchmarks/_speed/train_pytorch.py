"""The same steps of training in a straightforward eager PyTorch loop."""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks._parity import store, twin
from benchmarks._speed import _torch, train_data

PACKAGES = ("torch",)
assert _torch  # it has subnormal numbers flushed to zero


class Trainer:
    """A net, its optimizer, the images, and a step for each objective."""

    def __init__(
        self,
        name: str,
        settings: dict[str, Any],
        folder: Path,
        *,
        layout: torch.memory_format,
        fixed: bool = False,
    ):
        self._name, self._settings, self._layout, self._fixed = name, settings, layout, fixed
        dropout = 0.0 if fixed else settings["dropout"]
        self._net = _with_dropout(store.read_arrays(folder / "state_dict.npz"), dropout)
        self._net.to(memory_format=layout)
        self._optimizer = torch.optim.SGD(
            self._net.parameters(),
            lr=settings["learning_rate"],
            momentum=settings["momentum"],
            weight_decay=settings["weight_decay"],
        )
        images, labels, unlabelled = train_data.images(settings)
        self._images, self._unlabelled = (
            torch.from_numpy(np.ascontiguousarray(part.transpose(0, 3, 1, 2)))
            for part in (images, unlabelled)
        )
        self._labels = torch.from_numpy(labels).long()
        self._made = 0
        torch.manual_seed(0)
        self._orders = [torch.randperm(len(self._images)), torch.randperm(len(self._unlabelled))]

    def step(self) -> None:
        """One step on the next batch."""
        rows = (self._settings["labelled"], self._settings["unlabelled"])
        where = [self._next(order, count) for order, count in zip(self._orders, rows)]
        x, y = self._floats(self._images[where[0]]), self._labels[where[0]]
        loss = getattr(self, f"_{self._name}")(x, y, self._floats(self._unlabelled[where[1]]))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._made += 1

    def parameters(self) -> dict[str, np.ndarray]:
        """By name."""
        return {name: value.detach().contiguous().numpy() for name, value in self._net.named_parameters()}

    def _next(self, order: torch.Tensor, count: int) -> torch.Tensor:
        begin = self._made * count % max(len(order) - count + 1, 1)
        return torch.arange(count) if self._fixed else order[begin : begin + count]

    def _floats(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(torch.float32, memory_format=self._layout).div_(255)

    def _at(self, x: torch.Tensor, y: torch.Tensor, unlabelled: torch.Tensor) -> torch.Tensor:
        moved = self._attack(x, lambda out: functional.cross_entropy(out, y, reduction="sum"))
        return functional.cross_entropy(self._net.train()(moved), y)

    def _srt(self, x: torch.Tensor, y: torch.Tensor, unlabelled: torch.Tensor) -> torch.Tensor:
        everything = torch.cat([x, unlabelled])
        with torch.no_grad():
            target = self._net.eval()(everything).argmax(1)
        moved = self._attack(everything, lambda out: functional.cross_entropy(out, target, reduction="sum"))
        self._net.train()
        robust = functional.cross_entropy(self._net(moved), target)
        return functional.cross_entropy(self._net(x), y) + self._settings["lam"] * robust

    def _trades(self, x: torch.Tensor, y: torch.Tensor, unlabelled: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            target = functional.softmax(self._net.eval()(x), 1)

        def divergence(out: torch.Tensor) -> torch.Tensor:
            return functional.kl_div(functional.log_softmax(out, 1), target, reduction="sum")

        moved = self._attack(x, divergence, near=True)
        self._net.train()
        clean, out = self._net(x), self._net(moved)
        robust = functional.kl_div(
            functional.log_softmax(out, 1), functional.softmax(clean, 1), reduction="batchmean"
        )
        return functional.cross_entropy(clean, y) + self._settings["beta"] * robust

    def _attack(
        self, x: torch.Tensor, loss_fn: Callable[[torch.Tensor], torch.Tensor], *, near: bool = False
    ) -> torch.Tensor:
        """PGD on the net in eval mode, without gradients of its weights."""
        eps, step = self._settings["eps"], self._settings["eps"] * self._settings["step"]
        low, high = (x - eps).clamp_(0, 1), (x + eps).clamp_(0, 1)
        if self._fixed:
            noise = torch.from_numpy(train_data.nudge(train_data.SHAPE, 0.001)).permute(2, 0, 1)
        elif near:
            noise = torch.randn_like(x).mul_(self._settings["near"])
        else:
            noise = torch.empty_like(x).uniform_(-eps, eps)
        images = (x + noise).clamp_(0, 1)
        self._net.eval().requires_grad_(False)
        for _ in range(self._settings["steps"]):
            images.requires_grad_(True)
            (gradient,) = torch.autograd.grad(loss_fn(self._net(images)), images)
            images = torch.clamp(gradient.sign_().mul_(step).add_(images.detach()), low, high)
        self._net.requires_grad_(True)
        return images


def _with_dropout(state: dict[str, np.ndarray], rate: float) -> nn.Module:
    """SmallCNN with dropout behind its first hidden layer."""
    net = twin.build(state)
    layers = OrderedDict(net.classifier.named_children())
    found: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in layers.items():
        found[name] = layer
        if name == "relu1":
            found["drop"] = nn.Dropout(rate)
    net.classifier = nn.Sequential(found)
    return net.requires_grad_(True)
