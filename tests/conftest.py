"""Four fake CPU devices, a compilation cache that outlives the run, and the folder of real data."""

import importlib.metadata
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# JAX reads all of these at its first import, which must come after them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Compiling is most of a test's time, and two fifths less without optimisation; `make test-slow` optimises.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
FLAGS = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=4"]
# The older emitters take half of what is left. A jaxlib that does not know a flag ends the process.
OPTIMISED = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "1"
if not OPTIMISED and importlib.metadata.version("jaxlib").startswith("0.10."):
    FLAGS += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
os.environ["XLA_FLAGS"] = " ".join(FLAGS).strip()
# One cache a worker: JAX writes entries in place, so that a reader beside it may find half of one. Assigned,
# as workers inherit what the first process set.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(ROOT / ".cache" / "jax" / WORKER)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("JAXROBUST_CACHE", str(ROOT / ".cache" / "jaxrobust"))

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def programs_end_with_their_module():
    """Thousands of compiled programs in one process reach the system's limit of memory mappings: a crash."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of prepared tensorflow-datasets; skips without it, and fails in CI."""
    given = os.environ.get("TFDS_DATA_DIR")
    folder = Path(given) if given else ROOT.parent / "shared" / "data" / "tfds"
    if not (folder / "mnist").is_dir():
        reason = f"No prepared MNIST under {folder}: set TFDS_DATA_DIR to a folder that has it."
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
