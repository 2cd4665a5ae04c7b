"""From attacks on pairs to the rows of a report."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxrobust.evaluation import _pair_attacks, _programs, _provenance
from jaxrobust.evaluation._attacked_report import AttackedRow, Distances, MinimumRow, row_name
from jaxrobust.evaluation._pair_attacks import Case, Found, Side
from jaxrobust.evaluation._pair_cases import ENSEMBLE
from jaxrobust.evaluation._verification_report import Estimate
from jaxrobust.evaluation.minimum_eps import bisect
from jaxrobust.types import Attack

ProgressFn = Callable[[str, int, int], None]


class Run(NamedTuple):
    """One attack on all pairs of a case: its row, as yet without rates, and what it did `[m]`."""

    row: AttackedRow
    found: Found


def run_all(
    case: Case,
    judged: Side,
    attacks: Mapping[str, Attack],
    index: np.ndarray,
    other: tuple[str, Side] | None,
    progress_fn: ProgressFn | None,
) -> list[Run]:
    """Every attack on the pairs at `index`; the others are left as they are."""
    runs = []
    for title, attack in attacks.items():
        start = time.perf_counter()
        maker = None if other is None else other[1]
        found = _pair_attacks.run(
            case, title, attack, index, judged=judged, maker=maker, progress_fn=progress_fn
        )
        row = _row(title, attack, found, time.perf_counter() - start)
        runs.append(Run(row._replace(made_on=other and other[0]), _spread(found, index, len(case.rows))))
    return runs


def _row(title: str, attack: Attack, found: Found, seconds: float) -> AttackedRow:
    """All but the rates."""
    unknown = Estimate(None)
    return AttackedRow(
        attack=title,
        made_on=None,
        radius=_provenance.radius_label(attack),
        eps=_provenance.radii(attack),
        config=_provenance.describe(attack),
        minimum_norm=_programs.is_minimum_norm(attack),
        acceptance=unknown,
        false_accepts=unknown,
        acceptance_8bit=0.0,
        false_accepts_8bit=0.0,
        dodged=0,
        impersonated=0,
        nonfinite=int(found.nonfinite.sum()),
        outside=int(found.outside.sum()),
        outside_8bit=int(found.outside_8bit.sum()),
        pixel_low=float(found.low.min()) if len(found.low) else None,
        pixel_high=float(found.high.max()) if len(found.high) else None,
        seconds=round(seconds, 4),
    )


def _spread(found: Found, index: np.ndarray, num: int) -> Found:
    """By pair of the case, where those that were not attacked are False or NaN."""
    full = Found(*(np.zeros(num, bool) if v.dtype == bool else np.full(num, np.nan) for v in found))
    for values, own in zip(full, found):
        values[index] = own
    return full


def together(runs: Sequence[Run]) -> Run:
    """The ensemble of all runs: broken is what any of them breaks."""
    first = runs[0].found
    found = first._replace(
        broken=np.logical_or.reduce([run.found.broken for run in runs]),
        broken_8bit=np.logical_or.reduce([run.found.broken_8bit for run in runs]),
        nonfinite=np.logical_or.reduce([run.found.nonfinite for run in runs]),
    )
    lows = [run.row.pixel_low for run in runs if run.row.pixel_low is not None]
    highs = [run.row.pixel_high for run in runs if run.row.pixel_high is not None]
    row = runs[0].row._replace(
        attack=ENSEMBLE,
        made_on=None,
        radius="",
        eps=[],
        config=[row_name(run.row) for run in runs],
        minimum_norm=all(run.row.minimum_norm for run in runs),
        nonfinite=int(found.nonfinite.sum()),
        outside=sum(run.row.outside for run in runs),
        outside_8bit=sum(run.row.outside_8bit for run in runs),
        pixel_low=min(lows, default=None),
        pixel_high=max(highs, default=None),
        seconds=round(sum(run.row.seconds for run in runs), 4),
    )
    return Run(row, found)


def filled(run: Run, genuine: np.ndarray, accepted: np.ndarray, known: Mapping[str, Estimate]) -> AttackedRow:
    """The row with its rates."""
    rounded = accepted ^ run.found.broken_8bit
    title = row_name(run.row)
    return run.row._replace(
        acceptance=known[f"genuine accepted/{title}"],
        false_accepts=known[f"impostor accepted/{title}"],
        acceptance_8bit=float(rounded[genuine].mean()),
        false_accepts_8bit=float(rounded[~genuine].mean()),
        dodged=int(run.found.broken[genuine].sum()),
        impersonated=int(run.found.broken[~genuine].sum()),
    )


def lengths_of(run: Run, right: np.ndarray) -> np.ndarray:
    """A minimum-norm attack's distances `[m]`: 0 where the decision was wrong before."""
    return np.where(right, run.found.length, 0.0)


def bisected(
    case: Case,
    judged: Side,
    title: str,
    attack: Attack,
    right: np.ndarray,
    bisections: int,
    progress_fn: ProgressFn | None,
) -> np.ndarray:
    """The least radii `[m]`, in the units of the attack's one ball, or in radii."""
    index = np.flatnonzero(right)

    def broken(shares: np.ndarray) -> np.ndarray:
        return _pair_attacks.run(
            case, title, attack, index, judged=judged, factor=shares, progress_fn=progress_fn
        ).broken

    found = np.zeros(len(right))
    found[index] = bisect(broken, len(index), bisections=bisections)
    return found * (_provenance.single_eps(attack) or 1.0)


def minimum_row(
    title: str,
    attack: Attack,
    values: np.ndarray,
    kinds: Mapping[str, np.ndarray],
    right: np.ndarray,
    known: Mapping[str, Estimate],
    bisections: int | None,
) -> MinimumRow:
    """The row of an attack's least changes `values [m]`, by kind of pair; `right`: decided rightly before.

    `known`: the estimates by name; `bisections`: how often the radius was halved, None for a minimum-norm
    attack, whose distances are its own.
    """

    def distances(kind: str) -> Distances:
        own = values[kinds[kind] & right]
        return Distances(
            right=len(own),
            found=float(np.isfinite(own).mean()) if len(own) else None,
            median=known[f"{kind} least/{title}"],
            median_all=known[f"{kind} least of all/{title}"],
        )

    eps = _provenance.single_eps(attack) or 1.0
    return MinimumRow(
        attack=title,
        how="minimum norm" if bisections is None else "bisection",
        norm=_provenance.norm_name(_provenance.single_norm(attack)),
        largest=None if bisections is None else eps,
        resolution=None if bisections is None else eps / 2**bisections,
        dodging=distances("genuine"),
        impersonation=distances("impostor"),
    )
