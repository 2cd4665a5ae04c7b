"""What data-parallel training costs to communicate, on paper: `docs/scaling.md` is what this command writes.

    python -m benchmarks.scaling_on_paper [--out docs/scaling.md]

Parameters, FLOPs and all-reduced bytes are counted in the library's own programs, traced and lowered for an
accelerator but neither compiled nor run. Chips are known by their vendors' figures. Nothing is measured.
"""

import argparse
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

from jaxrobust.attacks import PGD
from jaxrobust.models import PreActResNet18, SmallCNN, WideResNet, build
from jaxrobust.neighbourhoods import LInf
from jaxrobust.numerics.losses import cross_entropy
from jaxrobust.objectives import AT, SRT
from jaxrobust.training import OptimizerConfig, init_state, make_train_step
from jaxrobust.types import Batch, Model, Objective

MODELS: dict[str, nn.Module] = {
    "SmallCNN": SmallCNN(),
    "PreActResNet-18": PreActResNet18(),
    "WRN-34-10": WideResNet(depth=34, widen_factor=10),
}
ROWS = 8
LABELLED_SHARE = 0.2
"""Of SRT's batches: 10,000 labelled images among 50,000, as in the source's Table 3."""
HOP = 1e-6


class Chip(NamedTuple):
    """`peak` in FLOP/s, dense bfloat16; `links`: bytes/s of the slowest link of a ring over so many chips."""

    name: str
    peak: float
    links: dict[int, float]
    source: str


CHIPS = (
    Chip(
        "NVIDIA H100 SXM",
        989e12,
        {8: 450e9, 256: 50e9},
        "989 TFLOP/s is half of the 1,979 with sparsity of NVIDIA's H100 data sheet; 8 chips: NVLink, 900 GB/s "
        "in both directions together (the same data sheet); 256 chips: one 400 Gb/s ConnectX-7 port, of the "
        "eight of a DGX H100 (NVIDIA's DGX H100 user guide), of which a ring that crosses the hosts once "
        "needs one",
    ),
    Chip(
        "Google TPU v5e",
        197e12,
        {8: 50e9, 256: 50e9},
        "197 TFLOP/s and 1,600 Gb/s of interconnect per chip, over the four links of a 2D torus of up to 256 "
        "chips, so 50 GB/s for a link (Google Cloud's page on TPU v5e)",
    ),
)


class Counts(NamedTuple):
    """Of one model: parameters, FLOPs per image, and by defence what a step all-reduces."""

    parameters: int
    forward: float
    attack: float
    training: float
    reduced: dict[str, tuple[int, int, int]]
    """Bytes, those among them of batch normalisation, and how many all-reduces those are."""

    def flops(self, defence: str, steps: int) -> float:
        """Per image of the batch: `steps` input gradients and the training passes."""
        inner = steps * self.attack
        if defence == "AT":
            return inner + self.training
        return self.forward + inner + (1 + LABELLED_SHARE) * self.training


def defences(steps: int) -> dict[str, Objective]:
    """The two objectives, whose attack returns its last point, as in training."""
    attack = PGD(neighbourhood=LInf(eps=0.03), steps=steps, keep_worst=False)
    return {"AT": AT(attack=attack), "SRT": SRT(attack=attack)}


def count(module: nn.Module) -> Counts:
    """Everything that is counted of a model."""
    model = build(module, type(module).native_shape)  # type: ignore[attr-defined]
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((ROWS, *model.image_shape), jnp.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), ROWS))
    labels = jnp.zeros(ROWS, jnp.int32)

    def logits(params: Any, stats: Any, x: jax.Array) -> jax.Array:
        return model.apply(params, stats, x, train=False)[0].logits

    def input_gradient(params: Any, stats: Any, x: jax.Array) -> jax.Array:
        return jax.grad(lambda x: cross_entropy(logits(params, stats, x), labels).sum())(x)

    def training_pass(params: Any, stats: Any, x: jax.Array, keys: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            outputs, _ = model.apply(params, stats, x, train=True, keys=keys)
            return cross_entropy(outputs.logits, labels).mean()

        return jax.grad(loss)(params)

    return Counts(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        forward=flops(logits, params, stats, images) / ROWS,
        attack=flops(input_gradient, params, stats, images) / ROWS,
        training=flops(training_pass, params, stats, images, keys) / ROWS,
        reduced={name: all_reduced(model, objective) for name, objective in defences(1).items()},
    )


def flops(fn: Callable, *args: Any) -> float:
    """FLOPs of a program as XLA counts them (a product and a sum are two), lowered for an accelerator.

    Loops count once, whatever their length.
    """
    lowered = jax.jit(fn).trace(*args).lower(lowering_platforms=("tpu",))
    return float(lowered.cost_analysis()["flops"])


def all_reduced(model: Model, objective: Objective) -> tuple[int, int, int]:
    """Bytes that a step all-reduces, those of batch normalisation, and their number, read off the program."""
    optimizer = OptimizerConfig(learning_rate=0.1).build(1)
    state = jax.eval_shape(lambda key: init_state(key, model, objective, optimizer), jax.random.key(0))
    images = jax.ShapeDtypeStruct((ROWS, *model.image_shape), jnp.float32)
    batch = Batch(images, jax.ShapeDtypeStruct((ROWS,), jnp.int32), images)
    step = make_train_step(model, objective, optimizer, num_steps=1, axis_name="batch")
    mesh = Mesh(np.array(jax.devices()[:2]), ("batch",), axis_types=(AxisType.Auto,))
    program = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=(P(), P("batch"), P()), out_specs=P()))
    text = program.lower(state, batch, jax.eval_shape(lambda: jax.random.key(0))).as_text()
    sizes = [_bytes(part) for part in text.split('"stablehlo.all_reduce"(')[1:]]
    gradients = 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))
    # Gradients come last but for the metrics, each a number; what is before them is batch normalisation's.
    ours = sizes[: len(sizes) - len(jax.tree.leaves(state.params)) - sizes.count(4)]
    assert sum(ours) + gradients + 4 * sizes.count(4) == sum(sizes), sizes
    return sum(sizes), sum(ours), len(ours)


