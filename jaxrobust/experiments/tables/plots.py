"""Pictures of the figures: accuracy against the perturbation score, and against unlabelled images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrobust.experiments._results import mean_interval
from jaxrobust.experiments.tables.plan import CURVE, label_of
from jaxrobust.experiments.tables.specs import Row, Spec


def draw_curves(spec: Spec, rows: Sequence[Row], found: Sequence[dict[str, Any]], path: Path) -> bool:
    """A panel per attack, a line per model, against this radius over the largest; False without curves."""
    from matplotlib.figure import Figure

    curves = [row for row in found if row["part"] == CURVE]
    if not curves:
        return False
    figure = Figure(figsize=(3.1 * len(spec.curves), 3.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(spec.curves), sharey=True, squeeze=False)[0]
    for axes, attack in zip(panels, spec.curves):
        label = label_of(attack, rows[0].experiment)
        for row in rows:
            own = sorted(
                (one for one in curves if one["model"] == row.title and one["attack"] == label),
                key=lambda one: one["factor"],
            )
            if not own:
                continue
            factors = [one["factor"] for one in own]
            (line,) = axes.plot(factors, [100 * one["accuracy"] for one in own], marker=".", label=row.title)
            low, high = ([100 * one[f"accuracy_{end}"] for one in own] for end in ("low", "high"))
            axes.fill_between(factors, low, high, alpha=0.15, color=line.get_color(), lw=0)
        axes.set_title(label, fontsize=10)
        axes.set_xlabel("perturbation score")
        axes.set_ylim(-2, 102)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=8)
    figure.savefig(path)
    return True


def draw_growth(rows: Sequence[Row], found: Sequence[dict[str, Any]], attack: str, path: Path) -> bool:
    """Accuracy under one attack against the number of unlabelled images, AT with all labels as a line."""
    from matplotlib.figure import Figure

    label = label_of(attack, rows[0].experiment)
    points, reference = [], None
    for row in rows:
        own = [one for one in found if one["model"] == row.title and one["attack"] == label]
        if not own:
            continue
        mean, half = mean_interval([one["accuracy"] for one in own])
        low, high = (
            (own[0]["accuracy_low"], own[0]["accuracy_high"]) if half is None else (mean - half, mean + half)
        )
        if row.key == "at_all":
            reference = (mean, row.title)
        else:
            points.append((int(row.key.partition("@")[2]), mean, low, high))
    if not points:
        return False
    figure = Figure(figsize=(5.2, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    counts, means, lows, highs = zip(*sorted(points))
    errors = [
        [100 * (mean - low) for mean, low in zip(means, lows)],
        [100 * (high - mean) for mean, high in zip(means, highs)],
    ]
    axes.errorbar(counts, [100 * mean for mean in means], errors, marker="o", capsize=3, label="SRT")
    if reference is not None:
        axes.axhline(100 * reference[0], ls="--", color="0.4", label=reference[1])
    axes.set_xlabel("unlabelled images")
    axes.set_ylabel(f"accuracy under {label}, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)
    return True
