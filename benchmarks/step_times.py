"""Time of a PGD step and of a training step of SmallCNN: naive JAX, this library, eager PyTorch.

    python -m benchmarks.step_times [--batch-size 256] [--rounds 7] [--out benchmarks/results/step_times.json]

A PGD step is the input gradient, a sign step and the two projections, `--steps` of them in one `fori_loop`;
the time is per step. A training step is the gradients of all weights. The rivals take turns in every round,
and ratios compare times of one round. PyTorch is left out where it cannot be imported (`make bench` has it).
"""

import argparse
import functools
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks import _small_cnn, _timing
from jaxrobust.numerics import compile

REFERENCE = "ours"


def _jax_rivals(data: _small_cnn.Problem, steps: int) -> dict[str, tuple[Callable, Callable]]:
    params, images, labels = jax.device_put(tuple(data))
    rivals = {
        "naive JAX": (_small_cnn.NAIVE, jax.jit),
        "naive JAX, our jit": (_small_cnn.NAIVE, compile.jit),
        "our layers, plain jit": (_small_cnn.OURS, jax.jit),
        REFERENCE: (_small_cnn.OURS, compile.jit),
    }

    def blocking(fn: Callable) -> Callable:
        return lambda: jax.block_until_ready(fn(params, images, labels))

    return {
        name: tuple(blocking(jit(fn)) for fn in _small_cnn.jax_steps(block, steps))
        for name, (block, jit) in rivals.items()
    }


def _torch_rivals(data: _small_cnn.Problem, steps: int) -> dict[str, tuple[Callable, Callable]]:
    try:
        import torch
    except ImportError:
        return {}
    return {
        name: _small_cnn.torch_steps(torch, data, steps, channels_last)
        for name, channels_last in (("PyTorch", False), ("PyTorch, channels last", True))
    }


def _check_agreement(rivals: dict[str, tuple[Callable, Callable]]) -> None:
    """Refuses to time rivals that compute different things: attacked images, the last layer's gradient."""
    attacked, expected = np.asarray(rivals[REFERENCE][0]()), rivals[REFERENCE][1]()[-1][0]
    for name, (attack, train) in rivals.items():
        # Signs of gradients near 0 differ by rounding, and then whole steps do: a few pixels may.
        differing = np.mean(np.abs(np.asarray(attack()) - attacked) > 1e-3)
        gradient = train()[-2].numpy().T if name.startswith("PyTorch") else train()[-1][0]
        assert differing < 0.01, f"{name} attacks otherwise in {differing:.1%} of the pixels"
        np.testing.assert_allclose(gradient, expected, rtol=1e-2, atol=1e-5, err_msg=name)


def measure(batch_size: int, steps: int, rounds: int) -> dict:
    """All rivals in turns; the report as a JSON-able dict."""
    data = _small_cnn.problem(batch_size)
    rivals = _jax_rivals(data, steps) | _torch_rivals(data, steps)
    _check_agreement(rivals)
    pgd = _timing.in_turns({name: pair[0] for name, pair in rivals.items()}, rounds)
    train = _timing.in_turns({name: pair[1] for name, pair in rivals.items()}, rounds)
    pgd = {name: [t / steps for t in times] for name, times in pgd.items()}
    summary = functools.partial(_timing.summary, reference=REFERENCE)
    return {
        "batch_size": batch_size,
        "pgd_steps_per_loop": steps,
        "rounds": rounds,
        "pgd_step": summary(pgd),
        "train_step": summary(train),
        "jax": jax.__version__,
        "backend": jax.default_backend(),
        "compiler_options": compile.cpu_options(),
        "machine": {"cpus": os.cpu_count(), "arch": platform.machine(), "load": os.getloadavg()[0]},
    }


def main() -> None:
    """Measures, prints the two tables and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10, help="PGD steps in one loop")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "step_times.json")
    options = parser.parse_args()
    report = measure(options.batch_size, options.steps, options.rounds)
    for kind in ("pgd_step", "train_step"):
        print(_timing.table(f"{kind}, batch {options.batch_size}", report[kind]), end="\n\n")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
