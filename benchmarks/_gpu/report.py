"""Measures the cases in turn with PyTorch, within a budget of seconds, and keeps what there is so far."""

import contextlib
import dataclasses
import functools
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks._gpu import cases, flops, programs, turns
from benchmarks._gpu.cases import Case, Net
from benchmarks._gpu.programs import Data, Program
from benchmarks._gpu.rival import Rival
from benchmarks._speed.protocol import WorkerFailed
from jaxrobust.models import Precision, build, load_state_dict
from jaxrobust.types import PyTree

OURS = "jaxrobust"
# Compiled first: where that takes too long and its process is lost, the other form is not.
RIVALLED = ("preact", "wrn")
TORCH = {"compile": "PyTorch, compiled", "eager": "PyTorch"}
# To write the report, and for the timer that ends a run whose compiler does not come back.
RESERVE = 8.0


class Clock:
    """What is left of the budget."""

    def __init__(self, started: float, budget: float):
        self._end = started + budget - RESERVE

    @property
    def left(self) -> float:
        return self._end - time.monotonic()


@dataclasses.dataclass
class Report:
    """All that is measured, as JSON takes it; `torch`: what the other side says, or why there is none."""

    device: dict[str, Any]
    versions: dict[str, str]
    torch: dict[str, str]
    settings: dict[str, Any]
    checks: dict[str, Any] = dataclasses.field(default_factory=dict)
    cases: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0


