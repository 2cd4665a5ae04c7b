"""The pictures of a privacy audit: of each attack the best, the median and the worst reconstruction."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxrobust.audits._privacy_report import Case
from jaxrobust.evaluation import AttackedFold, ReconstructionReport


def cases_of(
    reports: Mapping[str, ReconstructionReport], attacked: Mapping[str, Sequence[AttackedFold]]
) -> tuple[Case, ...]:
    """Three strips per attack, over all its folds, with the partners that the controls were measured with."""
    found = []
    for name, report in reports.items():
        places = [(fold, i) for fold, strip in enumerate(report.strips) for i in range(len(strip.ssim))]
        order = np.argsort(-np.concatenate([strip.ssim for strip in report.strips]), kind="stable")
        picks = {"best": order[0], "median": order[(len(order) - 1) // 2], "worst": order[-1]}
        for kind, pick in picks.items():
            fold, i = places[int(pick)]
            strip, victims = report.strips[fold], attacked[name][fold].victims
            found.append(
                Case(
                    attack=name,
                    kind=kind,
                    ssim=float(strip.ssim[i]),
                    image=victims.images[i],
                    reconstruction=victims.reconstructions[i],
                    mean_face=attacked[name][fold].mean_face,
                    wrong=victims.reconstructions[strip.wrong[i]],
                    other=victims.images[strip.other[i]],
                )
            )
    return tuple(found)
