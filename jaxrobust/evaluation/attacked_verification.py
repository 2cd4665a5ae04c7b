"""Face verification under attack: who still gets in, who gets in as another, and after how little change."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxrobust import _validate
from jaxrobust.data import Identities, Pairs
from jaxrobust.evaluation import (
    _attacked_rows,
    _pair_cases,
    _pair_trust,
    _provenance,
    _verification_scores,
)
from jaxrobust.evaluation._attacked_report import AttackedVerificationReport, row_name
from jaxrobust.evaluation._pair_attacks import Case
from jaxrobust.evaluation._pair_cases import ENSEMBLE
from jaxrobust.evaluation._pair_statistics import Statistic, estimates
from jaxrobust.evaluation._verification_report import Estimate
from jaxrobust.evaluation._verification_scores import Models, People
from jaxrobust.evaluation.roc import check_far
from jaxrobust.types import Attack


def verify_attacked(
    embed_fn: Models,
    identities: Identities,
    pairs: Pairs,
    attacks: Mapping[str, Attack],
    *,
    validation: Pairs,
    minimum_eps: Mapping[str, Attack] | None = None,
    bisections: int = 8,
    transfer_from: Models | Mapping[str, Models] | None = None,
    trained_on: Sequence[People] | None = None,
    mask: Any = None,
    far: float = 0.01,
    num_genuine: int | None = None,
    num_impostor: int | None = None,
    batch_size: int = 64,
    trust_checks: bool = True,
    num_draws: int = 1000,
    seed: int = 0,
    name: str = "",
    progress_fn: Callable[[str, int, int], None] | None = None,
) -> AttackedVerificationReport:
    r"""Attacks the decisions of a verification model: dodging of genuine pairs, impersonation of impostors.

    A pair is accepted where $\cos(f(x), f(x')) \ge \tau$, with the thresholds of `verify`, from validation
    people. The attack changes x (`Pairs.first`) and leaves x' as it is; it sees the pair's two logits
    (`numerics.similarity.pair_logits`, scale 1) and so any attack works. As in `evaluate`, only pairs that
    are decided rightly are attacked, what was found is judged by the model, on the image and on its 8-bit
    rounding (whose distance is measured again), and NaN from the model counts against it.

    Two logits leave one direction: cross-entropy, log-odds, DLR and the margin are all increasing functions
    of the cosine's fall (or rise), so that PGD on any of them is the same ascent of the cosine, and another
    `loss_fn` is no other attack. What makes a member of an ensemble different is its way: random starts and
    restarts, momentum (`MIFGSM`), a step size that adapts (`APGD`), the l_2 ball, geometry, no gradients
    (`Square`), or the images of another model.

    Attacks look for a cosine 1e-5 beyond tau, so that the judge, another program, agrees with them.

    Args:
        embed_fn: images float32 `[b, h, w, c]` in [0, 1] -> embeddings `[b, d]`, of any length, traceable by
            JAX; or one per fold, in the order of the numbers in `Pairs.fold`. Arrays in it (of a
            `functools.partial`, an equinox or nnx module) are arguments of the compiled attack, so that the
            models of all folds share one program; arrays that it closes over are compiled in.
        identities: the set.
        pairs: the test pairs.
        attacks: untargeted ones by name, of fixed radius or of minimum norm.
        validation: pairs of other people, for thresholds, as in `verify`.
        minimum_eps: attacks of fixed radius by name, whose least successful radius is sought for each pair by
            bisection (`minimum_eps.bisect`); their own radius is the largest that is tried.
        bisections: how often what is left of that radius is halved; each is one more run of the attack.
        transfer_from: other models, on which the images of `attacks` are made too (each at its own thresholds
            from the same validation pairs), judged on this one: of the form of `embed_fn`, or several by
            name. Whom they were trained on is the attacker's choice, and is not asked. Minimum-norm attacks
            stop at the other model's boundary, and so transfer badly.
        trained_on: as in `verify`.
        mask: for attacks in a `Masked` neighbourhood, where images may change: `[h, w, 1]` of zeros and ones,
            or `[n, h, w, 1]` with one region per image of the set.
        far: the FAR that thresholds from validation are to have.
        num_genuine: how many genuine pairs are attacked; None is all.
        num_impostor: how many impostor pairs; None is as many as genuine ones. Pairs are drawn by the seed,
            evenly over folds and then over pairs of people; a pair's random numbers come from its place in
            the list and not from who else is drawn.
        batch_size: pairs per call; pieces are filled up to it.
        trust_checks: whether to look for masked gradients, at the cost of two more runs over up to 64 pairs.
        num_draws: of the bootstrap over people.
        seed: of the draw of pairs, the attacks and the bootstrap.
        name: of the model, for the report.
        progress_fn: called as `progress_fn(attack, done, total)`.

    Returns:
        The `AttackedVerificationReport`.

    Raises:
        ValueError: people that were trained on among the pairs; fewer than two people; no genuine or no
            impostor pair; no validation pairs; images that are no 8-bit pixels; embeddings that are not
            finite, or that JAX cannot trace; no attack, a targeted one, a masked one without mask; numbers
            out of range.
    """
    start = time.perf_counter()
    least = dict(minimum_eps or {})
    regions = _pair_cases.checked_mask(identities, mask)
    _check_numbers(batch_size, bisections, far, seed)
    _pair_cases.check_attacks(attacks, least, regions)
    _pair_cases.check_lists(identities, pairs, validation)
    for what, some in {"pairs": pairs, "validation pairs": validation}.items():
        _verification_scores.check_unseen(identities, embed_fn, some, what, trained_on)
    rows = _pair_cases.draw_pairs(
        identities, pairs, num_genuine=num_genuine, num_impostor=num_impostor, seed=seed
    )
    chosen = pairs.at(rows)
    case = Case(identities, chosen, rows, regions, min(batch_size, len(rows)), seed)
    judged, folds = _pair_cases.side_of(embed_fn, case, pairs, validation, far)
    accepted = judged.similarity >= judged.tau
    right = accepted == chosen.genuine

    runs = _attacked_rows.run_all(case, judged, attacks, np.flatnonzero(right), None, progress_fn)
    for other, model in _pair_cases.named(transfer_from).items():
        maker, _ = _pair_cases.side_of(model, case, pairs, validation, far)
        runs += _attacked_rows.run_all(
            case, judged, attacks, np.flatnonzero(right), (other, maker), progress_fn
        )
    runs.append(_attacked_rows.together(runs))
    lengths = {
        run.row.attack: _attacked_rows.lengths_of(run, right)
        for run in runs
        if run.row.made_on is None and run.row.minimum_norm and run.row.attack != ENSEMBLE
    }
    for title, attack in least.items():
        lengths[title] = _attacked_rows.bisected(case, judged, title, attack, right, bisections, progress_fn)
    attack_of = {**attacks, **least}

    kinds = {"genuine": chosen.genuine, "impostor": ~chosen.genuine}
    statistics = [Statistic(f"{kind} accepted", accepted, mask) for kind, mask in kinds.items()]
    for run in runs:
        after = accepted ^ run.found.broken
        statistics += [
            Statistic(f"{kind} accepted/{row_name(run.row)}", after, mask) for kind, mask in kinds.items()
        ]
    for title, values in lengths.items():
        for kind, mask in kinds.items():
            statistics.append(Statistic(f"{kind} least/{title}", values, mask & right, True))
            statistics.append(Statistic(f"{kind} least of all/{title}", values, mask, True))
    whose = identities.identity[np.stack([chosen.first, chosen.second], axis=1)]
    known, draws = estimates(statistics, whose, chosen.fold, num_draws=num_draws, seed=seed)

    rows_found = [_attacked_rows.filled(run, chosen.genuine, accepted, known) for run in runs]
    minimums = tuple(
        _attacked_rows.minimum_row(
            title, attack_of[title], values, kinds, right, known, bisections if title in least else None
        )
        for title, values in lengths.items()
    )
    broken = {row_name(run.row): run.found.broken for run in runs}
    return AttackedVerificationReport(
        model=name,
        dataset=identities.name,
        fingerprint=identities.fingerprint,
        pairs=pairs.digest,
        chosen=chosen.digest,
        validation_pairs=validation.digest,
        num_listed=len(pairs.first),
        num_genuine=int(chosen.genuine.sum()),
        num_impostor=int((~chosen.genuine).sum()),
        num_people=len(np.unique(whose)),
        num_folds=len(np.unique(chosen.fold)),
        far=far,
        folds=tuple(folds),
        acceptance=known["genuine accepted"],
        false_accepts=known["impostor accepted"],
        rows=tuple(rows_found),
        minimums=minimums,
        verdicts=_pair_trust.check_pairs(case, judged, attacks, rows_found, broken, right)
        if trust_checks
        else (),
        warnings=(
            *_verification_scores.shared_people(identities, pairs, validation),
            *_warnings(chosen.genuine, accepted, known),
        ),
        flags={
            "row": rows,
            "genuine": chosen.genuine,
            "accepted": accepted,
            **{f"broken/{row_name(run.row)}": run.found.broken for run in runs},
            **{f"broken_8bit/{row_name(run.row)}": run.found.broken_8bit for run in runs},
            **{f"least/{title}": values for title, values in lengths.items()},
        },
        statistics=tuple(statistic.name for statistic in statistics),
        draws=draws,
        meta={
            "seed": seed,
            "num_draws": num_draws,
            "batch_size": batch_size,
            "versions": _provenance.versions(),
            "hardware": _provenance.hardware(),
            "seconds": time.perf_counter() - start,
        },
    )


def _check_numbers(batch_size: int, bisections: int, far: float, seed: int) -> None:
    _validate.at_least("batch_size", batch_size, 1)
    _validate.at_least("bisections", bisections, 1, "Each halves what is left of the radius.")
    _validate.at_least("seed", seed, 0)
    check_far(far)


def _warnings(genuine: np.ndarray, accepted: np.ndarray, known: Mapping[str, Estimate]) -> tuple[str, ...]:
    """What a reader must know before the numbers."""
    said = []
    if not accepted[genuine].any():
        said.append("No genuine pair is accepted before any attack: there is nothing to dodge.")
    if accepted[~genuine].all():
        said.append("Every impostor pair is accepted before any attack: there is nobody to impersonate.")
    if any(known[f"{kind} accepted"].low is None for kind in ("genuine", "impostor")):
        said.append("There are too few people, or pairs of each, for an interval of every number.")
    return tuple(said)
