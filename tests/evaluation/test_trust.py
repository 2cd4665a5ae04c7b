"""Each check fires on a model built to trip it, and is quiet on a linear model and honest attacks."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks import PGD, Square, fgsm, identity_start
from jaxrobust.evaluation import CHECKS, EvalAttack, Level, Surrogate, _programs, _sharding, evaluate
from jaxrobust.evaluation._engine import Subject
from jaxrobust.evaluation._view import look
from jaxrobust.neighbourhoods import LInf
from jaxrobust.numerics.losses import margin
from jaxrobust.types import AttackResult

BALL = LInf(eps=0.05)
PGD_8 = PGD(neighbourhood=BALL, steps=8, step_size=0.25)
BLIND = PGD(neighbourhood=BALL, steps=8, step_size=0.25, start_fn=identity_start)


def linear_logits(params, x):
    z = x.reshape(len(x), -1) @ params["w"] + params["b"]
    return jnp.stack([-z, z], axis=-1)


def masked_logits(params, x):
    """The forward pass of the linear model, without a gradient."""
    return linear_logits(params, jax.lax.stop_gradient(x))


def view_of(linear, model, attacks=None, report=None, **changes):
    subject = Subject(model, linear.params, {}, linear.images, linear.labels, 16, 0, _sharding.mesh_of(1))
    return look(subject._replace(**changes), attacks or {}, report)


def measured(linear, model, attacks, **options):
    return evaluate(
        model, linear.params, {}, linear.images, linear.labels, attacks, batch_size=16, seed=0,
        trust_checks=False, refuse_batch_dependent=False, **options,
    )  # fmt: skip


def only(name, view):
    verdict = CHECKS[name](view)
    assert verdict.check == name
    assert len(verdict.advice) > 10
    return verdict


@pytest.fixture(scope="module")
def sound(linear):
    """A whole evaluation of the linear model, where every check has something to measure."""
    model = linear.model
    attacks = {
        "FGSM": EvalAttack(fgsm(BALL)),
        "PGD": EvalAttack(PGD_8),
        "Square": EvalAttack(Square(neighbourhood=BALL, queries=10)),
    }
    return evaluate(
        model,
        linear.params,
        {},
        linear.images,
        linear.labels,
        attacks,
        batch_size=16,
        seed=0,
        robust_risk=True,
        surrogates={"itself": Surrogate(model, linear.params, {})},
    )


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_quiet_on_a_sound_model(sound, name):
    verdict = {verdict.check: verdict for verdict in sound.verdicts}[name]
    assert verdict.level == Level.OK, verdict.advice
    assert np.isfinite(verdict.evidence), "the check measured nothing"


def test_a_report_lists_what_is_not_ok_worst_first(sound):
    warn = replace(sound.verdicts[0], level=Level.WARN)
    fail = replace(sound.verdicts[1], level=Level.FAIL)
    assert replace(sound, verdicts=(warn, *sound.verdicts[2:], fail)).warnings == (fail, warn)
    assert sound.warnings == ()


def test_batch_statistics(linear, make_model):
    def normalised(params, x):
        z = linear_logits(params, x)
        return (z - z.mean(axis=0)) / (z.std(axis=0) + 1e-5)

    verdict = only("batch_independence", view_of(linear, make_model(normalised)))
    assert verdict.level == Level.FAIL
    assert "BatchNorm" in verdict.advice
    assert verdict.evidence > 0.05


def test_noise_by_row_of_the_batch(linear, make_model):
    def dropped(params, x):
        return linear_logits(params, x) + jax.random.normal(jax.random.key(0), (len(x), 2))

    assert only("batch_independence", view_of(linear, make_model(dropped))).level == Level.FAIL


def test_a_batch_of_one_is_tried_in_company(linear, make_model):
    def normalised(params, x):
        return linear_logits(params, x) - linear_logits(params, x).mean(axis=0)

    verdict = only("batch_independence", view_of(linear, make_model(normalised), batch_size=1))
    assert verdict.level == Level.FAIL


def test_randomness_at_run_time(linear, make_model):
    rng = np.random.default_rng(0)

    def noisy(params, x):
        shape = jax.ShapeDtypeStruct((len(x), 2), jnp.float32)
        noise = jax.pure_callback(lambda: rng.normal(size=shape.shape).astype(np.float32), shape)
        return linear_logits(params, x) + noise

    verdict = only("determinism", view_of(linear, make_model(noisy)))
    assert verdict.level == Level.FAIL
    assert "eot" in verdict.advice


def test_randomness_at_trace_time(linear, make_model):
    rng = np.random.default_rng(0)

    def noisy(params, x):
        return linear_logits(params, x) + float(rng.normal())

    assert only("determinism", view_of(linear, make_model(noisy))).level == Level.FAIL


@pytest.mark.parametrize(
    ("change_fn", "level", "words"),
    [
        (lambda x: 2 * x - 1, Level.FAIL, "inside the model"),
        (lambda x: x / 255, Level.FAIL, "twice"),
        (lambda x: x / 5, Level.WARN, "scale"),
        (lambda x: x + 4e-7, Level.OK, "0, 1"),
    ],
)
def test_image_bounds(linear, change_fn, level, words):
    images = change_fn(linear.images).astype(np.float32)
    verdict = only("image_bounds", view_of(linear, linear.model, images=images))
    assert verdict.level == level
    assert words in verdict.advice


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Adds a constant without clipping. A stand-in for an attack with a fault."""

    by: float
    distance: float = 1.0

    def __call__(self, keys, score_fn, example):
        image = example.image + self.by
        return AttackResult(image, image, jnp.ones(len(image), bool), jnp.full(len(image), self.distance))

    def scaled(self, factor):
        return self


