"""From subjects to numbers by row: maps, regions, what is perturbed where, and what the model then says."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxrobust import saliency
from jaxrobust.audits._subjects import Explained, Judged, Subject
from jaxrobust.audits.perturbations import Perturbation, Replacement
from jaxrobust.saliency import Deletion, Insertion, Region, SaliencyMap

SALIENT = "salient"
RANDOM_MAP = "random map"


class Plan(NamedTuple):
    """What is done with every subject; names are those of the report's rows.

    `headline`: the name of the region at which maps are compared and pictures are taken; `places`: `salient`
    and the controls.
    """

    maps: Mapping[str, SaliencyMap]
    regions: Mapping[str, Region]
    perturbations: Mapping[str, Perturbation]
    places: tuple[str, ...]
    headline: str
    num_sanity: int
    batch_size: int
    chunk: int | None
    seed: int


class Cell(NamedTuple):
    """Where a perturbation lay and what it was: the names of map, region, perturbation and place."""

    map: str
    region: str
    perturbation: str
    place: str


class Measured(NamedTuple):
    """One subject, or all together; m rows, of which r were right before.

    Attributes:
        before: of all rows. rows: int `[r]`, the rows that were right.
        after: by cell, of those rows.
        constant: by map, bool `[r]`. area: by map and region, the share of the image `[r]`.
        empty: by map and region, bool `[r]`: no pixel at all.
        agreement: by a pair of maps, rank correlation and IoU of the headline's regions, `[r]` each.
        curves: by map and `insertion` or `deletion`, the area under the curve of some rows.
        cascade: by map, for each layer that was drawn anew, its name and rank correlations of some rows.
        maps: by map, float32 `[r, h, w]`; `inside`: by map, the headline's regions, bool `[r, h, w]`.
        perturbed: by map, the images perturbed there by the first perturbation, float32 `[r, h, w, c]`.
    """

    before: Judged
    rows: np.ndarray
    after: dict[Cell, Judged]
    constant: dict[str, np.ndarray]
    area: dict[tuple[str, str], np.ndarray]
    empty: dict[tuple[str, str], np.ndarray]
    agreement: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]
    curves: dict[tuple[str, str], np.ndarray]
    cascade: dict[str, dict[str, np.ndarray]]
    maps: dict[str, np.ndarray]
    inside: dict[str, np.ndarray]
    perturbed: dict[str, np.ndarray]


def measure(subject: Subject, plan: Plan, progress_fn: Callable[[str, int, int], None]) -> Measured:
    """Everything about one subject."""
    before = subject.judge(subject.images, np.arange(len(subject.images)))
    rows = np.flatnonzero(before.right)
    after: dict[Cell, Judged] = {}
    if not len(rows):
        return Measured(before, rows, after, *({} for _ in range(9)))
    maps = {}
    for done, (name, method) in enumerate(plan.maps.items()):
        progress_fn("maps", done, len(plan.maps))
        maps[name] = _maps(name, method, subject.explained, subject, rows, plan)
    constant = {name: saliency.constant_maps(one) for name, one in maps.items()}
    found = {
        (name, title): region(one) for name, one in maps.items() for title, region in plan.regions.items()
    }
    area = {key: one.inside.mean(axis=(1, 2)) for key, one in found.items()}
    empty = {key: np.asarray(~one.inside.any(axis=(1, 2))) for key, one in found.items()}
    inside = {key: one.inside for key, one in found.items()}
    perturbed = _all_cells(subject, rows, inside, plan, after, progress_fn)
    headline = {name: inside[name, plan.headline] for name in maps}
    # Some of all people and kinds, which lists have one after the other.
    some = np.sort(np.random.default_rng((plan.seed, 2)).permutation(len(rows))[: plan.num_sanity])
    return Measured(
        before=before,
        rows=rows,
        after=after,
        constant=constant,
        area=area,
        empty=empty,
        agreement=_agreement(maps, headline),
        curves=_curves({name: one[some] for name, one in maps.items()}, subject, rows[some], plan),
        cascade=_cascade({name: one[some] for name, one in maps.items()}, subject, rows[some], plan),
        maps=maps,
        inside=headline,
        perturbed=perturbed,
    )


def _maps(
    name: str, method: SaliencyMap, explained: Explained, subject: Subject, rows: np.ndarray, plan: Plan
) -> np.ndarray:
    return np.asarray(
        saliency.saliency_maps(
            method,
            explained.cut.get(name, explained.whole),
            subject.images[rows],
            targets=subject.target[rows],
            references=None if explained.reference is None else explained.reference[rows],
            key=jax.random.key(plan.seed),
            baseline=subject.fill,
            chunk=plan.chunk,
            # Of the few rows of the sanity checks all at once: filled up, they would cost as many as a batch.
            rows=min(plan.batch_size, len(rows) if len(rows) <= plan.num_sanity else len(subject.images)),
        )
    )


def _all_cells(
    subject: Subject,
    rows: np.ndarray,
    inside: Mapping[tuple[str, str], np.ndarray],
    plan: Plan,
    after: dict[Cell, Judged],
    progress_fn: Callable[[str, int, int], None],
) -> dict[str, np.ndarray]:
    """Fills `after`; gives the images of the headline's salient regions. Equal regions are done once."""
    kept: dict[str, np.ndarray] = {}
    known: dict[tuple[str, bytes], Judged] = {}
    total, done = len(inside) * len(plan.perturbations) * len(plan.places), 0
    shown = next(iter(plan.perturbations))
    for (name, title), salient in inside.items():
        for place in plan.places:
            where = placed(place, salient, subject, rows, plan.seed)
            for kind, perturbation in plan.perturbations.items():
                progress_fn("perturbed", done, total)
                done += 1
                key = (kind, np.packbits(where).tobytes())
                is_shown = (place, title, kind) == (SALIENT, plan.headline, shown)
                if key not in known or is_shown:
                    images = perturb(perturbation, subject, rows, where, plan)
                    known[key] = subject.judge(images, rows)
                    if is_shown:
                        kept[name] = images
                after[Cell(name, title, kind, place)] = known[key]
    progress_fn("perturbed", total, total)
    return kept


