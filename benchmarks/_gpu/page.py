"""The page of a report: Markdown, from nothing but what the JSON has."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

OURS, EAGER, COMPILED = "jaxrobust", "PyTorch", "PyTorch, compiled"
NETS = {"preact": "PreActResNet-18", "wrn": "WRN-34-10", "small_cnn": "SmallCNN"}
WORKS = {"at": "AT step", "srt": "SRT step", "pgd20": "PGD-20", "grid775": "GridAdv 775", "apgd": "APGD-100"}
SEARCHES = ("grid775", "apgd")


def page(report: Mapping[str, Any]) -> str:
    """The whole page."""
    parts = ["# GPU report", _head(report)]
    trained = [case for case in report["cases"] if case["work"] not in SEARCHES]
    searched = [case for case in report["cases"] if case["work"] in SEARCHES]
    if trained:
        parts += ["## Training and PGD-20", _READ, _speed(trained), _memory(trained)]
    if searched:
        parts += ["## Attacks on SmallCNN (28x28, this library only)", _searches(searched)]
    parts += ["## Operations", _operations(report["checks"])]
    if report["skipped"]:
        lines = [f"- `{name}`: {why}" for name, why in report["skipped"].items()]
        parts += ["## Left out", "\n".join(lines)]
    failed = [f"- `{c['name']}`, {who}: {why}" for c in report["cases"] for who, why in c["failed"].items()]
    if failed:
        parts += ["## Failed or left out beside ours", "\n".join(failed)]
    return "\n\n".join(parts) + "\n"


_READ = (
    "Images per second of one batch that lies on the device, the median of the rounds; all participants took "
    "turns in every round on this card. `x` is ours over PyTorch's better form: the median of the ratios "
    "within a round, with the smallest and the largest. Utilisation is the operations that the net's "
    "products need (without those with a padding's zeros) over the chip's dense bf16 peak, also where the "
    "case is float32. An SRT step's images are labelled and unlabelled together."
)


def _head(report: Mapping[str, Any]) -> str:
    device, torch, settings = report["device"], report["torch"], report["settings"]
    peak = "the peak of its kind is not known: give --peak-tflops"
    if device["peak_tflops"] is not None:
        peak = f"peak {device['peak_tflops']:g} TFLOP/s in dense bf16, from {device['peak_from']}"
    memory = device["memory_bytes"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    rival = torch.get("missing") or (
        f"PyTorch {torch['version']} on {torch['device']}, CUDA {torch['cuda']}, cuDNN {torch['cudnn']}; "
        f"channels_last, autocast, fused SGD; {settings['torch'].replace(',', ' and ')}"
    )
    held = "" if memory is None else f", {memory / 2**30:.0f} GiB for XLA"
    lines = [
        f"- Device: {device['kind']} (one of {device['count']}){held}; {peak}",
        f"- Versions: {versions}",
        f"- PyTorch: {rival}",
        *(f"- `{name}`: {meaning}" for name, meaning in report["precisions"].items()),
        f"- Images: {settings['images'] or 'random'}; {settings['rounds']} rounds of about "
        f"{settings['round_seconds']:g} s each",
        f"- Took {report['seconds']:.0f} s of {settings['budget']:.0f} s: `{report['command']}`",
    ]
    if settings["tiny"]:
        lines.append("- `--tiny`: small nets and images; nothing here is a measurement.")
    return "\n".join(lines)


def _speed(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for case in found:
        all_of = case["participants"]
        ours = all_of[OURS]
        best = min(case["ratio"].values(), key=lambda ratio: ratio["median"], default=None)
        times = "–" if best is None else f"{best['median']:.2f} ({best['min']:.2f}–{best['max']:.2f})"
        labelled = f" ({case['labelled']} labelled)" if case["labelled"] != case["batch"] else ""
        rows.append(
            [
                NETS[case["net"]],
                WORKS[case["work"]],
                case["precision"],
                f"{case['batch']:,}{labelled}",
                f"{1000 * case['batch'] / ours['images_per_second']:,.1f}",
                _rate(ours),
                _rate(all_of.get(EAGER)),
                _rate(all_of.get(COMPILED)),
                times,
                _percent(ours),
                " / ".join(_percent(all_of.get(name)) for name in (EAGER, COMPILED)),
                "yes" if case["finite"] else "NO",
            ]
        )
    titles = [
        "net", "work", "precision", "batch", "ms a call", "images/s, ours", "PyTorch", "compiled", "x",
        "utilisation, ours", "PyTorch / compiled", "finite",
    ]  # fmt: skip
    return _table(titles, rows)


def _memory(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for case in found:
        program = case["memory"]["program"]
        needs = None if program is None else sum(program.values()) - 2 * program["alias"]
        rows.append(
            [
                case["name"],
                f"{case['trace_seconds']:.1f}",
                *(
                    f"{case['participants'][name]['compile_seconds']:.1f}"
                    if name in case["participants"]
                    else "–"
                    for name in (OURS, EAGER, COMPILED)
                ),
                _gib(needs),
                _gib(case["memory"]["peak_bytes_in_use_so_far"]),
                _gib(case["memory"]["torch_peak_bytes"]),
            ]
        )
    titles = [
        "case", "tracing, s", "compiling, s", "PyTorch's first two calls, s", "the same compiled, s",
        "program, GiB", "most in use so far, GiB", "PyTorch's most, GiB",
    ]  # fmt: skip
    return _table(titles, rows)


def _searches(found: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            WORKS[case["work"]],
            case["precision"],
            f"{case['batch']:,}",
            _rate(case["participants"][OURS]),
            _percent(case["participants"][OURS]),
            f"{case['participants'][OURS]['compile_seconds']:.1f}",
        ]
        for case in found
    ]
    return _table(["attack", "precision", "batch", "images/s", "utilisation", "compiling, s"], rows)


def _operations(checks: Mapping[str, Any]) -> str:
    rows = []
    for net, check in checks.items():
        counted = check["flops"]
        for kind, title in (
            ("forward", "forward"),
            ("image_gradient", "gradient of the image"),
            ("weight_gradient", "gradient of the weights"),
        ):
            rows.append(
                [
                    NETS[net],
                    title,
                    *(_number(counted[by].get(kind), 1e9) for by in ("needed", "with_padding", "xla")),
                    _number(counted["xla_over_needed"].get(kind)),
                ]
            )
    same = [
        f"{NETS[net]}: largest difference of logits from PyTorch's on the same weights, of their spread: "
        f"{check['logits_differ_by']:.1e}"
        for net, check in checks.items()
        if "logits_differ_by" in check
    ]
    table = _table(
        ["net", "pass of one image", "needed, GFLOP", "with padding", "XLA's count", "XLA's / needed"], rows
    )
    return "\n\n".join([table, *same])


def _number(value: float | None, unit: float = 1.0) -> str:
    return "–" if value is None else f"{value / unit:.3f}"


def _rate(one: Mapping[str, Any] | None) -> str:
    return "–" if one is None else f"{one['images_per_second']:,.0f}"


def _percent(one: Mapping[str, Any] | None) -> str:
    return "–" if one is None or one["utilisation"] is None else f"{100 * one['utilisation']:.1f}%"


def _gib(value: int | None) -> str:
    return "–" if value is None else f"{value / 2**30:.1f}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = [":--", *["--:"] * (len(titles) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (titles, rule, *rows))
