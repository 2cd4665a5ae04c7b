"""Two real processes with two devices each, over loopback, against one process with one device."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.common.tiny import tiny_fit

ROOT = Path(__file__).resolve().parents[2]


def run_pair(out: Path, wrapper: str, steps: int) -> None:
    """Starts both processes and waits for them."""
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
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)


def assert_is_the_run_of_one(out: Path, expected: dict[str, np.ndarray]) -> None:
    for index in range(2):
        with np.load(out / f"final_{index}.npz") as final:
            assert set(final.files) == set(expected)
            for name, value in expected.items():
                np.testing.assert_allclose(final[name], value, atol=2e-6, err_msg=name)


def check(out: Path, wrapper: str) -> None:
    """Three steps; then again from the checkpoint of the second, which process 1 has to be sent."""
    state = tiny_fit(3)
    expected = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    run_pair(out, wrapper, 3)
    assert_is_the_run_of_one(out, expected)
    rows = (out / "metrics.jsonl").read_text()
    shutil.rmtree(out / "checkpoints" / "3")
    for index in range(2):
        (out / f"final_{index}.npz").unlink()
    run_pair(out, wrapper, 3)
    assert_is_the_run_of_one(out, expected)
    assert (out / "metrics.jsonl").read_text() == rows


def test_two_processes_make_the_run_of_one(tmp_path):
    check(tmp_path, "pmap")


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", ["jit", "shard_map"])
def test_two_processes_under_the_other_wrappers(tmp_path, wrapper):
    check(tmp_path, wrapper)