def placed(place: str, salient: np.ndarray, subject: Subject, rows: np.ndarray, seed: int) -> np.ndarray:
    """The region itself, or a control for it; regions without pixels stay so.

    A row's random place depends on the seed, the fold and its place in the subject, whatever other rows were
    right: two models on the same rows have the same controls, as far as regions are the same.
    """
    if place == SALIENT:
        return salient
    if place == "centre_disc":
        return saliency.centre_disc(salient)
    drawn = int(np.random.SeedSequence((seed, int(subject.fold[0]))).generate_state(1)[0])
    group = subject.group[rows]
    if place == "others" and len(salient) > 1:
        # Another's: of another identity or class where no one of them has more than half of the rows.
        most = np.unique(group, return_counts=True)[1].max()
        return saliency.from_others(salient, group if 2 * most <= len(group) else None, seed=drawn)
    full = np.zeros((len(subject.images), *salient.shape[1:]), bool)
    full[rows] = salient
    return saliency.rolled(full, seed=drawn)[rows]


def perturb(
    perturbation: Perturbation, subject: Subject, rows: np.ndarray, inside: np.ndarray, plan: Plan
) -> np.ndarray:
    """The rows' images, changed within their regions."""
    images, masks = subject.images[rows], saliency.example_masks(inside)
    if isinstance(perturbation, Replacement):
        new = perturbation.replaces(images, subject.fill, subject.number[rows], plan.seed)
        return np.where(inside[..., None], new, images).astype(np.float32)
    return subject.attack(perturbation, images, rows, masks, plan.seed)


def _agreement(
    maps: Mapping[str, np.ndarray], inside: Mapping[str, np.ndarray]
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    names = list(maps)
    return {
        (one, other): (saliency.spearman(maps[one], maps[other]), saliency.iou(inside[one], inside[other]))
        for at, one in enumerate(names)
        for other in names[at + 1 :]
    }


def _curves(
    maps: Mapping[str, np.ndarray], subject: Subject, some: np.ndarray, plan: Plan
) -> dict[tuple[str, str], np.ndarray]:
    """Areas under insertion and deletion, and those of a map of noise to compare with."""
    if not len(some):
        return {}
    shape = (len(some), *subject.images.shape[1:3])
    noise = np.random.default_rng((plan.seed, 1)).normal(size=shape).astype(np.float32)
    both: dict[str, Insertion | Deletion] = {"insertion": Insertion(), "deletion": Deletion()}
    ordered = {**maps, RANDOM_MAP: noise}
    return {
        (name, kind): saliency.curve_area(
            saliency.perturbation_curves(
                curve,
                subject.probability,
                subject.images[some],
                one,
                targets=subject.target[some],
                references=None if subject.reference is None else subject.reference[some],
                baseline=subject.fill,
                chunk=plan.chunk,
            )
        )
        for name, one in ordered.items()
        for kind, curve in both.items()
    }


def _cascade(
    maps: Mapping[str, np.ndarray], subject: Subject, some: np.ndarray, plan: Plan
) -> dict[str, dict[str, np.ndarray]]:
    """Rank correlation of each map with that of the model whose layers were drawn anew."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, method in plan.maps.items() if len(some) else ():
        for explained in subject.randomised:
            drawn = _maps(name, method, explained, subject, some, plan)
            rank = saliency.spearman(maps[name], drawn)
            found.setdefault(name, {})[explained.name] = rank
    return found


def joined(parts: Sequence[Measured]) -> Measured:
    """All subjects as one, rows one after the other."""
    offsets = np.cumsum([0, *(len(part.before.right) for part in parts)])
    full = [part for part in parts if len(part.rows)]

    def merged(name: str) -> dict[Any, Any]:
        values = [getattr(part, name) for part in full]
        return {key: np.concatenate([one[key] for one in values]) for key in (values[0] if values else ())}

    return Measured(
        before=_concatenated([part.before for part in parts]),
        rows=np.concatenate([part.rows + at for part, at in zip(parts, offsets)]),
        after={
            cell: _concatenated([part.after[cell] for part in full])
            for cell in (full[0].after if full else ())
        },
        constant=merged("constant"),
        area=merged("area"),
        empty=merged("empty"),
        agreement={
            key: (
                np.concatenate([part.agreement[key][0] for part in full]),
                np.concatenate([part.agreement[key][1] for part in full]),
            )
            for key in (full[0].agreement if full else ())
        },
        curves=merged("curves"),
        cascade={
            name: {
                layer: np.concatenate([part.cascade[name][layer] for part in full])
                for layer in full[0].cascade[name]
            }
            for name in (full[0].cascade if full else ())
        },
        maps=merged("maps"),
        inside=merged("inside"),
        perturbed=merged("perturbed"),
    )


def _concatenated(parts: Sequence[Judged]) -> Judged:
    return Judged(*(np.concatenate(values) for values in zip(*parts, strict=True)))
