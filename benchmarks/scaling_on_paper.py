"""What data-parallel training costs to communicate, on paper: `docs/scaling.md` is what this command writes.

    python -m benchmarks.scaling_on_paper [--out docs/scaling.md]

Parameters, FLOPs and all-reduced bytes are counted in the library's own programs, traced and lowered for an
accelerator but neither compiled nor run. Chips are known by their vendors' figures. Nothing is measured.
"""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import jax
from flax import linen as nn

from benchmarks._scaling.costs import CHIPS, HOP, Chip, Step, images_for, step_of
from benchmarks._scaling.counts import LABELLED_SHARE, Counts, count
from jaxrobust.models import PreActResNet18, SmallCNN, WideResNet

MODELS: dict[str, nn.Module] = {
    "SmallCNN": SmallCNN(),
    "PreActResNet-18": PreActResNet18(),
    "WRN-34-10": WideResNet(depth=34, widen_factor=10),
}

PAGE = """# Scaling on paper

**Arithmetic, not measurement.** This page is what `python -m benchmarks.scaling_on_paper` writes: counts
taken from the library's own programs, vendors' figures of the chips, and the formulas below. Nothing on it
has been run on these chips, and a real step is slower than its arithmetic at peak.

A step divides its batch over the devices (`pmap`, `shard_map`). Each device attacks its own images, which
needs no communication however long the attack is; then the gradients are averaged by an all-reduce, and so
are the statistics of batch normalisation, which are those of the whole batch. Evaluation communicates nothing
but what each process has found, once an attack.

## What is counted

FLOPs of one image in millions, as XLA counts them in the lowered program (a product and a sum are two;
padding is not counted): a forward pass, one gradient on the image (a step of PGD), one training pass.

{models}

So a step costs, per image of the batch, with K inner steps:

- AT: K · (input gradient) + (training pass);
- SRT: (forward pass, for the targets) + K · (input gradient) + (1 + {share}) · (training pass), where {share}
  of the images are labelled and take the clean pass as well.

{flops}

What a step all-reduces, read off the lowered program, whatever the number of devices: the gradients of all
parameters in float32, some metrics, and for every training pass and every layer of batch normalisation five
vectors, the mean and the variance forward and three backward. SRT makes two passes (clean and adversarial).

{reduced}

## Formulas

For N devices, m images on each, S bytes all-reduced, n all-reduces of batch normalisation:

- arithmetic: m · FLOPs / peak, the chip at its dense bfloat16 peak all the time;
- ring all-reduce: 2 (N − 1) / N · S / B, where B is the slowest link of the ring, in one direction;
- latency: (n + 1) · 2 log2(N) · {hop:g} µs, as each layer waits for its statistics, and the gradients go
  together at the end; {hop:g} µs a hop is a round number and no vendor's: scale the column by your machine's;
- communication's share: (ring + latency) / (arithmetic + ring + latency), as if nothing overlapped.

The share is an upper bound in three ways: arithmetic below peak takes longer, the gradients' all-reduce can
overlap with the backward pass, and one ring uses one link where there are several.

{chips}
{reading}"""


def page(counts: dict[str, Counts]) -> str:
    """The whole page."""
    models = [
        [
            name,
            f"{one.parameters:,}",
            *(f"{value / 1e6:,.1f}" for value in (one.forward, one.attack, one.training)),
        ]
        for name, one in counts.items()
    ]
    flops = [
        [name, *(f"{one.flops(d, k) / 1e9:,.2f}" for d in ("AT", "SRT") for k in (7, 10))]
        for name, one in counts.items()
    ]
    reduced = [
        [name, defence, f"{size / 1e6:,.2f}", f"{normal / 1e3:,.1f}", str(number)]
        for name, one in counts.items()
        for defence, (size, normal, number) in one.reduced.items()
    ]
    return PAGE.format(
        share=LABELLED_SHARE,
        hop=HOP * 1e6,
        models=_table(["model", "parameters", "forward", "input gradient", "training pass"], models),
        flops=_table(["GFLOP per image", "AT, K = 7", "AT, K = 10", "SRT, K = 7", "SRT, K = 10"], flops),
        reduced=_table(
            ["model", "defence", "all-reduced, MB", "of batch normalisation, kB", "in so many all-reduces"],
            reduced,
        ),
        chips="\n".join(_chip(chip, counts) for chip in CHIPS),
        reading=_reading(counts),
    )


def _chip(chip: Chip, counts: dict[str, Counts]) -> str:
    """The section of one chip."""
    lines = []
    for name, one in counts.items():
        for defence in one.reduced:
            for devices in chip.links:
                ten, seven = (step_of(one, defence, k, chip, devices, 128) for k in (10, 7))
                few = step_of(one, defence, 10, chip, devices, 16)
                enough = images_for(one, defence, 10, chip, devices, 0.1)
                lines.append(
                    [
                        name,
                        defence,
                        str(devices),
                        *(f"{1e3 * t:.3g}" for t in (ten.arithmetic, ten.ring, ten.hops)),
                        *(f"{s.share:.1%}" for s in (ten, seven, few)),
                        f"{enough:,}",
                    ]
                )
    header = ["model", "defence", "devices", "arithmetic, ms", "ring, ms", "latency, ms"]
    header += ["share, m = 128", "K = 7", "m = 16", "m for 10%"]
    times = (
        "Times for m = 128 and K = 10; the last column is the fewest images per device at which "
        "communication is at most a tenth."
    )
    parts = (f"## {chip.name}", _filled(chip.source), _filled(times), _table(header, lines))
    return "\n\n".join(parts) + "\n"


def _reading(counts: dict[str, Counts]) -> str:
    """What the tables say, in numbers of theirs."""
    wide, chip = counts["WRN-34-10"], CHIPS[0]
    at = step_of(wide, "AT", 10, chip, 256, 128)
    plain = Step(128 * wide.training / chip.peak, at.ring, at.hops)
    enough = images_for(counts["SmallCNN"], "AT", 10, chip, 256, 0.1)
    points = (
        f"An attack is arithmetic that needs no communication: for WRN-34-10 on 256 {chip.name} with 128 "
        f"images each, communication is at most {at.share:.1%} of an AT step with 10 inner steps, and would "
        f"be {plain.share:.1%} of a standard one.",
        f"Small models are not worth many devices: SmallCNN needs {enough:,} images per device there to keep "
        "communication to a tenth. Train several seeds at once instead (`jaxrobust train --seeds`), which "
        "communicate nothing.",
        "With few images per device the latency of batch normalisation weighs as much as the gradients' "
        "bytes. `--micro-batches` multiplies it, as every micro-batch has its own statistics; `--remat` "
        "saves memory and repeats the all-reduces of the forward pass.",
    )
    return "## What follows\n\n" + "\n".join(_filled(point, "- ") for point in points) + "\n"


def _filled(text: str, bullet: str = "") -> str:
    return textwrap.fill(text, 110, initial_indent=bullet, subsequent_indent=" " * len(bullet))


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = [":--", *["--:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *lines))


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling_on_paper", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("docs/scaling.md"))
    args = parser.parse_args(argv)
    text = page({name: count(module) for name, module in MODELS.items()})
    args.out.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    # All-reduces appear in a program for several devices only.
    jax.config.update("jax_num_cpu_devices", 2)
    sys.exit(main())
