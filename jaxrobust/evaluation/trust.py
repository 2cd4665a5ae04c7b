"""Can these numbers be believed? Each check answers one way in which an evaluation looked fine and was wrong.

A check takes a `View` and gives a `Verdict`: a level, the number it rests on, and what to do. The checks look
at one batch of images and reuse the programs that the evaluation has compiled wherever they can.
"""

import re
from collections.abc import Callable

import jax
import numpy as np

from jaxrobust.evaluation import _engine, _masking
from jaxrobust.evaluation._engine import Subject
from jaxrobust.evaluation._types import WORST, Level, Verdict
from jaxrobust.evaluation._view import View, attack_rows, gap, graded, scale, unmeasured, verdict
from jaxrobust.numerics.compile import jit


def batch_independence(view: View) -> Verdict:
    """f(x) alone is f(x) in any batch; BatchNorm in train mode is the usual breach."""
    s = view.subject
    few = view.images[: min(4, len(view.images))]
    # They stand first, and so on one device, whose batch must have room for company to disturb them.
    on_each = max(s.batch_size // s.mesh.size, len(few) + 1)
    together = s.batched(on_each * s.mesh.size)
    others = together.batch_size * jax.process_count() - len(few)
    company = np.resize(1 - view.images[::-1], (others, *few.shape[1:]))
    alone = _engine.predict(s.batched(1), few).logits
    with_own = view.clean.logits[: len(few)]
    with_other = _engine.predict(together, np.concatenate([few, company])).logits[: len(few)]
    largest = max(gap(alone, other) for other in (with_own, with_other)) / scale(view.clean.logits)
    level = graded(largest, 1e-3, 5e-2)
    advice = "The logits of an image are the same alone and in a batch."
    if level != Level.OK:
        advice = (
            f"The logits of an image depend on its batch (by {largest:.2g} of their spread): evaluate in "
            "eval mode, with frozen BatchNorm statistics and without dropout (apply with train=False)."
        )
    return verdict("batch_independence", level, largest, "largest change of a logit, in deviations", advice)


def _traces_differ(s: Subject, images: np.ndarray) -> bool:
    """Whether tracing the model twice gives two programs, as random numbers drawn by Python or NumPy do."""

    def trace():
        closed = jax.make_jaxpr(lambda p, st, x: s.model.apply(p, st, x, train=False)[0].logits)(
            s.params, s.stats, images
        )
        return re.sub(r"0x[0-9a-f]+", "", str(closed.jaxpr)), closed.consts

    (first, first_consts), (second, second_consts) = trace(), trace()
    if first != second or len(first_consts) != len(second_consts):
        return True
    return any(not np.array_equal(a, b) for a, b in zip(first_consts, second_consts) if hasattr(a, "dtype")
               and not jax.dtypes.issubdtype(a.dtype, jax.dtypes.extended))  # fmt: skip


def _fresh_logits(s: Subject, images: np.ndarray) -> np.ndarray:
    """Logits of a program that is traced and compiled anew."""
    fresh = jit(lambda p, st, x: s.model.apply(p, st, x, train=False)[0].logits)
    return np.asarray(fresh(s.params, s.stats, images), np.float32)


def determinism(view: View) -> Verdict:
    """The same image twice gives the same logits; a randomised model needs the mean over its randomness."""
    s, few = view.subject, view.images[:4]
    largest = gap(_engine.predict(s, view.images).logits, view.clean.logits)
    if _traces_differ(s, few):
        largest = max(largest, gap(_fresh_logits(s, few), _fresh_logits(s, few)))
    largest = largest / scale(view.clean.logits)
    level = graded(largest, 1e-5, 1e-3)
    advice = "The same image twice gives the same logits."
    if level != Level.OK:
        advice = (
            f"The same image twice gives different logits (by {largest:.2g} of their spread): turn the "
            "randomness "
            "off, or attack its expectation (gradient_fn=eot(...)) and average the predictions."
        )
    return verdict("determinism", level, largest, "largest change of a logit, in deviations", advice)


def image_bounds(view: View) -> Verdict:
    """Pixels are in [0, 1] and use that range, so that eps means what it says."""
    low, high = float(view.images.min()), float(view.images.max())
    raw = np.asarray(view.subject.images[0])
    if raw.dtype != np.uint8:
        rows = [np.asarray(view.subject.images[int(i)]) for i in view.rows]
        low, high = float(np.min(rows)), float(np.max(rows))
    unit, span = f"range of the pixels ({low:.3g} to {high:.3g})", high - low
    if not (low >= -_engine.PIXEL_TOLERANCE and high <= 1 + _engine.PIXEL_TOLERANCE):
        advice = "Pixels leave [0, 1]: pass raw pixels and normalise inside the model."
        return verdict("image_bounds", Level.FAIL, span, unit, advice)
    if high <= 2 / 255:
        advice = "Pixels are nearly 0: they look divided by 255 twice. Pass uint8, or divide once."
        return verdict("image_bounds", Level.FAIL, span, unit, advice)
    if span < 0.25:
        advice = "Pixels use little of [0, 1]: check the scale, since eps is relative to that range."
        return verdict("image_bounds", Level.WARN, span, unit, advice)
    return verdict("image_bounds", Level.OK, span, unit, "Pixels are in [0, 1].")


def result_bounds(view: View) -> Verdict:
    """Attacked images are in [0, 1] to 1e-6 and inside their neighbourhood."""
    unit = "largest excess over [0, 1]"
    rows = [row for row in attack_rows(view) if row["pixel_low"] is not None]
    if not rows:
        return unmeasured("result_bounds", unit, "no image was attacked.")
    excesses = {row["attack"]: max(0.0, -row["pixel_low"], row["pixel_high"] - 1) for row in rows}
    excess = max(excesses.values())
    if not excess <= _engine.PIXEL_TOLERANCE:
        names = ", ".join(name for name, value in excesses.items() if value > _engine.PIXEL_TOLERANCE)
        advice = (
            f"Attacked images leave [0, 1] ({names}): clip in the neighbourhood's apply; accuracy is too low."
        )
        return verdict("result_bounds", Level.FAIL, excess, unit, advice)
    outside = {row["attack"]: row["outside"] for row in rows if row["outside"]}
    if outside:
        listed = ", ".join(f"{count} of {name}" for name, count in outside.items())
        advice = (
            f"Some results lie farther than the radius ({listed}) and were not counted as successes: an "
            "attack of fixed radius must project its last step, a minimum-norm attack says that it is one "
            "(minimum_norm = True)."
        )
        return verdict("result_bounds", Level.WARN, sum(outside.values()), "results outside", advice)
    return verdict(
        "result_bounds", Level.OK, excess, unit, "Attacked images are in [0, 1] and in the radius."
    )


def finite_logits(view: View) -> Verdict:
    """No NaN and no infinity comes out of the model."""
    rows = list(view.report.rows) if view.report else []
    counts = [row["nonfinite"] for row in rows if row["attack"] != WORST]
    count = max([int(np.sum(~view.clean.finite)), *counts])
    if count:
        advice = (
            f"The model gave NaN or infinite logits for up to {count} images of a row; they count as "
            "wrong. Look "
            "for overflow (bfloat16, exp, division by a zero variance) before believing any number."
        )
        return verdict("finite_logits", Level.FAIL, count, "images", advice)
    return verdict("finite_logits", Level.OK, 0, "images", "All logits are finite.")


def logits_not_probabilities(view: View) -> Verdict:
    """The model gives logits: on probabilities a loss takes a second softmax, and the gradient fades."""
    logits = view.clean.logits
    unit = "largest distance of a row's sum from 1"
    apart = float(np.max(np.abs(logits.sum(axis=-1) - 1)))
    inside = bool(np.all((logits >= -1e-6) & (logits <= 1 + 1e-6)))
    if inside and apart < 1e-3:
        advice = "The model returns probabilities: return the logits instead (leave out the last softmax)."
        return verdict("logits_not_probabilities", Level.FAIL, apart, unit, advice)
    if inside:
        advice = "All logits are in [0, 1], like sigmoid outputs: return what comes before the squashing."
        return verdict("logits_not_probabilities", Level.WARN, apart, unit, advice)
    return verdict("logits_not_probabilities", Level.OK, apart, unit, "The model returns logits.")


def rounding(view: View) -> Verdict:
    """Adversarial images survive an image file: 8-bit pixels give the same accuracy."""
    unit = "largest change of accuracy by rounding to 8 bits"
    if view.report is None:
        return unmeasured("rounding", unit, "nothing was attacked.")
    # A minimum-norm attack stops at the boundary, so rounding undoes it by design: its row says how often.
    rows = [row for row in view.report.rows if row["attack"] != WORST and not row["minimum_norm"]]
    row = max(rows, key=lambda row: abs(row["accuracy_8bit"] - row["accuracy"]))
    change = abs(row["accuracy_8bit"] - row["accuracy"])
    level = graded(change, 0.02, 0.1)
    advice = "Rounding the images of attacks of fixed radius to 8 bits changes nothing that matters."
    if level != Level.OK:
        advice = (
            f"Rounded to 8 bits, {row['attack']} leaves {row['accuracy_8bit']:.1%} right instead of "
            f"{row['accuracy']:.1%}: its images do not survive a PNG. Store them as floats (npz), and "
            "quote the "
            "rounded accuracy where a file or a camera lies between."
        )
    return verdict("rounding", level, change, unit, advice)


def identity(view: View) -> Verdict:
    """R_adv = R_stand + (1 - R_stand) R_rob image by image, eq. (6), on what was measured."""
    unit = "images that break the identity"
    rows = [row for row in view.report.rows if row["identity_violations"] is not None] if view.report else []
    if not rows:
        return unmeasured("identity", unit, "R_rob was not asked for (robust_risk=True).")
    count = max(row["identity_violations"] for row in rows)
    level = graded(count / rows[0]["n"], 0.0, 0.01)
    advice = "R_adv = R_stand + (1 - R_stand) R_rob holds on every image."
    if level != Level.OK:
        advice = (
            f"{count} images break R_adv = R_stand + (1 - R_stand) R_rob: the same attack on the same "
            "image gave "
            "two results, so it depends on the other rows of its batch or on hidden state."
        )
    return verdict("identity", level, count, unit, advice)


CHECKS: dict[str, Callable[[View], Verdict]] = {
    "batch_independence": batch_independence,
    "determinism": determinism,
    "image_bounds": image_bounds,
    "result_bounds": result_bounds,
    "finite_logits": finite_logits,
    "logits_not_probabilities": logits_not_probabilities,
    "zero_gradients": _masking.zero_gradients,
    "huge_radius": _masking.huge_radius,
    "restarts": _masking.restarts,
    "rounding": rounding,
    "black_box": _masking.black_box,
    "square": _masking.square,
    "transfer": _masking.transfer,
    "one_step": _masking.one_step,
    "identity": identity,
}


def check(view: View) -> tuple[Verdict, ...]:
    """All checks, in the order of `CHECKS`."""
    return tuple(check_fn(view) for check_fn in CHECKS.values())
