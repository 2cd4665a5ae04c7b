"""What is compared. Neither JAX nor PyTorch."""

from typing import NamedTuple

MODEL, NUM_IMAGES = "mnist-srt", 32
TOY_IMAGES = 4
OURS, CAPTUM, LIMIT = "ours", "captum", "forward passes"
CORRELATION = 0.99
"""Of maps whose definitions agree, on the worst image."""


class Case(NamedTuple):
    """A map on both sides.

    Attributes:
        title: as the table calls it.
        rivals: who makes it.
        bar: the least ratio of Captum's time to ours; of RISE the greatest of ours to its forward passes.
        baseline: the level of what is absent.
        correlation: whether the definitions agree, so that maps are to correlate.
        note: where they differ.
    """

    title: str
    rivals: tuple[str, ...]
    bar: float | None
    baseline: float = 0.1
    correlation: bool = True
    note: str = ""


CASES = {
    "occlusion": Case("Occlusion 8x8, stride 4", (OURS, CAPTUM), 2.0),
    "integrated_gradients": Case("Integrated gradients, 20 steps", (OURS, CAPTUM), 2.0, note="midpoints"),
    "grad_cam": Case(
        "Grad-CAM, last convolution", (OURS, CAPTUM), 2.0, note="without ReLU, enlarged bilinearly"
    ),
    "gradient": Case("Gradient", (OURS, CAPTUM), None, note="signed"),
    "gradient_times_input": Case("Gradient x input", (OURS, CAPTUM), None, baseline=0.0),
    "smooth_grad": Case(
        "SmoothGrad, 400 noises",
        (OURS, CAPTUM),
        None,
        note="each side draws its own noise, whose rest of some percent is in the correlation",
    ),
    "rise": Case("RISE, 2,000 masks", (OURS, LIMIT), 1.2, correlation=False, note="Captum has none"),
}
SMOOTH = {"num": 400, "sigma": 0.1}
RISE = {"num": 2000, "cells": 7}
STEPS, WINDOW, STRIDE = 20, 8, 4
