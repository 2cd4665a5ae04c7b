"""One model of a table: the family of its kind and scale, taken apart into experiments."""

import dataclasses

from jaxrobust.experiments import families
from jaxrobust.experiments.experiment import BatchForm, Experiment
from jaxrobust.experiments.tables.settings import Kind, Scale, setting

BETA = 6.0
"""Of TRADES and RST: what their papers chose; the source states none."""


def experiment(dataset: str, scale: Scale, kind: Kind, name: str, *, lam: float | None = None) -> Experiment:
    """A row by its name in the family of a kind; `lam` replaces the one chosen where the source has none."""
    found = setting(dataset, scale, kind)
    weight = found.lam if lam is None else lam
    if kind is Kind.PIXELS:
        rows = families.family(found.base, found.pixels, lam=weight, beta=BETA, warmup=found.warmup)
    elif kind is Kind.GEOMETRY:
        rows = families.geometry(found.base, found.poses, pixels=found.pixels, lam=weight)
    else:
        rows = families.composite(found.base, found.pixels, found.poses, lam=weight, warmup=found.warmup)
    if name == "standard":
        # What robust accuracy an undefended model has is noise, and would choose an early checkpoint.
        return dataclasses.replace(rows[name], validation_attack=None)
    return rows[name]


def supervised(labelled: Experiment, more: int) -> Experiment:
    """The same with the labels of so many more images, and no unlabelled ones."""
    data = dataclasses.replace(
        labelled.data, num_labelled=labelled.data.num_labelled + more, num_unlabelled=0
    )
    return dataclasses.replace(labelled, data=data, batches=BatchForm.LABELLED, labelled_per_step=None)
