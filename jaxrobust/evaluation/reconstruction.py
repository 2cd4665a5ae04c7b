"""What reconstructions from features are worth: likeness, acceptance by critics, controls, leak and its band.

The numbers of CN111539382A's audit. The patent compares an image with its inverse image; SSIM alone flatters
(a blurred face is like every face), and so does the model's own match (which the inverse model was trained
for), hence critics that share nothing with the model, controls, and people the attacker holds out.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust.evaluation import _reconstruction_rows as rows
from jaxrobust.evaluation._reconstruction_inputs import AttackedFold, Reconstructed, check_folds
from jaxrobust.evaluation._reconstruction_report import (
    CriticRow,
    HeldOut,
    LikenessRow,
    ReconstructionReport,
    Strip,
)
from jaxrobust.evaluation._verification_report import Estimate
from jaxrobust.evaluation.identification import Rank1
from jaxrobust.evaluation.leak import LEAST_GENUINE, band_of, calibrated_ssim, doubts, leak_score
from jaxrobust.evaluation.subject_bootstrap import subject_bootstrap

_CONSTANT = 1e-4


def measure_reconstructions(
    folds: Sequence[AttackedFold],
    *,
    judge: str,
    perceptual_fn: Any = None,
    num_pairs: int | None = 20_000,
    window: int = 11,
    least_genuine: float = LEAST_GENUINE,
    batch_size: int = 64,
    num_draws: int = 1000,
    seed: int = 0,
) -> ReconstructionReport:
    """Measures reconstructions, with controls, and says how much is leaked.

    Type-I acceptance compares a reconstruction with its source image, type-II with every other photo of its
    person. Controls: the mean face, the reconstruction of somebody else's image, a real other photo (the
    latter two drawn from the seed, image by image). Decisions are pooled over folds; intervals resample
    people. The score and its bands are in `leak.py`.

    Args:
        folds: one or more; decisions of all are counted together.
        judge: the critic by whom the leak is scored: one that shares neither features nor gradients with the
            victim, such as PCA + LDA.
        perceptual_fn: `(images, images) -> [b]` by an independent network, see
            `inversion.perceptual_distance`; None for no such column.
        num_pairs: at most so many pairs (reconstruction, photo) of one person, and of two, in each fold; None
            for all.
        window: of the SSIM.
        least_genuine: see `leak.doubts`.
        batch_size: images per call, always exactly so many.
        num_draws: of the bootstrap.
        seed: of partners, pairs and the bootstrap.

    Returns:
        The `ReconstructionReport`.

    Raises:
        ValueError: shapes that do not fit, pixels outside [0, 1], a victim with one image, fewer than two
            victims or held-out people in a fold, a judge who is no critic, critics that differ over folds.
    """
    check_folds(folds, judge, num_pairs, window, batch_size, seed)
    tables, fold_numbers, strips, ranks = _tables(folds, perceptual_fn, num_pairs, window, batch_size, seed)
    names = list(folds[0].critics)

    means = rows.mean_fn(tables)

    def statistics(weights: np.ndarray | None) -> dict[str, float]:
        found = means(weights)
        for name in names:
            type2, wrong, genuine = (found[f"{kind}/{name}"] for kind in ("type2", "wrong", "genuine"))
            found[f"leak/{name}"] = leak_score(type2, wrong, genuine)
            found[f"genuine over wrong/{name}"] = genuine - wrong
        similar = (found[f"ssim/{name}"] for name in ("reconstruction", "mean face", "other photo"))
        found["calibrated_ssim"] = calibrated_ssim(*similar)
        return found

    subjects = np.concatenate([table.subjects for table in tables])
    estimates, draws = _estimated(statistics, subjects, fold_numbers, num_draws, seed)
    held_out = _held_out(folds, window, batch_size, num_draws, seed)
    why_not = doubts(
        over_mean=held_out.over_mean,
        over_wrong=held_out.over_wrong,
        genuine=estimates[f"genuine/{judge}"],
        genuine_over_wrong=estimates[f"genuine over wrong/{judge}"],
        leak=estimates[f"leak/{judge}"],
        num_victims=len(np.unique(tables[0].subjects)),
        constant=any(_is_constant(fold.features) for fold in folds),
        least_genuine=least_genuine,
    )
    return ReconstructionReport(
        band=band_of(estimates[f"leak/{judge}"], why_not),
        why_undetermined=why_not,
        leak=estimates[f"leak/{judge}"],
        judge=judge,
        critics=tuple(_critic_row(name, estimates, ranks) for name in names),
        likeness=tuple(_likeness_row(name, estimates) for name in rows.CONTROLS),
        calibrated_ssim=estimates["calibrated_ssim"],
        held_out=held_out,
        num_people=len(np.unique(np.concatenate([fold.victims.identity for fold in folds]))),
        num_images=len(tables[0].subjects),
        num_folds=len(folds),
        num_genuine=len(tables[1].subjects),
        num_wrong=len(tables[2].subjects),
        window=window,
        warnings=_warnings(folds, judge),
        strips=tuple(strips),
        draws=draws,
        meta={"seed": seed, "num_draws": num_draws, "num_pairs": num_pairs, "batch_size": batch_size},
    )


def _tables(
    folds: Sequence[AttackedFold],
    perceptual_fn: Any,
    num_pairs: int | None,
    window: int,
    batch_size: int,
    seed: int,
) -> tuple[list[rows.Table], np.ndarray, list[Strip], dict[str, list[tuple[Rank1, Rank1]]]]:
    """Rows of images, of pairs of one person and of two, over all folds; the fold of each; strips; rank-1."""
    kinds: list[list[rows.Table]] = [[], [], []]
    numbers: list[list[int]] = [[], [], []]
    strips: list[Strip] = []
    ranks: dict[str, list[tuple[Rank1, Rank1]]] = {name: [] for name in folds[0].critics}
    for number, fold in enumerate(folds):
        rng = np.random.default_rng((seed, number))
        images, made, identity, _ = (np.asarray(a) for a in fold.victims)
        who = _subjects(fold.victims)
        chosen = rows.partners(identity, rng)
        genuine, wrong = rows.pair_rows(identity, num_pairs, rng)
        compared = dict(
            zip(rows.CONTROLS, (made, fold.mean_face, made[chosen.wrong], images[chosen.other]), strict=True)
        )
        by_image = rows.likeness(images, compared, window, perceptual_fn, batch_size)
        by_genuine: dict[str, np.ndarray] = {}
        by_wrong: dict[str, np.ndarray] = {}
        for name, critic in fold.critics.items():
            found = rows.judged(critic, images, made, fold.mean_face, identity, genuine, wrong, batch_size)
            own = (found.images, found.genuine, found.wrong)
            for columns, values in zip((by_image, by_genuine, by_wrong), own, strict=True):
                columns |= {f"{kind}/{name}": column for kind, column in values.items()}
            ranks[name].append((found.rank1, found.rank1_real))
        every = np.arange(len(images))
        tables = ((every, every), by_image), (genuine, by_genuine), (wrong, by_wrong)
        for kind, (places, columns) in enumerate(tables):
            kinds[kind].append(rows.Table(np.stack([who[at] for at in places], axis=1), columns))
            numbers[kind] += [number] * len(places[0])
        strips.append(Strip(by_image["ssim/reconstruction"], chosen.other, chosen.wrong))
    return [rows.joined(kind) for kind in kinds], np.concatenate(numbers), strips, ranks


def _held_out(
    folds: Sequence[AttackedFold], window: int, batch_size: int, num_draws: int, seed: int
) -> HeldOut:
    """SSIM on the attackers' people who were held out, all folds together."""
    tables, numbers = [], []
    for number, fold in enumerate(folds):
        images, made, identity, _ = (np.asarray(a) for a in fold.held_out)
        wrong = rows.partners(identity, np.random.default_rng((seed, number, 1))).wrong
        compared = {"reconstruction": made, "mean face": fold.mean_face, "wrong identity": made[wrong]}
        who = _subjects(fold.held_out)
        columns = rows.likeness(images, compared, window, None, batch_size)
        tables.append(rows.Table(np.stack([who, who], axis=1), columns))
        numbers += [number] * len(images)
    table = rows.joined(tables)
    means = rows.mean_fn([table])

    def statistics(weights: np.ndarray | None) -> dict[str, float]:
        found = means(weights)
        own = found["ssim/reconstruction"]
        return {
            **found,
            "over mean": own - found["ssim/mean face"],
            "over wrong": own - found["ssim/wrong identity"],
        }

    estimates, _ = _estimated(statistics, table.subjects, np.asarray(numbers), num_draws, seed)
    return HeldOut(
        num_people=len(np.unique(np.concatenate([fold.held_out.identity for fold in folds]))),
        num_images=len(table.subjects),
        reconstruction=estimates["ssim/reconstruction"],
        mean_face=estimates["ssim/mean face"],
        over_mean=estimates["over mean"],
        over_wrong=estimates["over wrong"],
    )


