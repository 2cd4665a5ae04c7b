"""Signs of masked gradients: an attack that is weaker than it should be flatters the model.

After Athalye et al., arXiv 1802.00420, section 3.1, and Carlini et al., arXiv 1902.06705.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy import stats as scipy_stats

from jaxrobust.attacks.pgd import PGD
from jaxrobust.attacks.random_search import RandomSearch
from jaxrobust.attacks.square import Square
from jaxrobust.evaluation import _engine, _programs, _sharding
from jaxrobust.evaluation._engine import Predictions
from jaxrobust.evaluation._types import CLEAN, Level, Surrogate, Verdict, is_targeted
from jaxrobust.evaluation._view import View, attack_rows, graded, unmeasured, verdict
from jaxrobust.neighbourhoods.lp import LInf
from jaxrobust.numerics import losses
from jaxrobust.numerics.metrics import wilson_interval

# Rows of the checks that run an attack of their own.
SUBSET = 64
NUM_RANDOM = 50
SATURATED = 88.0


def _gradients(apply_fn, shared, rows):
    (params, stats), (images, labels) = shared, rows

    def total(x):
        return losses.cross_entropy(apply_fn(params, stats, x, train=False)[0].logits, labels).sum()

    return (jax.grad(total)(images),)


@functools.cache
def _gradient_program() -> Callable:
    return _sharding.compiled(_gradients, num_static=1)


def zero_gradients(view: View) -> Verdict:
    """The share of images whose loss has no usable gradient: a gradient attack is blind there."""
    unit = "share of images without a usable gradient"
    if not len(view.right):
        return unmeasured("zero_gradients", unit, "the model has no image right.")
    s = view.subject
    (gradients,) = _engine.by_rows(
        s,
        _gradient_program(),
        s.model.apply,
        shared=(s.params, s.stats),
        rows=(view.images, view.labels),
        nothing=(view.images[:0],),
    )
    size = np.abs(gradients[view.right]).reshape(len(view.right), -1).max(axis=-1)
    logits = np.sort(view.clean.logits[view.right], axis=-1)
    # Beyond this gap 1 - softmax is 0 in float32, and what is left of the gradient is rounding noise.
    saturated = logits[:, -1] - logits[:, -2] > SATURATED
    share = float(np.mean(~(size > 0) | saturated))
    level = graded(share, 0.01, 0.1)
    advice = "The loss has a gradient at the images."
    if level != Level.OK:
        advice = (
            f"For {share:.0%} of the images the gradient of the loss is zero or rounding noise: gradient "
            "attacks are "
            "blind there. Attack the margin loss (loss_fn=margin), pass a surrogate gradient (bpda), or "
            "use a "
            "black-box attack."
        )
    return verdict("zero_gradients", level, share, unit, advice)


def _ball(attack) -> float | None:
    """The pixel radius of an iterative gradient attack on one l_inf or l2 ball; None for any other.

    A minimum-norm attack is none: it stops at the boundary, wherever that is. Neither is a targeted one,
    which the checks would lead to the label.
    """
    ball: Any = getattr(attack, "neighbourhood", None)
    if _programs.is_minimum_norm(attack) or is_targeted(attack):
        return None
    if getattr(ball, "norm", None) not in (2, math.inf):
        return None
    return float(ball.eps) if ball.eps and getattr(attack, "steps", 0) and attack.steps >= 5 else None


def _main_attack(view: View) -> tuple[str, Any] | None:
    """The iterative pixel attack with the most gradients, which the checks probe."""
    candidates: list[tuple[str, Any]] = [(name, entry.attack) for name, entry in view.attacks.items()]
    found = [(name, attack) for name, attack in candidates if _ball(attack)]
    return max(found, key=lambda item: item[1].steps * getattr(item[1], "restarts", 1), default=None)


def _accuracy_under(view: View, name: str, attack, factor: float = 1.0) -> np.ndarray:
    """Which of the view's images stay right; those wrong from the start do not."""
    stays = view.clean.correct(view.labels)
    index, labels = view.rows[view.right], view.labels[view.right]
    found = _engine.run_attack(view.subject, name, attack, index, labels, factor=factor)
    stays[view.right] = found.seen.correct(labels)
    return stays


