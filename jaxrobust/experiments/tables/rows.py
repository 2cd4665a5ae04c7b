"""The models of a table: the families of its kinds and scale, taken apart into rows."""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

from jaxrobust.attacks import PGD
from jaxrobust.experiments import families
from jaxrobust.experiments.experiment import BatchForm, Experiment
from jaxrobust.experiments.tables.published import best_rival
from jaxrobust.experiments.tables.settings import Kind, Scale, setting
from jaxrobust.experiments.tables.spec import Row
from jaxrobust.numerics import losses
from jaxrobust.objectives import SRT, distribution

BETA = 6.0
"""Of TRADES and RST: what their papers chose; the source states none."""

TITLES = {
    "standard": "Standard",
    "at": "AT",
    "trades": "TRADES",
    "uat": "UAT++",
    "rst": "RST",
    "rt": "RT (source)",
    "rt_full": "RT (full batch)",
    "srt": "SRT",
    "worst_of_k": "Worst-of-k",
    "klr": "KLR",
    "at_t1": "AT+ (T1)",
    "at_t2": "AT+ (T2)",
    "srt_t1": "SRT+ (T1)",
    "srt_t2": "SRT+ (T2)",
    "srt_mean": "SRT, averaged weights",
    "srt_confident": "SRT, averaged weights, rows weighed by confidence",
    "srt_soft": "SRT, averaged weights, KL to f(x)",
}
_ALL_LAMS = {Kind.PIXELS: (0.2, 0.4, 0.6, 0.8), Kind.GEOMETRY: (0.15, 0.2, 0.25, 0.3)}
_FEW_LAMS = {Kind.PIXELS: (0.2, 0.8), Kind.GEOMETRY: (0.2, 0.3)}
_TRAINING_IMAGES = {"mnist": 60_000, "cifar10": 50_000}


def experiment(dataset: str, scale: Scale, kind: Kind, name: str, *, lam: float | None = None) -> Experiment:
    """A row by its name in the family of a kind; `lam` replaces the one chosen where the source has none."""
    found = setting(dataset, scale, kind)
    weight = found.lam if lam is None else lam
    grows: dict[str, Any] = {"warmup": found.warmup, "lam_warmup": found.lam_warmup}
    if kind is Kind.PIXELS:
        rows = families.family(found.base, found.pixels, lam=weight, beta=BETA, **grows)
    elif kind is Kind.GEOMETRY:
        rows = families.geometry(found.base, found.poses, pixels=found.pixels, lam=weight, **grows)
    else:
        rows = families.composite(found.base, found.pixels, found.poses, lam=weight, **grows)
    if name == "standard":
        # What robust accuracy an undefended model has is noise, and would choose an early checkpoint.
        return dataclasses.replace(rows[name], validation_attack=None)
    return rows[name]


def supervised(labelled: Experiment, more: int) -> Experiment:
    """The same with the labels of so many more images, and no unlabelled ones."""
    data = dataclasses.replace(
        labelled.image_data, num_labelled=labelled.image_data.num_labelled + more, num_unlabelled=0
    )
    return dataclasses.replace(labelled, data=data, batches=BatchForm.LABELLED, labelled_per_step=None)


def by_lam(kind: Kind) -> Callable[[str, Scale], list[Row]]:
    """Standard, and RT and SRT at every lam: Tables 1, 2, 4 and 5. `small` has fewer.

    Further seeds, and at `small` scale the source's own RT, are asked for at the lam of Tables 3 and 6, whose
    runs these are then too; where the table has no such lam, at its first.
    """

    def rows(dataset: str, scale: Scale) -> list[Row]:
        whole = scale in (Scale.PAPER, Scale.GPU)
        standard = experiment(dataset, scale, kind, "standard")
        found = [Row(key="standard", title=TITLES["standard"], experiment=standard)]
        lams, shared = (_ALL_LAMS if whole else _FEW_LAMS)[kind], setting(dataset, scale, kind).lam
        main = shared if shared in lams else lams[0]
        for lam in lams:
            for name in ("rt", "rt_full", "srt") if whole or lam == main else ("rt_full", "srt"):
                found.append(
                    Row(
                        key=f"{name}@{lam:g}",
                        title=f"{TITLES[name]}, λ {lam:g}",
                        experiment=experiment(dataset, scale, kind, name, lam=lam),
                        rival=name != "rt" and lam == main,
                    )
                )
        return found

    return rows


