"""A tiny run as a program of its own, for tests that kill it or start it on two 'hosts'.

`python -m tests.training.program OUT --steps 30 ...` writes OUT/final.npz and OUT/metrics.jsonl.
"""

import argparse
import os
import sys
import time
from pathlib import Path


def main() -> int:
    """Trains; returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--wrapper", default="auto")
    parser.add_argument("--devices", type=int, default=None)
    parser.add_argument("--distributed", action="store_true")
    parser.add_argument("--save-every", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds per step, to be killed in")
    options = parser.parse_args()

    from jaxrobust.training import runtime as runtime_module

    if options.distributed:
        runtime_module.initialise_distributed()
    import jax
    import numpy as np

    from jaxrobust.training import (
        Checkpoints,
        Interrupted,
        JsonLines,
        Runtime,
        Wrapper,
        eval_weights,
    )
    from tests.common.tiny import tiny_feed, tiny_fit

    class Slow:
        """A sink that takes its time, so that a signal finds the run at work."""

        def rewind(self, step: int) -> None:
            print("ready", flush=True)

        def write(self, step: int, metrics: dict) -> None:
            time.sleep(options.delay)

        def close(self) -> None:
            pass

    def validate(state) -> dict[str, float]:
        params, _ = eval_weights(state)
        return {"norm": float(sum(np.abs(np.asarray(leaf)).sum() for leaf in jax.tree.leaves(params)))}

    runtime = Runtime(wrapper=Wrapper(options.wrapper), num_devices=options.devices)
    checkpoints = None
    if options.save_every:
        checkpoints = Checkpoints(
            options.out / "checkpoints",
            config={"steps": options.steps},
            save_every=options.save_every,
            best_metric="norm",
        )
    try:
        state = tiny_fit(
            options.steps,
            feed=tiny_feed(process_index=jax.process_index(), process_count=jax.process_count()),
            runtime=runtime,
            checkpoints=checkpoints,
            validate_fn=validate,
            validate_every=11,
            sinks=(JsonLines(options.out / "metrics.jsonl"), Slow()),
        )
    except Interrupted as stop:
        print(stop, flush=True)
        return stop.exit_code
    leaves = {jax.tree_util.keystr(p): np.asarray(x) for p, x in jax.tree_util.tree_leaves_with_path(state)}
    options.out.mkdir(parents=True, exist_ok=True)
    np.savez(options.out / f"final_{jax.process_index()}.npz", **leaves)
    return 0


if __name__ == "__main__":
    # Set here as well, since the program runs without pytest's conftest.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
