"""The attacks written by hand in eager PyTorch, with no work that they do not need.

Gradients of the images alone, bounds computed once, updates in place, forward passes without a graph, and
the logits of a gradient's pass used again wherever a verdict is due.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from benchmarks._parity.twin import Victim
from benchmarks._speed._torch import bound, load, logits, seed_all, to_numpy

__all__ = ["ATTACKS", "PACKAGES", "bound", "load", "logits", "seed_all", "to_numpy"]

PACKAGES = ("torch",)


def _gradient(victim: Victim, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the summed cross-entropy, and the logits."""
    images = images.detach().requires_grad_(True)
    out = victim.net(images)
    loss = functional.cross_entropy(out, victim.y, reduction="sum")
    return torch.autograd.grad(loss, images)[0], out.detach()


def _ascend(victim: Victim, start: torch.Tensor, eps: float, step: float, steps: int) -> torch.Tensor:
    """PGD in l_inf: sign steps, then both bounds at once."""
    low, high = (victim.x - eps).clamp_(0, 1), (victim.x + eps).clamp_(0, 1)
    images = start
    for _ in range(steps):
        gradient, _ = _gradient(victim, images)
        images = torch.clamp(gradient.sign_().mul_(step).add_(images), low, high)
    return images


def _fgsm(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    return _ascend(victim, victim.x, eps, eps, 1)


def _pgd(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    return _ascend(victim, victim.x, eps, eps * budget["step"], budget["steps"])


def _mi_fgsm(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    low, high = (victim.x - eps).clamp_(0, 1), (victim.x + eps).clamp_(0, 1)
    images, velocity = victim.x, torch.zeros_like(victim.x)
    for _ in range(budget["steps"]):
        gradient, _ = _gradient(victim, images)
        gradient /= gradient.abs().sum((1, 2, 3), keepdim=True).clamp_(min=1e-12)
        velocity.mul_(budget["decay"]).add_(gradient)
        images = torch.clamp(velocity.sign().mul_(eps / budget["steps"]).add_(images), low, high)
    return images


class _Nearest(NamedTuple):
    """The nearest adversarial so far and its squared length, inf where there is none."""

    images: torch.Tensor
    length: torch.Tensor

    @classmethod
    def none(cls, x: torch.Tensor) -> "_Nearest":
        return cls(x.clone(), x.new_full((len(x),), math.inf))

    def take(self, fooled: torch.Tensor, images: torch.Tensor, length: torch.Tensor) -> None:
        """In place."""
        nearer = fooled & (length < self.length)
        self.images[nearer], self.length[nearer] = images[nearer], length[nearer]


def _cw(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    del eps
    x, nearest = victim.x, _Nearest.none(victim.x)
    start = torch.atanh((2 * x - 1) * 0.999999)
    const = x.new_full((len(x),), budget["initial_const"])
    low, high = torch.zeros_like(const), torch.full_like(const, math.inf)
    for _ in range(budget["searches"]):
        hit = _descend(victim, start, const, nearest, budget)
        high, low = torch.where(hit, const, high), torch.where(hit, low, const)
        const = torch.where(high.isinf(), const * 10, (low + high) / 2)
    return nearest.images


def _descend(
    victim: Victim, start: torch.Tensor, const: torch.Tensor, nearest: _Nearest, budget: dict[str, Any]
) -> torch.Tensor:
    """Adam from the clean image with one c per image; whether each was fooled."""
    w = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([w], lr=budget["learning_rate"])
    hit = torch.zeros(len(start), dtype=torch.bool)
    for _ in range(budget["steps"]):
        images = (torch.tanh(w) + 1) / 2
        out = victim.net(images)
        own = out.gather(1, victim.y[:, None])[:, 0]
        other = out.scatter(1, victim.y[:, None], -math.inf).amax(1)
        length = (images - victim.x).square().sum((1, 2, 3))
        loss = (length + const * (own - other).clamp(min=0)).sum()
        (w.grad,) = torch.autograd.grad(loss, w)
        adam.step()
        with torch.no_grad():
            fooled = out.argmax(1) != victim.y
            nearest.take(fooled, images, length)
            hit |= fooled
    return hit


def _ddn(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    del eps
    x, nearest = victim.x, _Nearest.none(victim.x)
    norm = x.new_full((len(x), 1, 1, 1), budget["initial_norm"])
    farthest = _length(torch.maximum(x, 1 - x))
    images = x
    for k in range(budget["steps"]):
        gradient, out = _gradient(victim, images)
        fooled, delta = out.argmax(1) != victim.y, images - x
        nearest.take(fooled, images, delta.square().sum((1, 2, 3)))
        step = 0.01 + 0.99 * (1 + math.cos(math.pi * k / budget["steps"])) / 2
        delta.add_(gradient.div_(_length(gradient).clamp_(min=1e-12)), alpha=step)
        shrink = torch.where(fooled, 1 - budget["gamma"], 1 + budget["gamma"])
        norm = torch.minimum(norm * shrink[:, None, None, None], farthest)
        images = delta.mul_(norm / _length(delta).clamp_(min=1e-12)).add_(x).clamp_(0, 1)
    with torch.inference_mode():
        fooled = victim.fooled(images)
    nearest.take(fooled, images, (images - x).square().sum((1, 2, 3)))
    return nearest.images


def _length(images: torch.Tensor) -> torch.Tensor:
    """`[n, 1, 1, 1]` in l2."""
    return torch.linalg.vector_norm(images, dim=(1, 2, 3), keepdim=True)


def _moved(x: torch.Tensor, angle: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Images rotated about their centre, then translated, both bilinear: `angle [n]`, `shift [n, 2]`.

    One pose `[1]` for all images is one grid of coordinates, which all of them share.
    """
    h, w = x.shape[2:]
    whole = shift.floor()
    part = shift - whole
    y = torch.arange(-1, h) - (h - 1) / 2 - whole[:, :1]
    z = torch.arange(-1, w) - (w - 1) / 2 - whole[:, 1:]
    radians = torch.deg2rad(angle)[:, None, None]
    cos, sin = radians.cos(), radians.sin()
    rows, columns = cos * y[:, :, None] + sin * z[:, None], cos * z[:, None] - sin * y[:, :, None]
    where = torch.stack([columns * 2 / (w - 1), rows * 2 / (h - 1)], -1)
    turned = functional.grid_sample(x, where.expand(len(x), -1, -1, -1), align_corners=True)
    down, right = part[:, :1, None, None], part[:, 1:, None, None]
    turned = torch.lerp(turned[:, :, 1:], turned[:, :, :-1], down)
    return torch.lerp(turned[..., 1:], turned[..., :-1], right)


def _worst(victim: Victim, poses: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Of each image the pose that fools, of those the one of the highest loss, else the highest loss."""
    with torch.inference_mode():
        best, score = victim.x.clone(), torch.full((len(victim.x),), -math.inf)
        for angle, shift in poses:
            images = _moved(victim.x, angle, shift)
            better, value = _judged(victim, images, score)
            score = torch.where(better, value, score)
            best[better] = images[better]
        return best


def _judged(victim: Victim, images: torch.Tensor, score: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether images are worse for the model than the score so far, and theirs."""
    out = victim.net(images)
    loss = functional.cross_entropy(out, victim.y, reduction="none")
    value = torch.where(out.argmax(1) != victim.y, loss + 1e6, loss)
    return value > score, value


def _rand_adv(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    del eps
    limits = torch.tensor([budget["angle"], budget["shift"], budget["shift"]])
    draws = limits * (2 * torch.rand(budget["draws"], len(victim.x), 3) - 1)
    return _worst(victim, ((draw[:, 0], draw[:, 1:]) for draw in draws))


def _grid_adv(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    del eps
    return _worst(victim, _grid(budget))


def _grid_first(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    """Of each image the first pose that fools; it leaves the batch then. The image itself where none does."""
    del eps
    with torch.inference_mode():
        found, left = victim.x.clone(), torch.arange(len(victim.x))
        x, y = victim.x, victim.y
        for angle, shift in _grid(budget):
            images = _moved(x, angle, shift)
            fooled = victim.net(images).argmax(1) != y
            if fooled.any():
                found[left[fooled]] = images[fooled]
                left, x, y = left[~fooled], x[~fooled], y[~fooled]
                if not len(left):
                    break
        return found


def _grid(budget: dict[str, Any]) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """`angle [1]` and `shift [1, 2]` of each pose."""
    shifts = torch.linspace(-budget["shift"], budget["shift"], budget["shifts"])
    angles = torch.linspace(-budget["angle"], budget["angle"], budget["angles"])
    poses = torch.cartesian_prod(shifts, shifts, angles)
    return ((pose[2:], pose[None, :2]) for pose in poses)


def _pgd_plus(victim: Victim, eps: float, budget: dict[str, Any]) -> torch.Tensor:
    radius = budget["pixel_eps"]
    best, score = victim.x.clone(), torch.full((len(victim.x),), -math.inf)
    for _ in range(budget["restarts"]):
        start = (victim.x + torch.empty_like(victim.x).uniform_(-radius, radius)).clamp_(0, 1)
        images = _ascend(victim, start, radius, radius * budget["step"], budget["steps"])
        with torch.inference_mode():
            better, value = _judged(victim, images, score)
        score, best[better] = torch.where(better, value, score), images[better]
    return _grid_adv(victim._replace(x=best), eps, budget)


ATTACKS = {
    "fgsm": ("eager", _fgsm),
    "pgd": ("eager", _pgd),
    "mi_fgsm": ("eager", _mi_fgsm),
    "cw": ("eager", _cw),
    "ddn": ("eager", _ddn),
    "rand_adv": ("eager", _rand_adv),
    "grid_adv": ("eager", _grid_adv),
    "grid_first": ("eager", _grid_first),
    "pgd_plus": ("eager", _pgd_plus),
}
