"""Which of two models gives away more: the same victims, attacked alike, with paired intervals."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxrobust.audits._privacy_page import DRAWS_FILE, REPORT_FILE
from jaxrobust.audits._privacy_report import DRAWN, number
from jaxrobust.evaluation import Estimate

_ALIKE = ("seeds", "num_draws", "num_optimised", "num_pairs", "far", "window")
# What changes neither an attack nor what is compared of it.
_APART = ("mitigations", "batch_rows", "least_genuine")


class PrivacyDifference(NamedTuple):
    """The second model less the first.

    Attributes:
        attack: by which. measure: `leak`, `type II` (both by the judge) or `SSIM`.
        first, second: their values. difference: with its interval, from the same draws of people for both.
    """

    attack: str
    measure: str
    first: float | None
    second: float | None
    difference: Estimate


def compare_privacy(first: Path | str, second: Path | str) -> tuple[PrivacyDifference, ...]:
    """Compares two folders that `write_privacy_report` wrote.

    Both audits drew the same people, so that differences are paired: what makes some victims easier to
    reconstruct falls out. Of bands, and of attackers who differ, `privacy_comparison_notes` tells.

    Args:
        first, second: folders of reports about the same images, with the same seeds and numbers.

    Returns:
        A row per attack that both have and measure.

    Raises:
        ValueError: for what is no report, other images, or other settings of the measurement.
    """
    reports, draws = zip(*(_read(Path(one)) for one in (first, second)), strict=True)
    images = [report["facts"]["images"] for report in reports]
    if images[0] != images[1]:
        raise ValueError(
            f"{first} and {second} are about different images, or divide them otherwise: a difference would "
            "be one of people too. Audit both models on the same folds."
        )
    settings = [report["meta"]["audit"] for report in reports]
    for name in _ALIKE:
        if settings[0][name] != settings[1][name]:
            raise ValueError(
                f"{first} was measured with {name}={settings[0][name]}, {second} with {settings[1][name]}. "
                "Audit both alike."
            )
    found = []
    for attack in reports[0]["attacks"]:
        for measure, column in DRAWN.items():
            key = f"{attack}/{column}"
            if key in draws[0] and key in draws[1]:
                found.append(_difference(attack, measure, draws[0][key], draws[1][key]))
    return tuple(found)


def privacy_comparison_notes(first: Path | str, second: Path | str) -> tuple[str, ...]:
    """What to read beside the differences: the bands, and in what the attackers themselves differ.

    Args:
        first, second: as in `compare_privacy`.

    Returns:
        Sentences.
    """
    one, other = (_read(Path(folder))[0] for folder in (first, second))
    said = [
        f"By {attack} the first is {found['band']}, the second {other['attacks'][attack]['band']}."
        for attack, found in one["attacks"].items()
        if attack in other["attacks"]
    ]
    settings = one["meta"]["audit"], other["meta"]["audit"]
    for name in sorted(settings[0].keys() & settings[1].keys() - set(_APART)):
        if settings[0][name] != settings[1][name]:
            said.append(
                f"Warning: attacked otherwise, so that not the models alone differ: {name} is "
                f"{settings[0][name]} for the first, {settings[1][name]} for the second."
            )
    return tuple(said)


def privacy_comparison_markdown(
    rows: tuple[PrivacyDifference, ...], first: str, second: str, notes: tuple[str, ...] = ()
) -> str:
    """A table of differences, with `privacy_comparison_notes` below."""
    lines = [
        f"{second} less {first}, with 95% intervals from the same draws of people.",
        "",
        "| attack | measure | first | second | difference |",
        "| :-- | :-- | --: | --: | --: |",
    ]
    for row in rows:
        one, other = ("–" if value is None else f"{value:.3f}" for value in (row.first, row.second))
        lines.append(f"| {row.attack} | {row.measure} | {one} | {other} | {number(row.difference)} |")
    return "\n".join([*lines, "", *notes] if notes else lines)


def _read(folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    try:
        report = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
        with np.load(folder / DRAWS_FILE, allow_pickle=False) as file:
            draws = {name: file[name] for name in file.files}
        report["facts"]["images"], report["meta"]["audit"], report["attacks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is no folder of a privacy audit: {error!r}.") from error
    return report, draws


def _difference(attack: str, measure: str, first: np.ndarray, second: np.ndarray) -> PrivacyDifference:
    """Arrays whose first number is the value, and whose others are its draws."""
    values = [float(one[0]) if np.isfinite(one[0]) else None for one in (first, second)]
    if values[0] is None or values[1] is None:
        return PrivacyDifference(attack, measure, values[0], values[1], Estimate(None))
    drawn = second[1:] - first[1:]
    there = drawn[np.isfinite(drawn)]
    low, high = np.quantile(there, [0.025, 0.975]) if len(there) > 0.9 * len(drawn) else (None, None)
    limits = (None, None) if low is None or high is None else (float(low), float(high))
    return PrivacyDifference(attack, measure, values[0], values[1], Estimate(values[1] - values[0], *limits))
