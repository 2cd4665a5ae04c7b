"""Training on 2 and on 8 devices is that on one; `test_runtime` has 4."""

import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import pytest

from jaxrobust.training import Runtime, Wrapper
from tests.common.tiny import tiny_fit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def one_device():
    return jax.device_get(tiny_fit(2, runtime=Runtime(wrapper=Wrapper.JIT, num_devices=1)))


@pytest.mark.parametrize("wrapper", [pytest.param(Wrapper.PMAP, marks=pytest.mark.slow), Wrapper.SHARD_MAP])
def test_two_devices_make_the_run_of_one(wrapper, one_device):
    state = tiny_fit(2, runtime=Runtime(wrapper=wrapper, num_devices=2))
    chex.assert_trees_all_close(jax.device_get(state), one_device, atol=2e-6)


@pytest.mark.slow
def test_eight_devices_make_the_run_of_one():
    command = [sys.executable, "-m", "tests.training.eight_devices"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        f"{wrapper} on 8 devices makes the run of one" for wrapper in ("pmap", "shard_map")
    ]