def _bytes(part: str) -> int:
    """Of the operands of an all-reduce, from its type in StableHLO's text; all are float32."""
    found = re.search(r"\}\) : \((.*?)\) ->", part, re.DOTALL)
    assert found is not None
    shapes = re.findall(r"tensor<((?:\d+x)*)f32>", found.group(1))
    return sum(4 * math.prod(int(n) for n in shape.split("x") if n) for shape in shapes)


class Step(NamedTuple):
    """Seconds of a step on one of several devices."""

    arithmetic: float
    ring: float
    hops: float

    @property
    def share(self) -> float:
        """Of the step that is communication, where nothing overlaps."""
        return (self.ring + self.hops) / (self.arithmetic + self.ring + self.hops)


def step_of(counts: Counts, defence: str, steps: int, chip: Chip, devices: int, images: int) -> Step:
    """By the formulas of the page."""
    size, _, small = counts.reduced[defence]
    return Step(
        arithmetic=images * counts.flops(defence, steps) / chip.peak,
        ring=2 * (devices - 1) / devices * size / chip.links[devices],
        hops=small * 2 * math.log2(devices) * HOP,
    )


def images_for(counts: Counts, defence: str, steps: int, chip: Chip, devices: int, share: float) -> int:
    """The fewest images per device at which communication is at most this share of the step."""
    one = step_of(counts, defence, steps, chip, devices, 1)
    return math.ceil((one.ring + one.hops) * (1 - share) / share / one.arithmetic)


PAGE = """# Scaling on paper

**Arithmetic, not measurement.** This page is what `python -m benchmarks.scaling_on_paper` writes: counts taken from
the library's own programs, vendors' figures of the chips, and the formulas below. Nothing on it has been run on these
chips, and a real step is slower than its arithmetic at peak.

A step divides its batch over the devices (`pmap`, `shard_map`). Each device attacks its own images, which needs no
communication however long the attack is; then the gradients are averaged by an all-reduce, and so are the statistics
of batch normalisation, which are those of the whole batch. Evaluation communicates nothing until its counts are
gathered at the end.

## What is counted

FLOPs of one image in millions, as XLA counts them in the lowered program (a product and a sum are two; padding is not
counted): a forward pass, one gradient on the image (a step of PGD), one training pass.

{models}

So a step costs, per image of the batch, with K inner steps:

- AT: K · (input gradient) + (training pass);
- SRT: (forward pass, for the targets) + K · (input gradient) + (1 + {share}) · (training pass), where {share} of the
  images are labelled and take the clean pass as well.

{flops}

What a step all-reduces, read off the lowered program, whatever the number of devices: the gradients of all parameters
in float32, two to five metrics, and for every training pass and every layer of batch normalisation five vectors, the
mean and the variance forward and three backward. SRT makes two passes (clean and adversarial).

{reduced}

## Formulas

For N devices, m images on each, S bytes all-reduced, n all-reduces of batch normalisation:

- arithmetic: m · FLOPs / peak, the chip at its dense bfloat16 peak all the time;
- ring all-reduce: 2 (N − 1) / N · S / B, where B is the slowest link of the ring, one direction;
- latency: n · 2 log2(N) · {hop:g} µs, as each layer waits for its statistics; {hop:g} µs a hop is a round number and no
  vendor's, so scale this column by what your machine has;
- communication's share: (ring + latency) / (arithmetic + ring + latency), as if nothing overlapped.

Both assumptions make the share larger than it will be: arithmetic below peak takes longer, and compilers overlap the
gradients' all-reduce with the backward pass.

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
    return (
        f"## {chip.name}\n\n{chip.source[0].upper()}{chip.source[1:]}. Times for m = 128 and K = 10; the last "
        f"column is the fewest images per device at which communication is at most a tenth.\n\n"
        f"{_table(header, lines)}\n"
    )


def _reading(counts: dict[str, Counts]) -> str:
    """What the tables say, in numbers of theirs."""
    wide, chip = counts["WRN-34-10"], CHIPS[0]
    at = step_of(wide, "AT", 10, chip, 256, 128)
    plain = Step(128 * wide.training / chip.peak, at.ring, at.hops)
    small = counts["SmallCNN"]
    enough = images_for(small, "AT", 10, chip, 256, 0.1)
    return (
        "## What follows\n\n"
        f"- An attack is arithmetic that needs no communication: for WRN-34-10 on 256 {chip.name} with 128 images "
        f"each, communication is at most {at.share:.1%} of an AT step with 10 inner steps, and would be "
        f"{plain.share:.1%} of a standard one.\n"
        f"- Small models are not worth many devices: SmallCNN needs {enough:,} images per device there to keep "
        "communication to a tenth. Train several seeds at once instead (`jaxrobust train --seeds`), which "
        "communicate nothing.\n"
        "- With few images per device the latency of batch normalisation counts more than the gradients' bytes. "
        "`--micro-batches` makes it worse, once for every micro-batch; `--remat` saves memory without it.\n"
    )


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
