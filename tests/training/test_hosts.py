"""Two real processes with two devices each, over loopback, against one process with one device."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrobust.training import Checkpoints
from tests.common.tiny import tiny_fit

ROOT = Path(__file__).resolve().parents[2]


def run_pair(out: Path, wrapper: str, steps: int, terminate: bool = False) -> list[int]:
    """Starts both processes and returns their exit codes; `terminate` tells the second alone to stop."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    options = ["--steps", str(steps), "--wrapper", wrapper, "--distributed", "--save-every", "2"]
    options += ["--delay", "0.3" if terminate else "0"]
    command = [sys.executable, "-m", "tests.training.program", str(out), *options]
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment, "JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        if terminate:
            assert any(line.startswith("ready") for line in processes[0].stdout)
            time.sleep(1.0)
            processes[1].terminate()
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    print(*outputs, sep="\n")
    return [process.returncode for process in processes]


def assert_is_the_run_of_one(out: Path, expected: dict[str, np.ndarray]) -> None:
    for index in range(2):
        with np.load(out / f"final_{index}.npz") as final:
            assert set(final.files) == set(expected)
            for name, value in expected.items():
                np.testing.assert_allclose(final[name], value, atol=2e-6, err_msg=name)


def check(out: Path, wrapper: str) -> None:
    """Four steps, of which the pair takes up the last three from a checkpoint that one process wrote."""
    steps = 4
    checkpoints = Checkpoints(
        out / "checkpoints", config={"steps": steps}, keep=steps, save_every=1, best_metric="norm"
    )
    state = tiny_fit(steps, checkpoints=checkpoints)
    expected = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    for step in range(2, steps + 1):
        shutil.rmtree(out / "checkpoints" / str(step))
    assert run_pair(out, wrapper, steps) == [0, 0]
    assert_is_the_run_of_one(out, expected)
    saved = [path.name for path in (out / "checkpoints").iterdir()]
    assert "2" in saved and "4" in saved


def test_two_processes_make_the_run_of_one(tmp_path):
    check(tmp_path, "pmap")


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", ["jit", "shard_map"])
def test_two_processes_under_the_other_wrappers(tmp_path, wrapper):
    check(tmp_path, wrapper)


@pytest.mark.slow
def test_sigterm_to_one_process_stops_and_saves_both(tmp_path):
    steps = 60
    expected = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tiny_fit(steps))
    }
    assert run_pair(tmp_path, "pmap", steps, terminate=True) == [143, 143]
    last = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    assert 0 < last < steps and last % 4 == 0
    assert run_pair(tmp_path, "pmap", steps) == [0, 0]
    for index in range(2):
        with np.load(tmp_path / f"final_{index}.npz") as final:
            for name, value in expected.items():
                np.testing.assert_allclose(final[name], value, atol=1e-3, err_msg=name)
