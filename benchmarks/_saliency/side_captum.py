"""Captum's maps on the PyTorch twin, each with the chunk size that is fastest here."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from captum import attr

from benchmarks._saliency import cases
from benchmarks._speed import _torch
from benchmarks._speed.problem import Problem

PACKAGES = ("captum", "torch")
CHUNKS = (1, 4, 16)
"""Windows of all images at once; of gradients, images at once as multiples of the batch."""


def bound(problem: Problem, name: str, baseline: float) -> Callable[[], np.ndarray]:
    """`run() -> maps [n, h, w]` of the logit of each image's label."""
    victim = _torch.load(problem)
    make = _MAKERS[name]
    runs = {chunk: make(victim, baseline, chunk) for chunk in (CHUNKS if make in _CHUNKED else CHUNKS[:1])}
    best = min(runs, key=lambda chunk: _time(runs[chunk])) if len(runs) > 1 else CHUNKS[0]
    return lambda: runs[best]().detach().sum(dim=1).numpy()


def _time(run: Callable[[], Any]) -> float:
    run()
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _occlusion(victim: Any, baseline: float, chunk: int) -> Callable[[], Any]:
    method = attr.Occlusion(victim.net)
    window, stride = (1, cases.WINDOW, cases.WINDOW), (1, cases.STRIDE, cases.STRIDE)

    def run() -> Any:
        with torch.no_grad():
            return method.attribute(
                victim.x,
                sliding_window_shapes=window,
                strides=stride,
                baselines=baseline,
                target=victim.y,
                perturbations_per_eval=chunk,
            )

    return run


def _integrated(victim: Any, baseline: float, chunk: int) -> Callable[[], Any]:
    method = attr.IntegratedGradients(victim.net)
    return lambda: method.attribute(
        victim.x,
        baselines=torch.full_like(victim.x, baseline),
        target=victim.y,
        n_steps=cases.STEPS,
        method="riemann_middle",
        internal_batch_size=chunk * len(victim.x),
    )


def _grad_cam(victim: Any, baseline: float, chunk: int) -> Callable[[], Any]:
    method = attr.LayerGradCam(victim.net, victim.net.feature_extractor.relu4)
    size = tuple(victim.x.shape[2:])
    return lambda: attr.LayerAttribution.interpolate(
        method.attribute(victim.x, target=victim.y), size, interpolate_mode="bilinear"
    )


def _gradient(victim: Any, baseline: float, chunk: int) -> Callable[[], Any]:
    method = attr.Saliency(victim.net)
    return lambda: method.attribute(victim.x.clone().requires_grad_(), target=victim.y, abs=False)


def _times_input(victim: Any, baseline: float, chunk: int) -> Callable[[], Any]:
    method = attr.InputXGradient(victim.net)
    return lambda: method.attribute(victim.x.clone().requires_grad_(), target=victim.y)


def _smooth(victim: Any, baseline: float, chunk: int) -> Callable[[], Any]:
    method = attr.NoiseTunnel(attr.Saliency(victim.net))

    def run() -> Any:
        torch.manual_seed(0)
        return method.attribute(
            victim.x.clone().requires_grad_(),
            nt_type="smoothgrad",
            nt_samples=cases.SMOOTH["num"],
            nt_samples_batch_size=chunk,
            stdevs=cases.SMOOTH["sigma"],
            target=victim.y,
            abs=False,
        )

    return run


_MAKERS = {
    "occlusion": _occlusion,
    "integrated_gradients": _integrated,
    "grad_cam": _grad_cam,
    "gradient": _gradient,
    "gradient_times_input": _times_input,
    "smooth_grad": _smooth,
}
_CHUNKED = {_occlusion, _integrated, _smooth}
