"""The page of the face arms: tables with intervals over people, paired differences, gate traces, times."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxrobust.experiments._files import Row, read_rows, write_text
from jaxrobust.experiments._results import mean_interval
from jaxrobust.experiments.face_arms import ARMS

CLEAN_EER = "clean|eer"
DRAWS = "draws"
_ORDER = (*ARMS, "srt")
# What two rows must have in common for their differences to be paired.
_SAME = (("clean", "pairs"), ("attacked", "chosen"), ("attacked", "validation_pairs"))


def write(rows: Sequence[Row], out_dir: Path, runs_dir: Path, command: str) -> None:
    """`README.md`, `gate.png` and `arms.png` of the rows that are there so far."""
    if not rows:
        return
    arms = [arm for arm in _ORDER if any(row["arm"] == arm for row in rows)]
    seeds = sorted({row["seed"] for row in rows})
    text = [
        _head(rows, command),
        "## The arms",
        _arms_table(rows, arms),
        _legend(rows),
        "## Differences to the clean arm and to adversarial training only",
        _differences(rows, arms, out_dir / DRAWS),
        "## The gate, and what it saved",
        _gate_table(rows, arms),
    ]
    if draw_gates(arms, seeds, runs_dir, out_dir / "gate.png"):
        text.append("![Gate traces](gate.png)")
    draw_arms(rows, arms, out_dir / "arms.png")
    text += ["![Acceptance under attack](arms.png)", "## Said by the trust checks", _verdicts(rows, arms)]
    write_text(out_dir / "README.md", "\n\n".join(part for part in text if part) + "\n")


def _head(rows: Sequence[Row], command: str) -> str:
    first, attacked = rows[0]["clean"], rows[0]["attacked"]
    meta = first["meta"]
    versions = ", ".join(f"{name} {version}" for name, version in meta["versions"].items())
    return (
        "# Face training behind a performance gate\n\n"
        f"```\n{command}\n```\n\n"
        "Written by the command above; `rows.jsonl` has every number. CN116665282A on ORL: 40 people, four "
        "folds that share nobody (24 train, 6 validate, 10 are tested), decisions pooled over the folds. "
        f"Clean numbers are of {first['num_genuine']:,} genuine and {first['num_impostor']:,} impostor "
        f"pairs, attacks of {attacked['num_genuine']:,} and {attacked['num_impostor']:,}, drawn evenly. "
        "Thresholds are those of a FAR of 1% on each fold's validation people. Seeds change weights and "
        "batches; the last checkpoint is judged. ORL is small: ten people a fold.\n\n"
        f"{versions}; {meta['hardware']}."
    )


def _arms_table(rows: Sequence[Row], arms: Sequence[str]) -> str:
    """Means over seeds; intervals over seeds where there are several, and over people in the rows."""
    first = _first(rows)
    columns = [
        "EER, clean",
        "TAR at FAR 1%",
        "achieved FAR",
        *(f"genuine accepted, {name}" for name in ("clean", first, "all")),
        *(f"impostors accepted, {name}" for name in ("clean", first, "all")),
        "least eps, dodging",
        "least eps, impersonation",
    ]
    lines = [f"| arm | {' | '.join(columns)} |", "| :-- |" + " --: |" * len(columns)]
    for arm in arms:
        own = [row for row in rows if row["arm"] == arm]
        cells = [
            _mean([row["clean"]["eer"]["value"] for row in own]),
            _mean([row["clean"]["tar_at_far"][0]["tar"]["value"] for row in own]),
            _mean([row["clean"]["decisions"]["far"]["value"] for row in own]),
            *(
                _mean([_rate(row, name, kind) for row in own])
                for kind in ("acceptance", "false_accepts")
                for name in (None, first, "ensemble")
            ),
            *(_least(own, kind) for kind in ("dodging", "impersonation")),
        ]
        lines.append(f"| {ARMS.get(arm, arm)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _first(rows: Sequence[Row]) -> str:
    """The attack that is shown by itself."""
    return rows[0]["attacked"]["rows"][0]["attack"]


def _rate(row: Row, name: str | None, kind: str) -> float | None:
    """Of an attack's row; before any attack, of the same pairs, where there is no name."""
    if name is None:
        return row["attacked"][kind]["value"]
    return next(one[kind]["value"] for one in row["attacked"]["rows"] if one["attack"] == name)


