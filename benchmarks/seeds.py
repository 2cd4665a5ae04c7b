"""Several seeds in one step against one after another: seeds per hour.

    python -m benchmarks.seeds [--experiment digits_srt] [--seeds 8] [--steps 60] [FIELD=VALUE ...]

In every round each way trains all seeds through the public functions, `training.fit` for one after another
and `training.fit_seeds` for all together, once with the step `vmap`ped over the seeds and once with the seeds
taking turns within it; the order of the ways is another in each round. Before that, two steps of every way
must give the same weights. The rate is that of the steps between two rows, the first in the middle of the run
and the second at its end, so it is without compilation, which is shown beside it (`fit` compiles once a seed,
`fit_seeds` once), without validation and checkpoints, and next to nothing waits for rows.
"""

import argparse
import copy
import dataclasses
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import _machine
from jaxrobust import data, experiments, models, training
from jaxrobust.experiments import Experiment
from jaxrobust.models import Precision
from jaxrobust.training import Member, Runtime

ALONE, VMAPPED, IN_TURNS = "one after another", "together, vmapped", "together, in turns"
TOY = ("model.widths=2,4", "model.hidden=8", "objective.attack.steps=1", "batch_size=16")


class Clock:
    """A sink that notes when rows come; a row waits for the steps before it."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def rewind(self, step: int) -> None:
        """The start of the loop."""

    def write(self, step: int, metrics: Any) -> None:
        """A row."""
        self.times.append(time.perf_counter())

    def close(self) -> None:
        """Nothing is open."""


def row_every(steps: int) -> int:
    """Steps between rows, of which there are two; a row makes all wait.

    >>> row_every(60), row_every(5)
    (30, 3)
    """
    return (steps + 1) // 2


class Setting:
    """What all ways train: an experiment's parts, and the feed of each seed."""

    def __init__(self, experiment: Experiment, num_seeds: int, devices: int):
        dataset = data.load(experiment.data.dataset, seed=0, **experiment.data.options)
        self.experiment, self.runtime = experiment, Runtime(num_devices=devices)
        self.model = models.build(experiment.model, dataset.image_shape)
        self.feeds = {seed: _feed(experiment.seeded(seed), dataset, devices) for seed in range(num_seeds)}

    def options(self, steps: int) -> dict[str, Any]:
        """What `fit` and `fit_seeds` share."""
        one = self.experiment
        return {
            "model": self.model,
            "objective": one.objective,
            "optimizer": one.optimizer.build(one.num_steps),
            "num_steps": steps,
            "log_every": row_every(steps),
            "runtime": self.runtime,
            "ema_decay": one.ema_decay,
            "progress": False,
        }

    def alone(self, steps: int) -> tuple[list[training.TrainState], list[Clock]]:
        """One seed after another."""
        clocks = [Clock() for _ in self.feeds]
        states = [
            training.fit(seed=seed, feed=feed, sinks=(clock,), **self.options(steps))
            for (seed, feed), clock in zip(self.feeds.items(), clocks)
        ]
        return states, clocks

    def together(self, steps: int, vmapped: bool) -> tuple[list[training.TrainState], list[Clock]]:
        """All seeds in one step."""
        clock = Clock()
        members = [
            Member(seed, feed, sinks=(clock,) if seed == 0 else ()) for seed, feed in self.feeds.items()
        ]
        return training.fit_seeds(members, vmapped=vmapped, **self.options(steps)), [clock]

    def ways(self) -> dict[str, Callable[[int], tuple[list[training.TrainState], list[Clock]]]]:
        """By name."""
        return {
            ALONE: self.alone,
            VMAPPED: lambda steps: self.together(steps, True),
            IN_TURNS: lambda steps: self.together(steps, False),
        }


def _feed(experiment: Experiment, dataset: data.Dataset, devices: int) -> data.Feed:
    split = experiment.data
    parts = data.split(
        dataset.train,
        num_labelled=split.num_labelled,
        num_unlabelled=split.num_unlabelled,
        num_validation=split.num_validation,
        selection=split.selection,
        seed=split.seed,
    )
    sizes = experiment.batch_sizes(len(parts.labelled.labels), len(parts.unlabelled), devices)
    return data.make_feed(parts, sizes, experiment.seed, augment=experiment.augment)


