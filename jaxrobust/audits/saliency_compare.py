"""Two models audited on the same rows: does the one fall more often where it looks than the other?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.audits._saliency_measure import SALIENT
from jaxrobust.audits._saliency_report import WORST_MAP, SaliencyReport
from jaxrobust.evaluation import Estimate, subject_bootstrap

_PREFIX = "flipped/"


class SaliencyDifference(NamedTuple):
    """The second model less the first, over the rows that both had right.

    Attributes:
        map, region, perturbation: names that both audits have; the map may be `worst over maps`.
        flips: the difference of the shares that flip. excess: of those shares less those of the first control
            (None without controls).
        num_rows: that both had right.
    """

    map: str
    region: str
    perturbation: str
    flips: Estimate
    excess: Estimate
    num_rows: int


def load_flags(folder: Path | str) -> dict[str, np.ndarray]:
    """The `flags.npz` that `write_saliency_report` put into a folder."""
    path = Path(folder) / "flags.npz"
    if not path.is_file():
        raise ValueError(
            f"There is no {path}. Audit a run first: jaxrobust audit saliency RUN --report {folder}."
        )
    with np.load(path) as stored:
        return dict(stored)


def compare_saliency(
    first: SaliencyReport | Mapping[str, np.ndarray],
    second: SaliencyReport | Mapping[str, np.ndarray],
    *,
    num_draws: int = 1000,
    seed: int = 0,
) -> tuple[SaliencyDifference, ...]:
    """Differences of two audits, paired row by row, with intervals over people (or images).

    Args:
        first, second: reports, or their flags (`load_flags`), of the same images or pairs.
        num_draws, seed: of the bootstrap.

    Returns:
        One row per map, region and perturbation that both have, then the worst over maps.

    Raises:
        ValueError: for audits of other rows, that have nothing in common, or with no row that both had right.
    """
    one, two = (
        dict(value.flags if isinstance(value, SaliencyReport) else value) for value in (first, second)
    )
    for name in ("number", "fold", "unit"):
        if not np.array_equal(one[name], two[name]):
            raise ValueError(
                f"The two audits are of different rows (their {name} differ). Audit both models with the "
                "same data, --num and --seed."
            )
    cells = [
        name.removeprefix(_PREFIX).split("/") for name in one if name.startswith(_PREFIX) and name in two
    ]
    if not cells:
        raise ValueError("The two audits have no map, region and perturbation in common.")
    both = (one["right"] == 1) & (two["right"] == 1)
    if not both.any():
        raise ValueError("There is no row that both models had right, and so nothing to compare.")
    places = list(dict.fromkeys(cell[-1] for cell in cells))
    control = next((place for place in places if place != SALIENT), None)
    maps = list(dict.fromkeys(cell[0] for cell in cells))
    kinds = list(dict.fromkeys((cell[1], cell[2]) for cell in cells))

    def flipped(flags: Mapping[str, np.ndarray], name: str, kind: tuple[str, str], place: str) -> np.ndarray:
        own = maps if name == WORST_MAP else [name]
        return np.max([flags[_PREFIX + "/".join((one, *kind, place))][both] == 1 for one in own], axis=0)

    names, columns = [], []
    for name in (*maps, WORST_MAP):
        for kind in kinds:
            change = flipped(two, name, kind, SALIENT).astype(float) - flipped(one, name, kind, SALIENT)
            excess = np.full(len(change), np.nan)
            if control is not None:
                elsewhere = flipped(two, name, kind, control).astype(float) - flipped(
                    one, name, kind, control
                )
                excess = change - elsewhere
            names.append((name, *kind))
            columns += [change, excess]
    table = np.stack(columns, axis=1)

    def means(weights: np.ndarray) -> np.ndarray:
        total = weights.sum()
        return weights @ table / total if total > 0 else np.full(table.shape[1], np.nan)

    values = means(np.ones(len(table)))
    boot = subject_bootstrap(means, one["unit"][both], one["fold"][both], num_draws=num_draws, seed=seed)
    found = [
        Estimate(*(float(v) if np.isfinite(v) else None for v in cell))
        for cell in zip(values, boot.low, boot.high)
    ]
    return tuple(
        SaliencyDifference(*name, found[2 * i], found[2 * i + 1], int(both.sum()))
        for i, name in enumerate(names)
    )


def comparison_markdown(rows: tuple[SaliencyDifference, ...], first: str, second: str) -> str:
    """A table of `compare_saliency`, in points."""

    def cell(value: Estimate) -> str:
        if value.value is None:
            return "–"
        return f"{100 * value.value:+.1f} ({_signed(value.low)} to {_signed(value.high)})"

    lines = [
        f"{second} less {first}, in points, over the {rows[0].num_rows:,} rows that both had right; 95% "
        "intervals, paired, by resampling people (or images).",
        "",
        "| map | region | perturbation | flips | excess over the control |",
        "| :-- | :-- | :-- | --: | --: |",
    ]
    lines += [
        f"| {row.map} | {row.region} | {row.perturbation} | {cell(row.flips)} | {cell(row.excess)} |"
        for row in rows
    ]
    return "\n".join(lines)


def _signed(value: Any) -> str:
    return "–" if value is None else f"{100 * value:+.1f}"