def start(options: Any) -> Report:
    """The report before the first case."""
    device = jax.devices()[0]
    known = flops.peak_of(device.device_kind)
    given = options.peak_tflops is not None
    return Report(
        device={
            "kind": device.device_kind,
            "platform": device.platform,
            "count": jax.device_count(),
            "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
            "peak_tflops": options.peak_tflops if given else known,
            "peak_from": "--peak-tflops" if given else "the table of chips" if known else "unknown",
        },
        versions={"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        torch={"missing": "Not reached: the budget ended before."},
        settings={
            name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()
        },
    )


PACKAGES = ("jaxrobust", "jax", "jaxlib", "flax", "optax", "numpy")


def _version(name: str) -> str:
    return str(getattr(__import__(name), "__version__", "unknown"))


def run(report: Report, options: Any, clock: Clock, say: Callable[[str], None]) -> None:
    """Fills the report, case by case."""
    every = cases.every(options)
    report.skipped = {case.name: "the budget ended before this case" for case in every}
    nets = {name: net for name, net in cases.nets(options).items() if any(c.net == name for c in every)}
    given = None if options.images is None else programs.read_images(options.images)
    with tempfile.TemporaryDirectory() as folder:
        rival = Rival(
            [form for form in TORCH if form in options.torch.split(",")], Path(folder), on_cpu=options.tiny
        )
        _rivals.append(rival)
        report.torch = rival.about
        say(rival.about.get("missing", f"PyTorch {rival.about.get('version')}"))
        try:
            weights = {}
            for name, net in nets.items():
                report.checks[name] = {"flops": _counts(net)}
                weights[name] = _weights(report, name, net, rival)
            for case in every:
                _attempt(report, options, clock, say, case, nets[case.net], weights[case.net], given, rival)
        finally:
            rival.close()


_rivals: list[Rival] = []


def end_rivals() -> None:
    """Ends PyTorch's process at once, for a run that is cut off."""
    for rival in _rivals:
        rival.end()


def _weights(report: Report, name: str, net: Net, rival: Rival) -> tuple[PyTree, PyTree]:
    """PyTorch's initial weights, once our net has given the same logits with them; else our own."""
    with _on_cpu():
        if rival.is_there and name in RIVALLED:
            try:
                return _shared_weights(report, name, net, rival)
            except WorkerFailed as error:
                report.torch = {"missing": f"PyTorch is left out: {error}."}
                rival.close()
        return jax.device_get(build(net.module, net.image_shape).init(jax.random.key(0)))


@contextlib.contextmanager
def _on_cpu() -> Iterator[None]:
    """Where compiling is quick; and nothing is rounded to TensorFloat-32, also where JAX has no CPU."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.default_matmul_precision("highest"))
        with contextlib.suppress(RuntimeError):
            stack.enter_context(jax.default_device(jax.local_devices(backend="cpu")[0]))
        yield


def _shared_weights(report: Report, name: str, net: Net, rival: Rival) -> tuple[PyTree, PyTree]:
    images = np.random.default_rng(1).random((2, *net.image_shape), np.float32)
    sizes = ("width", "depth", "widen_factor")
    fields = {key: getattr(net.module, key) for key in sizes if hasattr(net.module, key)}
    theirs, file = rival.make(name, fields, images)
    model = build(net.module, net.image_shape)
    params, stats = load_state_dict(file, net.module, image_shape=net.image_shape)
    ours = jax.jit(lambda p, s, x: model.apply(p, s, x, train=False)[0].logits)(params, stats, images)
    difference = float(np.abs(np.asarray(ours) - theirs).max() / theirs.std())
    report.checks[name]["logits_differ_by"] = difference
    if difference > 1e-3:
        raise WorkerFailed(f"{name}: its logits and ours differ by {difference:.3g} on the same weights")
    return jax.device_get((params, stats))


def _counts(net: Net) -> dict[str, Any]:
    """Operations for one image, counted from shapes and by XLA."""
    platform_ = jax.default_backend()
    model = build(net.module, net.image_shape)
    # XLA counts a convolution as such where it is one: for CPU ours are other programs. But it is the CPU's
    # client that counts, whatever a program is for.
    with _on_cpu():
        xla = flops.compilers_count(model, "cuda" if platform_ in ("cpu", "gpu") else platform_)
    needed, counted = _passes(net), {} if xla is None else xla._asdict()
    return {
        "needed": needed._asdict(),
        "with_padding": flops.passes(net.module, net.image_shape, padded=True)._asdict(),
        "xla": counted,
        "xla_over_needed": {key: round(value / getattr(needed, key), 4) for key, value in counted.items()},
    }


def _attempt(
    report: Report,
    options: Any,
    clock: Clock,
    say: Callable[[str], None],
    case: Case,
    net: Net,
    weights: tuple[PyTree, PyTree],
    given: Data | None,
    rival: Rival,
) -> None:
    """One case, if the budget has room for it; one that fails is left out, with the reason."""
    expected = max(
        (one["our_seconds"] for one in report.cases if one["net"] == case.net), default=net.seconds
    )
    if clock.left < expected:
        left = max(clock.left, 0.0)
        report.skipped[case.name] = f"needs about {expected:.0f} s, of the budget {left:.0f} s were left"
        return
    began, at = time.monotonic(), len(report.cases)
    # What stands there if the budget ends meanwhile.
    report.skipped[case.name] = "the budget ended during this case"
    say(f"{case.name}: compiling, {clock.left:.0f} s left")

    def keep(found: dict[str, Any], theirs: float) -> None:
        report.cases[at:] = [found | {"our_seconds": round(time.monotonic() - began - theirs, 1)}]
        report.skipped.pop(case.name, None)

    try:
        _measure(report, options, clock, case, net, weights, given, rival, keep)
    except Exception as error:  # out of memory, mostly, and of a kind of its own in every version
        del report.cases[at:]
        report.skipped[case.name] = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"
        say(f"{case.name}: {report.skipped[case.name]}")
        rival.release()
        return
    finally:
        jax.clear_caches()
    ours = report.cases[at]["participants"][OURS]
    share = "" if ours["utilisation"] is None else f", {ours['utilisation']:.1%} of the peak"
    spent = time.monotonic() - began
    say(f"{case.name}: {ours['images_per_second']:,.1f} images/s{share}, {spent:.0f} s in all")


def _measure(
    report: Report,
    options: Any,
    clock: Clock,
    case: Case,
    net: Net,
    weights: tuple[PyTree, PyTree],
    given: Data | None,
    rival: Rival,
    keep: Callable[[dict[str, Any], float], None],
) -> None:
    """Ours and PyTorch's forms of a case, in turns.

    `keep` gets the result and the seconds that readying PyTorch took; before that a result of ours alone.
    """
    data = programs.data_for(net, given)
    program = programs.prepare(case, net, weights, data)
    program.run(2)
    calls: dict[str, Callable[[int], float]] = {OURS: turns.timed(program.run)}
    prepared, failed = {OURS: program.compile_seconds}, {}
    forms = rival.forms if "missing" not in report.torch and case.net in RIVALLED else ()
    operations = cases.operations(case, _passes(net))

    def found(times: dict[str, list[float]], why: dict[str, str]) -> dict[str, Any]:
        peak = report.device["peak_tflops"]
        return _result(case, operations, peak, program, prepared, times) | {"failed": why}

    if forms:
        alone = turns.in_turns(calls, 1, min(options.round_seconds, 0.3), clock, failed)
        keep(found(alone, {TORCH[form]: "the budget ended before its turn" for form in forms}), 0.0)
    began = time.monotonic()
    for form in forms:
        # The rounds must still fit, whatever is not ready by then.
        spare = clock.left - options.rounds * options.round_seconds * (len(calls) + 1)
        try:
            prepared[TORCH[form]] = rival.prepare(form, case, data, spare)
            calls[TORCH[form]] = functools.partial(rival.measure, form)
        except WorkerFailed as error:
            failed[TORCH[form]] = str(error)
    theirs = time.monotonic() - began
    result = found(turns.in_turns(calls, options.rounds, options.round_seconds, clock, failed), failed)
    result["memory"]["torch_peak_bytes"] = rival.release()
    keep(result, theirs)


def _result(
    case: Case,
    operations: int,
    peak: float | None,
    program: Program,
    prepared: dict[str, float],
    times: dict[str, list[float]],
) -> dict[str, Any]:
    """What the report has of a case."""
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "name": case.name,
        "net": case.net,
        "work": case.work,
        "precision": case.precision.value,
        "batch": case.batch,
        "labelled": case.labelled,
        "steps": case.steps,
        "flops": operations,
        "participants": {
            name: turns.summary(seconds, prepared[name], case.batch, operations, peak)
            for name, seconds in times.items()
        },
        "ratio": turns.ratios(times, OURS),
        "finite": program.finite(),
        "trace_seconds": round(program.trace_seconds, 2),
        "memory": {
            "program": program.memory,
            "peak_bytes_in_use_so_far": stats.get("peak_bytes_in_use"),
            "torch_peak_bytes": None,
        },
    }


def _passes(net: Net) -> flops.Passes:
    return flops.passes(net.module, net.image_shape)


def command() -> str:
    """What was typed."""
    return " ".join(["python", *sys.argv])


def precisions() -> dict[str, str]:
    """What the two mean here."""
    return {
        Precision.BF16.value: "the layers in bfloat16, all else in float32 (PyTorch: autocast)",
        Precision.FLOAT32.value: "products of float32 as XLA makes them on this device: in TensorFloat-32 on "
        "NVIDIA GPUs since Ampere (PyTorch: allowed alike)",
    }
