"""`kill -9` at random moments: started again, the run ends bit for bit as one that was never killed."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrobust.training import JsonLines, eval_weights
from tests.common.tiny import tiny_fit

ROOT = Path(__file__).resolve().parents[2]
STEPS = 60


def start(out: Path) -> subprocess.Popen:
    options = ["--steps", str(STEPS), "--wrapper", "jit", "--devices", "1"]
    # About two seconds of training, a checkpoint about every tenth of a second.
    options += ["--save-every", "3", "--delay", "0.1"]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.program", str(out), *options],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_at(out: Path, delay: float, number: int) -> bool:
    """Sends a signal `delay` seconds after training began; whether the run was still going."""
    process = start(out)
    try:
        for line in process.stdout:
            if line.startswith("ready"):
                break
        time.sleep(delay)
        alive = process.poll() is None
        process.send_signal(number)
        process.communicate(timeout=120)
        return alive and process.returncode != 0
    finally:
        process.kill()
        process.wait()


def finish(out: Path) -> None:
    process = start(out)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output


def check(out: Path, delays: list[float], signals: list[int]) -> None:
    def validate(state):
        params, _ = eval_weights(state)
        return {"norm": float(sum(np.abs(np.asarray(leaf)).sum() for leaf in jax.tree.leaves(params)))}

    rows = JsonLines(out / "unbroken.jsonl")
    state = tiny_fit(STEPS, sinks=(rows,), validate_fn=validate, validate_every=11)
    killed = [kill_at(out / "run", delay, number) for delay, number in zip(delays, signals)]
    assert any(killed)
    finish(out / "run")
    with np.load(out / "run" / "final_0.npz") as final:
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            name = jax.tree_util.keystr(path)
            assert final[name].tobytes() == np.asarray(leaf).tobytes(), name
    assert (out / "run" / "metrics.jsonl").read_text() == (out / "unbroken.jsonl").read_text()


def test_killed_and_terminated_runs_end_as_unbroken_ones(tmp_path):
    check(tmp_path, [0.9, 0.7], [signal.SIGKILL, signal.SIGTERM])


@pytest.mark.slow
def test_ten_kills_at_random_moments(tmp_path):
    moments = random.Random(os.urandom(8))
    delays = [moments.uniform(0.0, 1.2) for _ in range(10)]
    print("killed after", delays)
    check(tmp_path, delays, [signal.SIGKILL] * 10)