def huge_radius(view: View) -> Verdict:
    """At a radius that reaches any image, accuracy falls to chance or below; if not, gradients are masked."""
    fallback: tuple[str, Any] = ("PGD", PGD(neighbourhood=LInf(eps=1.0), steps=20, step_size=0.1))
    name, attack = _main_attack(view) or fallback
    diameter = 1.0 if attack.neighbourhood.norm == math.inf else math.sqrt(np.prod(view.images.shape[1:]))
    stays = _accuracy_under(view, name, attack, factor=diameter / attack.neighbourhood.eps)
    accuracy, chance = float(stays.mean()), 1 / view.subject.model.num_classes
    unit = f"accuracy under {name} at a radius of {diameter:.3g}"
    if accuracy <= chance:
        advice = "At a radius that reaches any image accuracy falls to chance or below."
        return verdict("huge_radius", Level.OK, accuracy, unit, advice)
    surely = wilson_interval(int(stays.sum()), len(stays))[0] > chance
    advice = (
        f"At a radius that reaches any image the attack leaves {accuracy:.0%} right, above chance "
        f"({chance:.0%}): "
        "it does not find what is there. Take more steps or larger ones, another loss, or a black-box attack."
    )
    return verdict("huge_radius", Level.FAIL if surely else Level.WARN, accuracy, unit, advice)


def _subset(view: View) -> View:
    """The first images of the view, in smaller batches, for checks that compile an attack of their own."""
    s = view.subject.batched(min(view.subject.batch_size, SUBSET))
    clean = Predictions(*(part[:SUBSET] for part in view.clean))
    return view._replace(subject=s, rows=view.rows[:SUBSET], images=view.images[:SUBSET], clean=clean)


def _stays_measured(view: View, name: str) -> np.ndarray:
    """Which of the view's images the named attack left right: from the report if there is one."""
    if view.report is not None:
        return view.report.flags[f"correct/{name}"][view.rows] & view.clean.correct(view.labels)
    return _accuracy_under(view, name, view.attacks[name].attack)


def restarts(view: View) -> Verdict:
    """More restarts never help the model: the worst is kept per example, not per batch."""
    unit = "accuracy gained by more restarts"
    main = _main_attack(view)
    if main is None or not hasattr(main[1], "restarts"):
        return unmeasured("restarts", unit, "no attack with restarts on a pixel ball.")
    (name, attack), small = main, _subset(view)
    other = dataclasses.replace(attack, restarts=1 if attack.restarts > 1 else 3)
    given, changed = _stays_measured(small, name), _accuracy_under(small, name, other)
    fewer, more = (changed, given) if attack.restarts > 1 else (given, changed)
    saved, lost = int(np.sum(more & ~fewer)), int(np.sum(fewer & ~more))
    gain = (saved - lost) / len(fewer)
    if saved <= lost:
        advice = "More restarts never helped the model."
        if gain < -0.05:
            advice = (
                f"{max(attack.restarts, other.restarts)} restarts fool {lost - saved} more of {len(fewer)} "
                "images than "
                f"{min(attack.restarts, other.restarts)}: {name} has not converged. Take more restarts or "
                "steps."
            )
        return verdict("restarts", Level.WARN if gain < -0.05 else Level.OK, gain, unit, advice)
    chance = scipy_stats.binomtest(saved, saved + lost, 0.5, alternative="greater").pvalue
    advice = (
        f"With more restarts {name} fools fewer images ({saved} recovered, {lost} newly fooled): keep the "
        "worst of "
        "the restarts per example, not per batch, and never the last one."
    )
    return verdict("restarts", Level.FAIL if chance < 0.01 else Level.WARN, gain, unit, advice)


def black_box(view: View) -> Verdict:
    """Blind random search in the same ball does not fool what a gradient attack could not."""
    unit = "share of the survivors fooled by random search"
    main = _main_attack(view)
    if main is None:
        return unmeasured("black_box", unit, "no iterative gradient attack on a pixel ball.")
    (name, attack), small = main, _subset(view)
    survivors = np.flatnonzero(_stays_measured(small, name))
    if not len(survivors):
        return unmeasured("black_box", unit, f"{name} left no image right.")
    search = RandomSearch(neighbourhood=attack.neighbourhood, num=NUM_RANDOM)
    index, labels = small.rows[survivors], small.labels[survivors]
    found = _engine.run_attack(small.subject, "random search", search, index, labels)
    wins = int(np.sum(~found.seen.correct(labels)))
    if not wins:
        advice = f"Random search fools none of the images that {name} left right."
        return verdict("black_box", Level.OK, 0, unit, advice)
    advice = (
        f"Random search fools {wins} of {len(survivors)} images that {name} left right: a sign of masked "
        "gradients. Take more steps and restarts, attack the margin loss, or report a black-box attack as "
        "well."
    )
    share = wins / len(survivors)
    return verdict("black_box", Level.FAIL if share > 0.05 and wins > 2 else Level.WARN, share, unit, advice)