def check_equal(setting: Setting) -> None:
    """Refuses to time ways that train different weights.

    In full float32: a gradient that TensorFloat-32 rounds may have the other sign, and an attack that takes
    signs then another image.
    """
    exact = copy.copy(setting)
    exact.runtime = dataclasses.replace(setting.runtime, precision=Precision.HIGHEST)
    ways = exact.ways()
    expected = jax.device_get(ways.pop(ALONE)(2)[0])
    for way in ways.values():
        for own, other in zip(
            jax.tree.leaves(jax.device_get(way(2)[0])), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_allclose(own, other, atol=1e-5, rtol=1e-4)


def measure(setting: Setting, steps: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """By way, of each round: `step`, the seconds of a step of all seeds; `rest`, all that is no such step."""
    found: dict[str, dict[str, list[float]]] = {name: {"step": [], "rest": []} for name in setting.ways()}
    ways = setting.ways()
    for number in range(rounds):
        order = list(ways)
        # The same order each time would let each always follow the same other.
        random.Random(number).shuffle(order)
        for name in order:
            start = time.perf_counter()
            clocks = ways[name](steps)[1]
            whole = time.perf_counter() - start
            counted = steps - row_every(steps)
            steady = sum(clock.times[-1] - clock.times[0] for clock in clocks)
            found[name]["step"].append(steady / counted)
            found[name]["rest"].append(whole - steady * steps / counted)
    return found


def table(record: dict[str, Any]) -> str:
    """The page."""
    seeds, length = record["seeds"], record["num_steps"]
    lines = [
        f"# {seeds} seeds of {record['experiment']} together",
        "",
        f"Command: `{record['command']}`. {record['hardware']}, {record['devices']} x "
        f"{record['device']}, JAX {record['jax']}; load before the run {record['load']}. "
        f"{record['rounds']} rounds of {record['steps']} steps, ways in turns, in another order each round.",
        "",
        "| way | ms of a step of all seeds: min / median / max | seeds per hour | "
        "times as many: min / median / max | compilation and start, s |",
        "| :-- | --: | --: | --: | --: |",
    ]
    base = record["seconds"][ALONE]["step"]
    for name, found in record["seconds"].items():
        step, ratios = found["step"], [b / s for b, s in zip(base, found["step"])]
        rate = 3600 * seeds / (length * statistics.median(step))
        lines.append(
            f"| {name} | {_spread([1e3 * s for s in step], '.1f')} | {rate:.1f} | {_spread(ratios, '.2f')} | "
            f"{statistics.median(found['rest']):.1f} |"
        )
    lines += [
        "",
        f"A run of this experiment has {length:,} steps; seeds per hour are those of the median step, "
        "without compilation, validation and checkpoints. Ratios compare times of one round.",
    ]
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float], form: str) -> str:
    return " / ".join(format(v, form) for v in (min(values), statistics.median(values), max(values)))


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seeds", description=__doc__.split("\n")[0])
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE")
    parser.add_argument("--experiment", default="digits_srt", help="a small one; default: digits_srt")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60, help="of each run, at least 2")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--out", type=Path, default=None, help="default: docs/results/seeds_BACKEND")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, to see whether it runs")
    args = parser.parse_args(argv)
    if args.toy:
        args.seeds, args.steps, args.rounds = 2, 4, 1
    overrides = [*(TOY if args.toy else ()), *args.overrides]
    experiment = experiments.apply_overrides(experiments.get(args.experiment), overrides)
    setting = Setting(experiment, args.seeds, args.devices)
    load = _machine.load()
    check_equal(setting)
    record = {
        "command": " ".join(["python -m benchmarks.seeds", *(sys.argv[1:] if argv is None else argv)]),
        "experiment": args.experiment,
        "overrides": overrides,
        "num_steps": experiment.num_steps,
        "seeds": args.seeds,
        "steps": args.steps,
        "rounds": args.rounds,
        "devices": args.devices,
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "hardware": _machine.hardware(),
        "load": load,
        "seconds": measure(setting, args.steps, args.rounds),
    }
    toy = Path("runs") / "seeds_toy"
    out = args.out or (toy if args.toy else Path("docs/results") / f"seeds_{jax.default_backend()}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "seeds.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(table(record), encoding="utf-8")
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
