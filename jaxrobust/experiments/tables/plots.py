"""Pictures of the figures: accuracy against the perturbation score, and against unlabelled images."""

from collections.abc import Sequence
from pathlib import Path

from jaxrobust.experiments._results import mean_interval
from jaxrobust.experiments.tables.numbers import Numbers
from jaxrobust.experiments.tables.plan import label_of
from jaxrobust.experiments.tables.spec import Place, Row, Spec


def draw_curves(spec: Spec, rows: Sequence[Row], numbers: Numbers, path: Path) -> bool:
    """A panel per attack, a line per model, against this radius over the largest; False without curves."""
    from matplotlib.figure import Figure

    if not any(numbers.curve(Place(row.key, attack)) for row in rows for attack in spec.curves):
        return False
    figure = Figure(figsize=(3.1 * len(spec.curves), 3.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(spec.curves), sharey=True, squeeze=False)[0]
    lines = {}
    for axes, attack in zip(panels, spec.curves):
        for at, row in enumerate(rows):
            own = numbers.curve(Place(row.key, attack))
            if not own:
                continue
            factors = [one["factor"] for one in own]
            heights = [100 * one["accuracy"] for one in own]
            (lines[row.title],) = axes.plot(factors, heights, marker=".", color=f"C{at}")
            low, high = ([100 * one[f"accuracy_{end}"] for one in own] for end in ("low", "high"))
            axes.fill_between(factors, low, high, alpha=0.15, color=f"C{at}", lw=0)
        axes.set_title(label_of(attack, rows[0].experiment), fontsize=10)
        axes.set_xlabel("perturbation score")
        axes.set_ylim(-2, 102)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy, %")
    figure.legend(
        lines.values(), lines.keys(), loc="outside upper center", ncols=len(lines), frameon=False, fontsize=8
    )
    figure.savefig(path)
    return True


def draw_growth(rows: Sequence[Row], numbers: Numbers, attack: str, path: Path) -> bool:
    """Accuracy under one attack against the number of unlabelled images, AT with all labels as a line."""
    from matplotlib.figure import Figure

    points, reference = [], None
    for row in rows:
        own = numbers.at(Place(row.key, attack))
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
    axes.set_ylabel(f"accuracy under {label_of(attack, rows[0].experiment)}, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path)
    return True