@pytest.mark.parametrize(
    ("attack", "level", "words"),
    [
        (Shift(by=0.8), Level.FAIL, "clip"),
        (Shift(by=-0.8), Level.FAIL, "clip"),
        (Shift(by=0.01, distance=1.5), Level.WARN, "minimum-norm"),
        (Shift(by=0.01), Level.OK, "in the radius"),
    ],
)
def test_result_bounds(linear, attack, level, words):
    attacks = {"a": EvalAttack(attack)}
    report = measured(linear, linear.model, attacks)
    verdict = only("result_bounds", view_of(linear, linear.model, attacks, report))
    assert verdict.level == level
    assert words in verdict.advice


def test_nan(linear, make_model):
    def broken(params, x):
        z = linear_logits(params, x)
        return jnp.where(z > jnp.max(z) - 1e-6, jnp.nan, z)

    verdict = only("finite_logits", view_of(linear, make_model(broken)))
    assert verdict.level == Level.FAIL
    assert verdict.evidence == 1


@pytest.mark.parametrize(
    ("squash_fn", "level"),
    [
        (jax.nn.softmax, Level.FAIL),
        (jax.nn.sigmoid, Level.WARN),
        (jax.nn.log_softmax, Level.OK),
    ],
)
def test_probabilities(linear, make_model, squash_fn, level):
    # Both columns move together, or the two sigmoids would sum to 1.
    model = make_model(lambda params, x: squash_fn(linear_logits(params, x) + jnp.array([0.0, 1.0])))
    assert only("logits_not_probabilities", view_of(linear, model)).level == level


def test_zero_gradients(linear, make_model):
    verdict = only("zero_gradients", view_of(linear, make_model(masked_logits)))
    assert verdict.level == Level.FAIL
    assert verdict.evidence == 1
    assert "bpda" in verdict.advice


def test_gradients_lost_to_saturation(linear, make_model):
    steep = make_model(lambda params, x: 1e4 * linear_logits(params, x))
    assert only("zero_gradients", view_of(linear, steep)).level == Level.FAIL


def test_huge_radius(linear, make_model):
    model = make_model(masked_logits)
    view = view_of(linear, model, {"PGD": EvalAttack(BLIND)})
    verdict = only("huge_radius", view)
    assert verdict.level == Level.FAIL
    assert verdict.evidence == pytest.approx((linear.margin[view.rows] > 0).mean())
    sound = only("huge_radius", view_of(linear, linear.model, {"PGD": EvalAttack(PGD_8)}))
    assert (sound.level, sound.evidence) == (Level.OK, 0)


def test_huge_radius_brings_its_own_attack_where_there_is_none(linear):
    verdict = only("huge_radius", view_of(linear, linear.model))
    assert (verdict.level, verdict.evidence) == (Level.OK, 0)


@dataclass(frozen=True, kw_only=True)
class LastRestart:
    """Keeps nothing of its first restart: with more than one it gives the clean image back."""

    neighbourhood: LInf
    steps: int = 5
    restarts: int = 1

    def __call__(self, keys, score_fn, example):
        if self.restarts > 1:
            kept = example.image
        else:
            kept = PGD(neighbourhood=self.neighbourhood, steps=5, step_size=0.5)(
                keys, score_fn, example
            ).image
        return AttackResult(kept, kept, jnp.ones(len(kept), bool), jnp.ones(len(kept)))

    def scaled(self, factor):
        return replace(self, neighbourhood=self.neighbourhood.scaled(factor))


@pytest.mark.parametrize("restarts", [1, 2])
def test_restarts_that_help_the_model(linear, restarts):
    attacks = {"PGD": EvalAttack(LastRestart(neighbourhood=LInf(eps=0.15), restarts=restarts))}
    report = measured(linear, linear.model, attacks)
    verdict = only("restarts", view_of(linear, linear.model, attacks, report, batch_size=53))
    assert verdict.level == Level.FAIL
    assert verdict.evidence > 0
    assert "per example" in verdict.advice


def test_an_attack_that_has_not_converged(linear):
    weak = PGD(neighbourhood=LInf(eps=0.1), steps=5, step_size=1e-6)
    verdict = only("restarts", view_of(linear, linear.model, {"PGD": EvalAttack(weak)}, batch_size=53))
    assert verdict.level == Level.WARN
    assert verdict.evidence < 0
    assert "converged" in verdict.advice


