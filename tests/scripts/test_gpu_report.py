"""The command for GPU machines at toy size: what it writes, what it says is missing, and its counts."""

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from benchmarks._gpu import cases, flops, page, report, rival
from jaxrobust.models import PreActResNet18, SmallCNN, WideResNet, build

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gpu_report.py"
# What a GPU machine may lack. An entry of None makes its import an ImportError, as if it were not installed.
ABSENT = (
    "tensorflow", "tensorflow_datasets", "array_record", "grain", "tensorboardX", "PIL", "sklearn",
    "matplotlib", "jinja2", "click", "chex", "jaxtyping", "safetensors",
)  # fmt: skip
WITHOUT = (
    "import runpy, sys; sys.modules.update(dict.fromkeys({absent!r})); sys.argv = sys.argv[1:]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


def call(*arguments, flags=(), code=None):
    line = [sys.executable, *flags, *(("-c", code) if code else ()), SCRIPT, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(list(map(str, line)), capture_output=True, text=True, env=environment, cwd="/")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One run of two cases, without anything but JAX, flax, optax and NumPy."""
    folder = tmp_path_factory.mktemp("report")
    result = call(
        "--tiny", "--only", "wrn:at:bf16", "--only", "small_cnn:grid775:float32", "--rounds", 2,
        "--round-seconds", 0.01, "--peak-tflops", 1, "--torch", "none", "--out", folder,
        code=WITHOUT.format(absent=ABSENT),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder


def test_it_runs_with_little_installed_and_writes_what_it_measured(written):
    found = json.loads((written / "gpu_report.json").read_text())
    assert [case["name"] for case in found["cases"]] == ["wrn:at:bf16", "small_cnn:grid775:float32"]
    assert not found["skipped"] and found["torch"] == {"missing": "Left out (--torch none)."}
    for case in found["cases"]:
        ours = case["participants"]["jaxrobust"]
        assert case["finite"] and len(ours["seconds"]) == 2 and ours["compile_seconds"] > 0
        low, high = ours["images_per_second_range"]
        assert low <= ours["images_per_second"] <= high
        # Of a peak of 1 TFLOP/s.
        assert ours["utilisation"] == pytest.approx(
            case["flops"] * ours["images_per_second"] / case["batch"] / 1e12
        )
        assert case["memory"]["program"]["argument"] > 0
    assert all(
        0.99 < ratio < 1.2
        for check in found["checks"].values()
        for ratio in check["flops"]["xla_over_needed"].values()
    )


def test_the_page_says_what_there_is(written):
    text = (written / "gpu_report.md").read_text()
    assert "PyTorch: Left out" in text and "nothing here is a measurement" in text
    assert "| WRN-34-10 | AT step | bf16 | 10 |" in text and "| GridAdv 775 | float32 | 4 |" in text


def test_what_is_missing_is_named_with_the_cure():
    result = call("--tiny", flags=["-S"])
    assert result.returncode == 2
    assert (
        "Missing here: jax, jaxlib, flax, optax, numpy." in result.stderr and "pip install" in result.stderr
    )


def test_without_pytorch_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    there = rival.Rival(["eager"], tmp_path, on_cpu=True)
    assert not there.is_there and "PyTorch is not installed here" in there.about["missing"]


def test_pytorch_is_looked_for_where_the_caller_looks(tmp_path, monkeypatch):
    """PYTHONPATH gets this checkout first and keeps what it has."""
    asked = {}

    class Worker:
        def __init__(self, module, **options):
            asked.update(options["environment"])

        def ask(self, verb, **what):
            return {"device": "cpu"}

    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr(rival, "Worker", Worker)
    monkeypatch.setenv("PYTHONPATH", "/there")
    assert rival.Rival(["eager"], tmp_path, on_cpu=True).is_there
    assert asked["PYTHONPATH"] == os.pathsep.join([str(rival.ROOT), "/there"])


def test_without_an_accelerator_it_asks_for_tiny():
    result = call("--out", "/nowhere")
    assert result.returncode == 2 and "--tiny" in result.stderr


def test_what_does_not_fit_the_budget_is_left_out_and_said(tmp_path):
    options = SimpleNamespace(
        tiny=True, only=["small_cnn"], torch="none", images=None, peak_tflops=None, rounds=1,
        round_seconds=0.1, budget=1.0, out=tmp_path,
    )  # fmt: skip
    found = report.start(options)
    report.run(found, options, report.Clock(time.monotonic() - 100, 1.0), lambda text: None)
    assert not found.cases
    assert set(found.skipped) == {
        f"small_cnn:{work}:{p}" for work in ("grid775", "apgd") for p in ("bf16", "float32")
    }
    assert all("of the budget 0 s were left" in why for why in found.skipped.values())
    text = page.page({**vars(found), "command": "the command", "precisions": {}})
    assert "## Left out" in text and "the peak of its kind is not known" in text


@pytest.mark.parametrize(
    ("module", "shape"),
    [(PreActResNet18(), (32, 32, 3)), (WideResNet(), (32, 32, 3)), (SmallCNN(), (28, 28, 1))],
)
def test_counted_operations_are_the_compilers_but_for_what_is_no_product(module, shape):
    ours = flops.passes(module, shape)
    for name, count in flops.compilers_count(build(module, shape), "cuda")._asdict().items():
        assert 1 < count / getattr(ours, name) < 1.01


def test_a_compiler_that_does_not_count_leaves_a_dash(monkeypatch):
    """As CUDA's client; and it is the CPU's that is asked."""
    asked = []

    def cost_analysis(lowered):
        asked.append(jax.config.jax_default_device.platform)

    monkeypatch.setattr(jax.stages.Lowered, "cost_analysis", cost_analysis)
    net = cases.Net(SmallCNN(widths=(2, 2), hidden=2), (16, 16, 1), 4, 1.0)
    counts = report._counts(net)
    assert counts["xla"] == {} and asked == ["cpu"] * 3
    assert page._operations({"small_cnn": {"flops": counts}}).count(" – | – |") == 3


@pytest.fixture
def script(monkeypatch):
    """The script as a module, and the exit statuses it asked for."""
    spec = importlib.util.spec_from_file_location("gpu_report", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    codes = []
    monkeypatch.setattr("os._exit", codes.append)
    return module, codes


def test_a_run_that_is_cut_off_before_anything_leaves_what_it_has(tmp_path, script):
    module, codes = script
    options = module._parser().parse_args(["--tiny", "--out", str(tmp_path)])
    found = report.start(options)
    found.skipped = {"wrn:at:bf16": "the budget ended during this case"}
    module._cut_off(found, options)
    assert codes == [1] and json.loads((tmp_path / "gpu_report.json").read_text())["skipped"] == found.skipped
    text = (tmp_path / "gpu_report.md").read_text()
    assert "`wrn:at:bf16`: the budget ended" in text and "PyTorch: Not reached" in text


def test_a_run_that_is_cut_off_ends_also_where_it_cannot_write(tmp_path, script, capsys):
    module, codes = script
    options = module._parser().parse_args(["--tiny", "--out", str(tmp_path / "is not there")])
    module._cut_off(report.start(options), options)
    assert codes == [1] and "FileNotFoundError" in capsys.readouterr().err


def test_operations_of_a_case_are_its_passes():
    needs = flops.Passes(1, 2, 3)
    options = SimpleNamespace(tiny=True, only=[])
    found = {case.name: cases.operations(case, needs) for case in cases.every(options)}
    # Ten images, two steps; two of SRT's have labels. Four images and a grid of two points for SmallCNN.
    assert found["wrn:pgd20:bf16"] == 10 * 2 * 2
    assert found["wrn:at:bf16"] == 10 * (2 * 2 + 3)
    assert found["wrn:srt:bf16"] == 10 * (1 + 2 * 2 + 3) + 2 * 3
    assert found["small_cnn:grid775:bf16"] == 4 * 2
    assert found["small_cnn:apgd:bf16"] == 4 * (2 * 2 + 1)
