"""The command for GPU machines at toy size: what it writes, what it says is missing, and its counts."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import jax
import pytest

from benchmarks._gpu import cases, flops, page, report, rival, turns
from benchmarks._gpu.page import COMPILED, EAGER, OURS
from benchmarks._speed.protocol import WorkerFailed
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


class FakeTorch:
    """PyTorch's process as `Rival` sees it; `broken`: errors by (verb, form), None for one that hangs."""

    broken: ClassVar[dict] = {}

    def __init__(self, module, **options):
        self.options, self.gone, self.ready, self.limits = options, False, set(), {}

    def ask(self, verb, *, limit=None, variant=None, **what):
        self.limits[verb] = limit
        error = self.broken.get((verb, variant), "")
        self.gone |= error is None
        if self.gone:
            raise WorkerFailed("took too long and was ended")
        if error:
            raise WorkerFailed(error)
        if verb == "release":
            self.ready.clear()
        if verb == "prepare":
            self.ready.add(variant)
        if verb == "measure" and variant not in self.ready:
            raise WorkerFailed(f"KeyError: {variant!r}")
        answers = {"about": {"device": "cpu"}, "prepare": {"seconds": 1.0}, "measure": 0.5}
        return answers.get(verb, {"peak_bytes": 7})

    def close(self):
        """Nothing is open."""

    kill = close


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A `Rival` with both forms."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr(rival, "Worker", FakeTorch)
    monkeypatch.setattr(FakeTorch, "broken", {})
    monkeypatch.setenv("PYTHONPATH", "/there")
    return rival.Rival(["compile", "eager"], tmp_path, on_cpu=True)


def measured(there, monkeypatch, left=1000.0):
    """The report of one case of a program that does nothing, and what it had when PyTorch was asked first."""
    program = SimpleNamespace(
        run=lambda calls: time.sleep(1e-3), compile_seconds=1.0, trace_seconds=1.0, memory=None,
        finite=lambda: True,
    )  # fmt: skip
    monkeypatch.setattr(report.programs, "prepare", lambda *arguments: program)
    options = SimpleNamespace(
        tiny=True, only=["wrn:at:bf16"], peak_tflops=None, rounds=2, round_seconds=0.01, images=None
    )
    found, (case,) = report.start(options), cases.every(options)
    found.torch = there.about
    prepare, before = there.prepare, []

    def noted(*arguments):
        before.append(json.loads(json.dumps(found.cases)))
        return prepare(*arguments)

    monkeypatch.setattr(there, "prepare", noted)
    clock = SimpleNamespace(left=left)
    net = cases.nets(options)[case.net]
    report._attempt(found, options, clock, lambda text: None, case, net, ({}, {}), None, there)
    assert not found.skipped
    return found.cases, before[0]


def test_pytorch_is_looked_for_where_the_caller_looks(there):
    """PYTHONPATH gets this checkout first and keeps what it has."""
    found = there._worker.options["environment"]["PYTHONPATH"]
    assert found == os.pathsep.join([str(rival.ROOT), "/there"])


@pytest.mark.parametrize(
    ("broken", "left", "why"),
    [
        ({("prepare", "eager"): "OutOfMemory"}, {OURS, COMPILED}, {EAGER: "OutOfMemory"}),
        ({("prepare", "eager"): None}, {OURS}, {EAGER: "took too long", COMPILED: "took too long.*eager"}),
        ({("measure", "eager"): "OutOfMemory"}, {OURS, COMPILED}, {EAGER: "OutOfMemory"}),
        ({("measure", "compile"): None}, {OURS}, {COMPILED: "took too long", EAGER: "too long.*compile"}),
    ],
    ids=["refuses", "is lost", "refuses a round", "is lost in a round"],
)  # fmt: skip
def test_a_form_that_fails_costs_itself_alone(there, monkeypatch, broken, left, why):
    FakeTorch.broken = broken
    ((case,), _) = measured(there, monkeypatch)
    assert set(case["participants"]) == left and set(case["failed"]) == set(why)
    assert all(re.search(text, case["failed"][name]) for name, text in why.items())
    assert case["memory"]["torch_peak_bytes"] == 7 and there.is_there


def test_a_budget_that_ends_during_pytorchs_turn_leaves_our_result(there, monkeypatch):
    FakeTorch.broken = {("prepare", "compile"): None}
    worker = there._worker
    ((case,), (before,)) = measured(there, monkeypatch, left=20.0)
    # Two rounds of two that take 0.01 s each are kept free.
    assert worker.limits["prepare"] == pytest.approx(20 - 0.04)
    assert set(before["participants"]) == {OURS} and before["participants"][OURS]["images_per_second"] > 0
    assert before["failed"] == dict.fromkeys((EAGER, COMPILED), "the budget ended before its turn")
    assert set(case["participants"]) == {OURS} and not there.is_there
    assert all("took too long" in case["failed"][name] for name in (EAGER, COMPILED))


def test_turns_change_their_order_from_round_to_round():
    calls, order = {}, []
    for name in "abc":
        calls[name] = lambda number, name=name: order.append(name) or 1.0
    times = turns.in_turns(calls, 6, 1.0, SimpleNamespace(left=100.0), {})
    rounds = {tuple(order[at : at + 3]) for at in range(3, len(order), 3)}
    assert len(rounds) > 1 and {len(set(one)) for one in rounds} == {3}
    assert times == {name: [1.0] * 6 for name in "abc"}


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
    [
        pytest.param(PreActResNet18(), (32, 32, 3), marks=pytest.mark.slow),
        pytest.param(WideResNet(), (32, 32, 3), marks=pytest.mark.slow),
        (SmallCNN(), (28, 28, 1)),
    ],
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
