"""Where a number comes from: exact configuration, radii, versions and hardware."""

import dataclasses
import functools
import importlib.metadata
import math
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrobust.types import Ball


def describe(value: Any) -> Any:
    """A configuration as JSON: `{"kind": class, fields...}`; functions and arrays' dtypes by name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    return getattr(value, "__name__", None) or type(value).__name__


def neighbourhoods(value: Any) -> list[Any]:
    """The neighbourhoods inside an attack, in the order of its fields; the outermost of each branch."""
    if hasattr(value, "ascent") and hasattr(value, "project"):
        return [value]
    if isinstance(value, list | tuple):
        return [found for item in value for found in neighbourhoods(item)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [found for f in dataclasses.fields(value) for found in neighbourhoods(getattr(value, f.name))]
    return []


def radii(attack: Any) -> list[dict[str, Any]]:
    """The exact radii of an attack, one dict per neighbourhood; those of an ensemble's members once each."""
    found = [describe(neighbourhood) for neighbourhood in neighbourhoods(attack)]
    if isinstance(getattr(attack, "attacks", None), tuple):
        return [radius for at, radius in enumerate(found) if radius not in found[:at]]
    return found


def _number(value: float) -> str:
    """0.3, 8/255 or 0.031: a multiple of 1/255 is written as one."""
    levels = value * 255
    if 0 < value < 0.5 and abs(levels - round(levels)) < 1e-6 and round(value, 3) != value:
        return f"{round(levels)}/255"
    return f"{value:.6g}"


_BALLS = {"LInf": "ℓ∞", "L2": "ℓ2", "L1": "ℓ1"}


def _colour(config: Mapping[str, Any]) -> str:
    """`hue ±20°, contrast ±0.3 per pixel`: the limits that are not 0."""
    parts = [
        f"{name} ±{value:g}{'°' if name == 'hue' else ''}"
        for name, value in config.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and value
    ]
    return (", ".join(parts) or "identity") + (" per pixel" if config.get("per_pixel") else "")


def _one_radius(config: Mapping[str, Any]) -> str:
    if config["kind"] in _BALLS:
        return f"{_BALLS[config['kind']]} {_number(config['eps'])}"
    if config["kind"] == "L0":
        return f"ℓ0 {_number(config['eps'])}{' features' if config.get('features') else ' px'}"
    if config["kind"] == "Masked":
        return f"{_one_radius(config['neighbourhood'])} in the mask"
    if config["kind"] == "UniformNoise":
        return f"noise ±{_number(config['eps'])}"
    if config["kind"] == "GaussianNoise":
        return f"noise σ {_number(config['sigma'])}"
    if config["kind"] == "ColourShift":
        return _colour(config)
    if config["kind"] == "RotationTranslation":
        parts = []
        if config["max_angle"]:
            parts.append(f"±{config['max_angle']:g}°")
        if config["max_shift"]:
            parts.append(f"±{config['max_shift']:g} px")
        return ", ".join(parts) or "identity"
    if "parts" in config:
        return " & ".join(_one_radius(part) for part in config["parts"])
    numbers = [
        f"{name} {value:g}"
        for name, value in config.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return f"{config['kind']} {', '.join(numbers)}".strip()


def radius_label(attack: Any) -> str:
    """The radii for a reader, e.g. `ℓ∞ 0.3` or `±30°, ±3 px`; stages joined by `then`, members by `or`.

    >>> radius_label(None)
    ''
    """
    joint = " or " if isinstance(getattr(attack, "attacks", None), tuple) else " then "
    return joint.join(_one_radius(config) for config in radii(attack))


def single_ball(attack: Any) -> Any | None:
    """The one ball that an attack looks in; None for composites and geometry."""
    found = neighbourhoods(attack)
    return found[0] if found and isinstance(found[0], Ball) and len(set(found)) == 1 else None


def single_eps(attack: Any) -> float | None:
    """The radius of an attack on one ball, in the norm's own units; None for composites and geometry."""
    ball = single_ball(attack)
    return None if ball is None else float(ball.eps)


def single_norm(attack: Any) -> float | None:
    """p of the one ball that an attack looks in; None for composites and geometry."""
    ball = single_ball(attack)
    return None if ball is None else float(ball.norm)


def norm_name(norm: float | None) -> float | str | None:
    """p as JSON takes it: 0, 1, 2 or `"inf"`."""
    return norm if norm is None else "inf" if math.isinf(norm) else int(norm)


def member_label(attack: Any) -> str:
    """A member of an ensemble for a reader: `APGD`, `APGD-T`, `APGD (dlr)`, `FAB-T`, `Square`."""
    name = type(attack).__name__ + ("-T" if getattr(attack, "num_targets", 0) else "")
    loss = next((f for f in _fields(attack) if f.name == "loss_fn"), None)
    chosen = getattr(attack, "loss_fn", None)
    named = loss is not None and chosen is not loss.default and not getattr(attack, "num_targets", 0)
    return f"{name} ({describe(chosen)})" if named else name


def _fields(value: Any) -> tuple[Any, ...]:
    return dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # A checkout that is run without installation knows its version by itself.
        return getattr(sys.modules.get(package), "__version__", "not installed")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    packages = ("jaxrobust", "jax", "jaxlib", "flax", "numpy")
    return {"python": platform.python_version(), **{name: _version(name) for name in packages}}


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def hardware() -> str:
    """The default device, e.g. `cpu: AMD EPYC 7763, 2 cores` or `gpu: NVIDIA A100 x 4`."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"cpu: {_cpu_name()}, {os.cpu_count()} cores"
    return f"{device.platform}: {device.device_kind} x {jax.device_count()}"