def _estimated(
    statistics: Any, subjects: np.ndarray, fold: np.ndarray, num_draws: int, seed: int
) -> tuple[dict[str, Estimate], dict[str, np.ndarray]]:
    """By name each statistic with its interval, and its draws."""
    values = statistics(None)
    boot = subject_bootstrap(
        lambda weights: np.asarray(list(statistics(weights).values())),
        subjects,
        fold,
        num_draws=num_draws,
        seed=seed,
    )
    limits = zip(values.values(), boot.low, boot.high, strict=True)
    estimates = {
        name: Estimate(*(float(v) if np.isfinite(v) else None for v in found))
        for name, found in zip(values, limits)
    }
    return estimates, dict(zip(values, boot.draws.T))


def _critic_row(
    name: str, estimates: Mapping[str, Estimate], ranks: Mapping[str, list[tuple[Rank1, Rank1]]]
) -> CriticRow:
    kinds = ("type1", "type2", "genuine", "wrong", "mean_face", "far", "leak")
    made, real = (_pooled([pair[i] for pair in ranks[name]]) for i in (0, 1))
    own = {kind: estimates[f"{kind}/{name}"] for kind in kinds}
    return CriticRow(name=name, **own, rank1=made, rank1_real=real)


def _pooled(found: Sequence[Rank1]) -> Rank1:
    hits, probes, people = zip(*found, strict=True)
    return Rank1(sum(hits), sum(probes), max(people))