def _mean(values: Sequence[float | None]) -> str:
    """`12.3 (11.0 to 13.6)`, in percent, over seeds."""
    known = [100 * value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "–"
    mean, half = mean_interval(known)
    return f"{mean:.1f}" if half is None else f"{mean:.1f} ± {half:.1f}"


def _least(rows: Sequence[Row], kind: str) -> str:
    """The median least radius, in levels of 255, a value per seed."""
    found = []
    for row in rows:
        least = next(one for one in row["attacked"]["minimums"] if one["how"] == "bisection")
        median = least[f"{kind}_255"]
        if not least[kind]["right"]:
            found.append("–")
        elif median is None or median["value"] is None:
            found.append(f"> {255 * least['largest']:.0f}")
        else:
            found.append(f"{median['value']:.2f}")
    return ", ".join(found)


def _legend(rows: Sequence[Row]) -> str:
    members = ", ".join(rows[0]["attacked"]["rows"][-1]["config"])
    others = any(one["made_on"] for one in rows[0]["attacked"]["rows"])
    made = " (*from*: images made on another seed's adversarially trained models)" if others else ""
    return (
        "Percent; ± is the 95% Student t interval over seeds, which says nothing of other people: intervals "
        "by resampling people are in the rows and below. *Genuine accepted*: under dodging, the first image "
        "of each pair attacked; *impostors accepted*: under impersonation; *clean*: the same pairs before. "
        f"*All*: a pair counts as broken where any of these breaks it: {members}{made}. *Least eps*: the "
        "median, by bisection of that PGD, pixels in [0, 255], one value per seed, over the pairs decided "
        "rightly before."
    )


def _differences(rows: Sequence[Row], arms: Sequence[str], draws: Path) -> str:
    """Paired over the same resampled people, averaged over the seeds that both arms have."""
    first = _first(rows)
    lines = []
    for base in ("clean", "at"):
        for arm in arms:
            if arm == base or base not in arms or (arm == "clean" and base == "at"):
                continue
            cells = [_difference(rows, arm, base, name, draws) for name in statistics_of(first).values()]
            lines.append(f"| {ARMS.get(arm, arm)} less {ARMS[base]} | {' | '.join(cells)} |")
    if not lines:
        return "Needs two arms."
    names = list(statistics_of(first))
    head = [f"| difference | {' | '.join(names)} |", "| :-- |" + " --: |" * len(names)]
    note = (
        "Points, averaged over seeds, with 95% intervals by resampling people, the same for both. The "
        "trained nets are held fixed in them: how far seeds differ stands behind the semicolon."
    )
    return "\n".join([*head, *lines, "", note])


def statistics_of(first: str) -> dict[str, str]:
    """Columns of the differences, and what they are called in the draws that are kept."""
    return {
        "EER": CLEAN_EER,
        f"genuine accepted, {first}": f"genuine accepted|{first}",
        "genuine accepted, all": "genuine accepted|ensemble",
        f"impostors accepted, {first}": f"impostor accepted|{first}",
        "impostors accepted, all": "impostor accepted|ensemble",
    }


def _difference(rows: Sequence[Row], arm: str, base: str, name: str, draws: Path) -> str:
    points, drawn = [], []
    for seed in sorted({row["seed"] for row in rows}):
        pair = [_row(rows, one, seed) for one in (arm, base)]
        if pair[0] is None or pair[1] is None:
            continue
        same = all(pair[0][part][key] == pair[1][part][key] for part, key in _SAME)
        values = [_of(row, name) for row in pair]
        own = [_drawn(draws / f"{one}-seed{seed}.npz", name) for one in (arm, base)]
        if not same or own[0] is None or own[1] is None or None in values:
            return "–"
        points.append(100 * (values[0] - values[1]))
        drawn.append(100 * (own[0] - own[1]))
    if not points:
        return "–"
    low, high = np.nanpercentile(np.mean(drawn, axis=0), [2.5, 97.5])
    seeds = f"; {min(points):+.1f} to {max(points):+.1f}" if len(points) > 1 else ""
    return f"{np.mean(points):+.1f} ({low:+.1f} to {high:+.1f}{seeds})"


def _row(rows: Sequence[Row], arm: str, seed: int) -> Any:
    return next((row for row in rows if row["arm"] == arm and row["seed"] == seed), None)


def _of(row: Row, name: str) -> Any:
    if name == CLEAN_EER:
        return row["clean"]["eer"]["value"]
    kind, attack = name.split("|")
    return _rate(row, attack, "acceptance" if kind.startswith("genuine") else "false_accepts")


def _drawn(path: Path, name: str) -> np.ndarray | None:
    """None where the file is not there."""
    if not path.is_file():
        return None
    with np.load(path) as found:
        return found[name]


def _gate_table(rows: Sequence[Row], arms: Sequence[str]) -> str:
    lines = [
        "| arm | first open, step | share of steps open | changes | training, s a run |",
        "| :-- | --: | --: | --: | --: |",
    ]
    for arm in arms:
        runs = [run for row in rows if row["arm"] == arm for run in row["runs"]]
        gates = [run["gate"] for run in runs if run["gate"] and arm == "gated"]
        # A resumed run knows the time of its last part only.
        seconds = [run["seconds"] for run in runs if run["seconds"] is not None and not run["resumed_at"]]
        opened = [gate["first_open"] for gate in gates if gate["first_open"] is not None]
        cells = [
            f"{np.median(opened):.0f} ({min(opened)} to {max(opened)})" if opened else "–",
            f"{100 * np.mean([gate['share_open'] for gate in gates]):.0f}%" if gates else "–",
            f"{np.mean([gate['flaps'] for gate in gates]):.1f}" if gates else "–",
            f"{np.median(seconds):.0f} ({len(seconds)} of {len(runs)} runs)" if seconds else "–",
        ]
        lines.append(f"| {ARMS.get(arm, arm)} | {' | '.join(cells)} |")
    note = (
        "Seconds are the median over runs, compiling and validation included, on a machine that may have "
        "done other things; of runs that were not interrupted. First open: steps from 0, the median over "
        "runs, with the least and the largest."
    )
    return "\n".join([*lines, "", note])


def _verdicts(rows: Sequence[Row], arms: Sequence[str]) -> str:
    lines = []
    for arm in arms:
        for row in rows:
            if row["arm"] == arm:
                bad = [v for v in row["attacked"]["verdicts"] if v["level"].lower() in ("warn", "fail")]
                said = [f"{v['check']}: {v['advice']}" for v in bad] + list(row["attacked"]["warnings"])
                lines += [f"- {ARMS.get(arm, arm)}, seed {row['seed']}: {one}" for one in said]
    return "\n".join(lines) or "Nothing."


def draw_gates(arms: Sequence[str], seeds: Sequence[int], runs_dir: Path, path: Path) -> bool:
    """The gated arm's measure and how open its gate was, by fold of the first seed; False without runs."""
    if "gated" not in arms:
        return False
    traces = {}
    for folder in sorted(runs_dir.glob(f"gated-seed{seeds[0]}-fold*")):
        rows = [row for row in read_rows(folder / "metrics.jsonl") if "gate_open" in row]
        if rows:
            traces[folder.name.rpartition("fold")[2]] = rows
    if not traces:
        return False
    figure = Figure(figsize=(8, 3), layout="constrained")
    FigureCanvasAgg(figure)
    measure, share = figure.subplots(1, 2, sharex=True)
    for fold, rows in traces.items():
        steps = [row["step"] for row in rows]
        measure.plot(steps, [row["gate_measure"] for row in rows], marker=".", label=f"fold {fold}")
        share.plot(steps, [row["gate_open"] for row in rows], marker=".", label=f"fold {fold}")
    measure.set(xlabel="step", ylabel="measure of the gate", yscale="log")
    share.set(xlabel="step", ylabel="share of steps with the gate open", ylim=(-0.02, 1.02))
    share.legend()
    figure.savefig(path, dpi=120)
    return True


def draw_arms(rows: Sequence[Row], arms: Sequence[str], path: Path) -> None:
    """Acceptance of genuine and of impostor pairs, clean, under one attack and under everything, by arm."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    kinds = {"acceptance": "genuine pairs accepted, dodging", "false_accepts": "impostors accepted"}
    for axes, (kind, title) in zip(panels, kinds.items()):
        for offset, name in enumerate(("clean", _first(rows), "ensemble")):
            for place, arm in enumerate(arms):
                own = [row for row in rows if row["arm"] == arm]
                values = [_rate(row, None if name == "clean" else name, kind) for row in own]
                axes.bar(
                    place + 0.26 * (offset - 1),
                    100 * float(np.mean([v for v in values if v is not None])),
                    width=0.24,
                    color=f"C{offset}",
                    label=name if place == 0 else None,
                )
        axes.set(title=title, xticks=range(len(arms)), xticklabels=arms, ylim=(0, 100))
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("%")
    panels[1].legend()
    figure.savefig(path, dpi=120)
