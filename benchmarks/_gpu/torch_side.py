"""PyTorch's side: the same work in a process of its own, which idles while ours runs.

A straightforward loop with what PyTorch recommends: channels_last, autocast for bfloat16, TensorFloat-32 for
float32 (as XLA has it), cuDNN's search for the fastest algorithm, a fused optimizer, no gradients of weights
in the attack; once eager and once with the net under torch.compile.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks._gpu.torch_wrn import WideResNet
from benchmarks._speed.preact import PreActResNet18
from benchmarks._speed.protocol import serve

NETS = {"preact": PreActResNet18, "wrn": WideResNet}


class Work(NamedTuple):
    """What a case is made of over here."""

    net: Callable[[torch.Tensor], torch.Tensor]
    module: nn.Module
    optimizer: torch.optim.Optimizer
    x: torch.Tensor
    y: torch.Tensor
    labelled: int
    case: dict[str, Any]

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.case["precision"] == "bf16"):
            return self.net(x).float()


class Session:
    """What the parent asks for."""

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.modules: dict[str, nn.Module] = {}
        self.calls: dict[str, Callable[[], None]] = {}
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
        torch.set_float32_matmul_precision("high")
        # Modes, precisions and batch sizes are programs of their own, more than the 8 that are allowed.
        torch._dynamo.config.cache_size_limit = 64

    def about(self) -> dict[str, str]:
        """Versions, and where it would run."""
        on_gpu = self.device.type == "cuda"
        name = torch.cuda.get_device_name() if on_gpu else "cpu"
        cuda, cudnn = str(torch.version.cuda), str(torch.backends.cudnn.version() if on_gpu else None)
        return {"version": torch.__version__, "cuda": cuda, "cudnn": cudnn, "device": name}

    def ping(self) -> None:
        """Answers, and leaves all as it is."""

    def make(self, net: str, fields: dict[str, Any], images: list, file: str) -> list:
        """Makes a net, keeps its state dict in a file, and gives its logits for NHWC images, on the CPU."""
        torch.manual_seed(0)
        module = NETS[net](**fields).eval()
        np.savez(file, **{name: value.numpy() for name, value in module.state_dict().items()})
        with torch.no_grad():
            logits = module(torch.tensor(images).permute(0, 3, 1, 2))
        self.modules[net] = module.to(self.device, memory_format=torch.channels_last)
        return logits.tolist()

    def prepare(self, variant: str, case: dict[str, Any], images: str) -> dict[str, float]:
        """Readies `eager` or `compile` for a case and makes two calls; `images` is a file with the batch."""
        start = time.perf_counter()
        module = self.modules[case["net"]]
        with np.load(images) as data:
            x = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).to(self.device)
            y = torch.from_numpy(data["labels"]).long().to(self.device)
        net = torch.compile(module, dynamic=False) if variant == "compile" else module
        optimizer = torch.optim.SGD(
            module.parameters(),
            lr=case["learning_rate"],
            momentum=0.9,
            weight_decay=5e-4,
            fused=self.device.type == "cuda",
        )
        x = x.contiguous(memory_format=torch.channels_last)
        work = Work(net, module, optimizer, x, y, case["labelled"], case)
        call = {"pgd20": lambda: _climb(work, x, y), "at": lambda: _at(work), "srt": lambda: _srt(work)}
        self.calls[variant] = call[case["work"]]
        for _ in range(2):
            self.calls[variant]()
        self._wait()
        return {"seconds": time.perf_counter() - start}

    def measure(self, variant: str, calls: int) -> float:
        """Seconds of so many calls."""
        self._wait()
        start = time.perf_counter()
        for _ in range(calls):
            self.calls[variant]()
        self._wait()
        return time.perf_counter() - start

    def release(self) -> dict[str, int]:
        """Forgets the case and gives memory back; the most that was held."""
        most = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0
        self.calls.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return {"peak_bytes": most}

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def _climb(work: Work, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """PGD from a random start, in eval mode: the last iterate."""
    eps, step = work.case["eps"], work.case["step_size"]
    work.module.eval().requires_grad_(False)
    image = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp_(0, 1)
    for _ in range(work.case["steps"]):
        image.requires_grad_(True)
        loss = functional.cross_entropy(work.logits(image), target, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, image)
        with torch.no_grad():
            image = image + step * gradient.sign()
            image = torch.minimum(torch.maximum(image, x - eps), x + eps).clamp_(0, 1)
    return image


def _at(work: Work) -> None:
    image = _climb(work, work.x, work.y)
    work.module.train().requires_grad_(True)
    _descend(work, functional.cross_entropy(work.logits(image), work.y))


def _srt(work: Work) -> None:
    """Two passes in train mode: the labelled images, and all of them attacked."""
    work.module.eval().requires_grad_(False)
    with torch.no_grad():
        target = work.logits(work.x).argmax(1)
    image = _climb(work, work.x, target)
    work.module.train().requires_grad_(True)
    clean = functional.cross_entropy(work.logits(work.x[: work.labelled]), work.y[: work.labelled])
    _descend(work, clean + functional.cross_entropy(work.logits(image), target))


def _descend(work: Work, loss: torch.Tensor) -> None:
    work.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    work.optimizer.step()


if __name__ == "__main__":
    serve(Session())