def _likeness_row(name: str, estimates: Mapping[str, Estimate]) -> LikenessRow:
    perceptual = estimates.get(f"perceptual/{name}")
    return LikenessRow(name, estimates[f"ssim/{name}"], estimates[f"psnr/{name}"], perceptual)


def _subjects(reconstructed: Reconstructed) -> np.ndarray:
    return np.asarray(reconstructed.identity if reconstructed.subjects is None else reconstructed.subjects)


def _is_constant(features: np.ndarray) -> bool:
    """Whether no image's features differ from the mean by more than rounding."""
    flat = np.asarray(features, np.float64).reshape(len(features), -1)
    away = np.linalg.norm(flat - flat.mean(0), axis=1).max()
    return bool(away <= _CONSTANT * max(np.linalg.norm(flat, axis=1).max(), np.finfo(float).tiny))


def _warnings(folds: Sequence[AttackedFold], judge: str) -> tuple[str, ...]:
    said = []
    coarse = [f"{fold.critics[judge].far:.3g}" for fold in folds if fold.critics[judge].far > 0.05]
    if coarse:
        said.append(f"{judge} accepts {', '.join(coarse)} of the impostor pairs on validation people.")
    seen = [
        len(np.intersect1d(np.unique(fold.victims.identity), np.unique(fold.held_out.identity)))
        for fold in folds
        if fold.victims.subjects is None
    ]
    if any(seen):
        said.append(f"{sum(seen)} people are victims and the attacker's own: his decoder may know them.")
    return tuple(said)