def square(view: View) -> Verdict:
    """An attack without gradients breaks hardly an image that the gradient attacks of its ball left right."""
    unit = "share of the survivors broken by the Square Attack"
    rows = {row["attack"] for row in attack_rows(view)}
    blind = [n for n, entry in view.attacks.items() if n in rows and isinstance(entry.attack, Square)]
    if view.report is None or not blind:
        return unmeasured("square", unit, "no Square Attack among the attacks (add `square`).")
    name = blind[0]
    ball = getattr(view.attacks[name].attack, "neighbourhood", None)
    others = [
        n
        for n, entry in view.attacks.items()
        if n in rows and n != name and getattr(entry.attack, "neighbourhood", None) == ball
    ]
    if not others:
        return unmeasured("square", unit, f"no gradient attack in the ball of {name}.")
    survivors = np.logical_and.reduce([view.report.flags[f"correct/{n}"] for n in others])
    survivors &= view.report.flags[f"correct/{CLEAN}"]
    if not survivors.any():
        return unmeasured("square", unit, f"{', '.join(others)} left no image right.")
    wins = int(np.sum(survivors & ~view.report.flags[f"correct/{name}"]))
    share = wins / int(survivors.sum())
    if not wins:
        advice = f"{name} breaks none of the images that the attacks with gradients left right."
        return verdict("square", Level.OK, 0, unit, advice)
    advice = (
        f"{name}, which asks for no gradient, breaks {wins} of {int(survivors.sum())} images that "
        f"{', '.join(others)} left right: gradients are masked, or those attacks are too short. Quote the "
        "worst case, and try AutoAttack or a surrogate gradient (bpda)."
    )
    return verdict("square", Level.FAIL if share > 0.05 and wins > 2 else Level.WARN, share, unit, advice)


def transfer(view: View) -> Verdict:
    """Adversarial images of another model do not break what the attack on this one left right."""
    unit = "share of the survivors broken by images from another model"
    if not view.surrogates:
        return unmeasured("transfer", unit, "no other model given (--transfer-from RUN).")
    main = _main_attack(view)
    if main is None:
        return unmeasured("transfer", unit, "no iterative gradient attack on a pixel ball.")
    (name, attack), small = main, _subset(view)
    survivors = np.flatnonzero(_stays_measured(small, name))
    if not len(survivors):
        return unmeasured("transfer", unit, f"{name} left no image right.")
    index, labels = small.rows[survivors], small.labels[survivors]
    broken = {source: _transferred(small, other, name, attack, index, labels)
              for source, other in view.surrogates.items()}  # fmt: skip
    source = max(broken, key=lambda key: int(broken[key].sum()))
    wins = int(broken[source].sum())
    if not wins:
        advice = f"Images made on {', '.join(broken)} break none of those that {name} left right."
        return verdict("transfer", Level.OK, 0, unit, advice)
    advice = (
        f"Images made by {name} on {source} break {wins} of {len(index)} that {name} on the model itself "
        "left right: its own gradients mislead. Take more steps and restarts, a surrogate gradient (bpda), "
        "or report the transferred images as an attack."
    )
    share = wins / len(index)
    return verdict("transfer", Level.FAIL if share > 0.05 and wins > 2 else Level.WARN, share, unit, advice)


def _transferred(
    small: View, other: Surrogate, name: str, attack: Any, index: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Which rows the images break that the attack makes on another model."""
    s = small.subject
    maker = s.with_weights(other.model, other.params, other.stats)
    made = _engine.run_attack(maker, name, attack, index, labels, keep=index)
    images = np.stack([made.images[int(row)] for row in index])
    return ~_engine.predict(s, images).correct(labels) & made.inside()


def one_step(view: View) -> Verdict:
    """An iterative attack is no weaker than a single step in the same neighbourhood."""
    unit = "accuracy by which many steps are weaker than one"
    rows = {row["attack"]: row for row in attack_rows(view)}
    attacks: dict[str, Any] = {
        name: entry.attack
        for name, entry in view.attacks.items()
        if name in rows
        and hasattr(entry.attack, "steps")
        and hasattr(entry.attack, "neighbourhood")
        and not (_programs.is_minimum_norm(entry.attack) or is_targeted(entry.attack))
    }
    pairs = [
        (fast, slow)
        for fast in attacks
        for slow in attacks
        if attacks[fast].steps == 1 < attacks[slow].steps
        and attacks[fast].neighbourhood == attacks[slow].neighbourhood
    ]
    if not pairs:
        return unmeasured("one_step", unit, "no attack of one step and one of several in one neighbourhood.")
    fast, slow = max(pairs, key=lambda pair: rows[pair[1]]["accuracy"] - rows[pair[0]]["accuracy"])
    gap = max(rows[slow]["accuracy"] - rows[fast]["accuracy"], 0.0)
    level = graded(gap, 0.01, 0.05)
    advice = "Attacks of many steps are at least as strong as one step."
    if level != Level.OK:
        advice = (
            f"{fast} is stronger than {slow}, which takes more steps in the same neighbourhood: a sign of "
            "masked "
            "gradients or of a wrong step size. Check the step size, and add a black-box attack."
        )
    return verdict("one_step", level, gap, unit, advice)