def defences(kind: Kind, table: str, attack: str, *names: str) -> Callable[[str, Scale], list[Row]]:
    """Rows by their names in the family of a kind: Tables 3 and 6.

    The further seeds are SRT's, RT's (full batch), and those of whom the source has as the best rival under
    `attack` in `table`.
    """

    def rows(dataset: str, scale: Scale) -> list[Row]:
        # The source's RT is asked for in the tables of lam alone.
        chosen = [name for name in names if name != "rt" or scale in (Scale.PAPER, Scale.GPU)]
        rivals = ("srt", "rt_full", best_rival(table, dataset, attack))
        return [
            Row(
                key=name,
                title=TITLES[name],
                experiment=experiment(dataset, scale, kind, name),
                rival=name in rivals,
            )
            for name in chosen
        ]

    return rows


def of_kinds(*names: tuple[Kind, str, str]) -> Callable[[str, Scale], list[Row]]:
    """Rows of several kinds, as (kind, name, title): Figures 6 and 7."""

    def rows(dataset: str, scale: Scale) -> list[Row]:
        return [
            Row(key=f"{kind.value}/{name}", title=title, experiment=experiment(dataset, scale, kind, name))
            for kind, name, title in names
        ]

    return rows


def unlabelled_counts(dataset: str, scale: Scale) -> tuple[int, ...]:
    """Figure 8's numbers of unlabelled images, from 0 up; those for validation are not among them.

    `small` goes up in powers of four: its runs draw 53,500 unlabelled images at most, of CIFAR-10 32,000.
    """
    if scale is Scale.TINY:
        return (0, 400, 878)
    data = setting(dataset, scale, Kind.PIXELS).base.image_data
    most = _TRAINING_IMAGES[dataset] - data.num_labelled - data.num_validation
    inner = (1_000, 4_000, 16_000) if scale is Scale.SMALL else range(10_000, most, 10_000)
    return (0, *inner, most)


def growing(dataset: str, scale: Scale) -> list[Row]:
    """SRT with more and more unlabelled images, and AT that has all labels: Figure 8."""
    base = experiment(dataset, scale, Kind.PIXELS, "srt")
    counts = unlabelled_counts(dataset, scale)
    # Without unlabelled images SRT is RT, and the whole batch is labelled.
    rows = [
        Row(
            key="srt@0",
            title="SRT, 0 unlabelled",
            experiment=experiment(dataset, scale, Kind.PIXELS, "rt_full"),
        )
    ]
    for count in counts[1:]:
        data = dataclasses.replace(base.image_data, num_unlabelled=None if count == counts[-1] else count)
        rows.append(
            Row(
                key=f"srt@{count}",
                title=f"SRT, {count:,} unlabelled",
                experiment=dataclasses.replace(base, data=data),
            )
        )
    full = supervised(experiment(dataset, scale, Kind.PIXELS, "at"), counts[-1])
    return [*rows, Row(key="at_all", title="AT, all labels", experiment=full)]


def modern(dataset: str, scale: Scale) -> list[Row]:
    """SRT, and SRT with what is customary today, at the same number of passes.

    Weights are averaged over about the last twentieth of the run (Gowal et al., arXiv:2010.03593, average
    too); besides, either a pseudo-label counts as much as the net is sure of it, or it gives way to the whole
    distribution, held fixed, in the loss and in the attack: the divergence of TRADES. Nothing was tuned.
    """
    base = experiment(dataset, scale, Kind.PIXELS, "srt")
    mean = dataclasses.replace(base, ema_decay=1 - 20 / base.num_steps)
    srt = cast(SRT, base.objective)
    climb = dataclasses.replace(cast(PGD, srt.attack), loss_fn=losses.kl)
    soft = dataclasses.replace(srt, attack=climb, robust_loss_fn=losses.kl, target_fn=distribution)
    found = {
        "srt": base,
        "srt_mean": mean,
        "srt_confident": dataclasses.replace(mean, objective=dataclasses.replace(srt, confidence_power=1.0)),
        "srt_soft": dataclasses.replace(mean, objective=soft),
    }
    return [Row(key=name, title=TITLES[name], experiment=one, rival=True) for name, one in found.items()]
