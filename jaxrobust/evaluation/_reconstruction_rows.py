"""One fold of reconstructions as rows to average: images, pairs of one person, pairs of two."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrobust.evaluation import _embed
from jaxrobust.evaluation.critics import Critic
from jaxrobust.evaluation.identification import Rank1, rank1
from jaxrobust.numerics import callables
from jaxrobust.numerics.chunks import in_chunks
from jaxrobust.numerics.fidelity import psnr, ssim
from jaxrobust.types import Array

CONTROLS = ("reconstruction", "mean face", "wrong identity", "other photo")
MOST_DB = 100.0
"""Equal images have an infinite PSNR, which no mean can hold."""


class Table(NamedTuple):
    """Rows that are averaged together.

    Attributes:
        subjects: int `[m, 2]`, who counts for each row.
        columns: float `[m]` each, by name.
    """

    subjects: np.ndarray
    columns: dict[str, np.ndarray]


class Partners(NamedTuple):
    """For each image `[n]`, another photo of its person, and an image of somebody else."""

    other: np.ndarray
    wrong: np.ndarray


class _People(NamedTuple):
    """Images in the order of people, `order`; where each one's person starts there, and has how many."""

    order: np.ndarray
    start: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, identity: np.ndarray) -> "_People":
        order = np.argsort(identity, kind="stable")
        ordered = identity[order]
        start = np.searchsorted(ordered, ordered)
        return cls(order, start, np.searchsorted(ordered, ordered, side="right") - start)

    def mate(self, at: np.ndarray, which: np.ndarray) -> np.ndarray:
        """The `which`-th of the other images of the person of place `at`."""
        around = (at - self.start[at] + 1 + which) % self.size[at]
        return self.order[self.start[at] + around]

    def stranger(self, at: np.ndarray, which: np.ndarray) -> np.ndarray:
        """The `which`-th of the images of everybody else."""
        return self.order[np.where(which < self.start[at], which, which + self.size[at])]


def partners(identity: np.ndarray, rng: np.random.Generator) -> Partners:
    """Drawn uniformly, image by image; everybody has two images, and there are two people."""
    people, at = _People.of(identity), np.arange(len(identity))
    other, wrong = np.empty((2, len(identity)), np.int64)
    other[people.order] = people.mate(at, rng.integers(0, people.size - 1))
    wrong[people.order] = people.stranger(at, rng.integers(0, len(at) - people.size))
    return Partners(other, wrong)


def likeness(
    images: np.ndarray,
    others: Mapping[str, np.ndarray],
    window: int,
    perceptual_fn: Any,
    batch_size: int,
) -> dict[str, np.ndarray]:
    """SSIM, PSNR and perceptual distance of images `[n, h, w, c]` to others: `[n]` by `measure/name`."""
    found = {}
    structure, arrays = (None, ()) if perceptual_fn is None else callables.split(perceptual_fn)
    for name, other in others.items():
        rows = (images, np.broadcast_to(other, images.shape))
        values = in_chunks(_likeness, (structure, window), (arrays,), rows, batch_size)
        found[f"ssim/{name}"] = values[0].astype(np.float64)
        found[f"psnr/{name}"] = np.minimum(values[1].astype(np.float64), MOST_DB)
        if perceptual_fn is not None:
            found[f"perceptual/{name}"] = values[2].astype(np.float64)
    return found


def _likeness(structure: Any, window: int, arrays: Any, rows: tuple[Array, Array]) -> tuple[Array, ...]:
    first, second = rows
    found = (ssim(first, second, window=window), psnr(first, second))
    return found if structure is None else (*found, callables.merge(structure, arrays)(first, second))


def pair_rows(
    identity: np.ndarray, num_pairs: int | None, rng: np.random.Generator
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Ordered pairs (source, photo) of one person and of two; at most `num_pairs` of each, drawn."""
    people = _People.of(identity)
    kinds = ((people.size - 1, people.mate), (len(identity) - people.size, people.stranger))
    found = []
    for counts, partner_fn in kinds:
        stops = np.cumsum(counts)
        total = int(stops[-1])
        if num_pairs is None or total <= num_pairs:
            ranks = np.arange(total)
        else:
            ranks = np.sort(rng.choice(total, num_pairs, replace=False, shuffle=False))
        at = np.searchsorted(stops, ranks, side="right")
        found.append((people.order[at], partner_fn(at, ranks - (stops - counts)[at])))
    return found[0], found[1]


class Judged(NamedTuple):
    """What one critic said in one fold: bool arrays over images, pairs of one person, pairs of two."""

    images: dict[str, np.ndarray]
    genuine: dict[str, np.ndarray]
    wrong: dict[str, np.ndarray]
    rank1: Rank1
    rank1_real: Rank1


def judged(
    critic: Critic,
    images: np.ndarray,
    reconstructions: np.ndarray,
    mean_face: np.ndarray,
    identity: np.ndarray,
    genuine: tuple[np.ndarray, np.ndarray],
    wrong: tuple[np.ndarray, np.ndarray],
    batch_size: int,
) -> Judged:
    """Acceptance of real photos, reconstructions and the mean face."""
    embed = functools.partial(_embed.embed_images, critic.embed_fn, batch_size=batch_size)
    real, made = embed(images, what="the victims"), embed(reconstructions, what="the reconstructions")
    mean = embed(mean_face[None], what="the mean face")

    def accepted(first: np.ndarray, second: np.ndarray, rows: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        both = np.concatenate([first, second])
        return _embed.cosines(both, rows[0], rows[1] + len(first)) >= critic.threshold

    every = np.arange(len(images))
    _, gallery = np.unique(identity, return_index=True)
    probes = np.where(np.isin(every, gallery)[:, None], real, made)
    return Judged(
        {
            "type1": accepted(made, real, (every, every)),
            "mean_face": accepted(mean, real, (np.zeros_like(every), every)),
        },
        {"type2": accepted(made, real, genuine), "genuine": accepted(real, real, genuine)},
        {"wrong": accepted(made, real, wrong), "far": accepted(real, real, wrong)},
        rank1(probes, identity),
        rank1(real, identity),
    )


def joined(tables: list[Table]) -> Table:
    """The rows of all folds."""
    names = tables[0].columns
    return Table(
        np.concatenate([table.subjects for table in tables]),
        {name: np.concatenate([table.columns[name] for table in tables]) for name in names},
    )


def mean_fn(tables: list[Table]) -> Callable[[np.ndarray | None], dict[str, float]]:
    """`fn(weights [m] or None)`: every column's weighted mean, m over all tables; NaN without any weight."""
    values = [np.stack([c.astype(np.float64) for c in table.columns.values()], axis=1) for table in tables]
    stops = np.cumsum([len(v) for v in values])
    names = [list(table.columns) for table in tables]

    def means(weights: np.ndarray | None) -> dict[str, float]:
        weights = np.ones(stops[-1]) if weights is None else weights
        found: dict[str, float] = {}
        for own, columns, part in zip(names, values, np.split(weights, stops[:-1])):
            total = part.sum()
            mean = part @ columns / total if total > 0 else np.full(len(own), np.nan)
            found |= dict(zip(own, mean.tolist()))
        return found

    return means