def test_rounding(linear, make_model):
    # Images on the levels, a radius below half a level, and a slope that makes it matter.
    images = (np.round(linear.images * 255) / 255).astype(np.float32)
    flat = images.reshape(53, -1)
    near = np.argsort(np.abs(flat @ linear.params["w"] + linear.params["b"]))[:6]
    labels = (flat @ linear.params["w"] + linear.params["b"] > 0).astype(np.int32)
    attacks = {"a": EvalAttack(fgsm(LInf(eps=0.0019)))}
    scene = linear._replace(images=images[near], labels=labels[near])
    report = measured(scene, linear.model, attacks)
    verdict = only("rounding", view_of(scene, linear.model, attacks, report, batch_size=6))
    assert verdict.level == Level.FAIL
    assert "npz" in verdict.advice


def test_black_box(linear, make_model):
    attacks = {"PGD": EvalAttack(BLIND)}
    model = make_model(masked_logits)
    verdict = only("black_box", view_of(linear, model, attacks, batch_size=53))
    assert verdict.level in (Level.WARN, Level.FAIL)
    assert verdict.evidence > 0
    assert "masked" in verdict.advice


def test_square(linear, make_model):
    attacks = {
        "PGD": EvalAttack(BLIND),
        "Square": EvalAttack(Square(neighbourhood=BALL, queries=60)),
    }
    model = make_model(masked_logits)
    report = measured(linear, model, attacks)
    verdict = only("square", view_of(linear, model, attacks, report))
    assert verdict.level == Level.FAIL
    assert "masked" in verdict.advice
    alone = {"Square": attacks["Square"]}
    assert only("square", view_of(linear, model, alone, report)).level == Level.SKIPPED


def test_transfer(linear, make_model):
    """The images of the honest model break the one that hides its gradient."""
    attacks, hidden = {"PGD": EvalAttack(BLIND)}, make_model(masked_logits)
    others = {"honest": Surrogate(linear.model, linear.params, {})}
    subject = Subject(hidden, linear.params, {}, linear.images, linear.labels, 53, 0, _sharding.mesh_of(1))
    verdict = only("transfer", look(subject, attacks, None, others))
    assert verdict.level == Level.FAIL
    assert "on honest break" in verdict.advice
    # And the other way round nothing is left to break.
    reverse = {"hidden": Surrogate(hidden, linear.params, {})}
    subject = subject._replace(model=linear.model)
    assert only("transfer", look(subject, attacks, None, reverse)).level == Level.OK


def test_one_step(linear):
    slow = PGD(neighbourhood=BALL, steps=5, step_size=1e-4, start_fn=identity_start, loss_fn=margin)
    attacks = {"FGSM": EvalAttack(fgsm(BALL)), "PGD": EvalAttack(slow)}
    report = measured(linear, linear.model, attacks)
    verdict = only("one_step", view_of(linear, linear.model, attacks, report))
    assert verdict.level == Level.FAIL
    assert verdict.advice.startswith("FGSM is stronger than PGD")


@dataclass(frozen=True, kw_only=True)
class EveryOther:
    """Fools the rows at even places of the batch only: its result depends on the company."""

    def __call__(self, keys, score_fn, example):
        even = (jnp.arange(len(keys)) % 2 == 0)[:, None, None, None]
        image = jnp.where(even, 1 - example.image, example.image)
        return AttackResult(image, image, jnp.ones(len(keys), bool), jnp.ones(len(keys)))

    def scaled(self, factor):
        return self


def test_identity(linear):
    attacks = {"a": EvalAttack(EveryOther())}
    report = measured(linear, linear.model, attacks, robust_risk=True)
    verdict = only("identity", view_of(linear, linear.model, attacks, report))
    assert verdict.level == Level.FAIL
    assert verdict.evidence == report.row("a")["identity_violations"] > 0


def test_a_check_that_measured_nothing_says_so(linear):
    for name in ("restarts", "black_box", "one_step", "identity", "rounding", "result_bounds"):
        verdict = only(name, view_of(linear, linear.model))
        assert verdict.level == Level.SKIPPED
        assert np.isnan(verdict.evidence)
        assert verdict.advice.startswith("Not measured")


def test_the_checks_compile_little(linear, sound):
    """Other weights of the same model: everything is compiled already."""
    before = _programs.num_compiled()
    attacks = {"FGSM": EvalAttack(fgsm(BALL)), "PGD": EvalAttack(PGD_8)}
    params = {**linear.params, "b": linear.params["b"] + np.float32(0.01)}
    report = evaluate(
        linear.model,
        params,
        {},
        linear.images,
        linear.labels,
        attacks,
        batch_size=16,
        seed=0,
        robust_risk=True,
    )
    assert report.verdicts
    assert _programs.num_compiled() == before


def test_the_checks_look_at_a_fair_sample_of_a_sorted_set(linear):
    order = np.argsort(linear.labels, kind="stable")
    view = view_of(linear, linear.model, images=linear.images[order], labels=linear.labels[order])
    assert set(view.labels) == {0, 1}
    np.testing.assert_array_equal(view.images, linear.images[order][view.rows])
    assert len(set(view.rows.tolist())) == 16
