"""What users of other libraries were bitten by: here each is caught, or cannot happen.

One test per trap, in the order of the table in docs/traps.md.
"""

import itertools
import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrobust
from jaxrobust.attacks import (
    ATTACKS,
    DDN,
    PGD,
    Ensemble,
    Square,
    bpda,
    identity_start,
)
from jaxrobust.evaluation import (
    EvalAttack,
    Level,
    evaluate,
    evaluate_adversarial,
    load_adversarial,
    save_adversarial,
)
from jaxrobust.neighbourhoods import L2, LInf
from jaxrobust.numerics.metrics import wilson_interval
from jaxrobust.types import Example
from tests.evaluation.conftest import linear_apply, logits_of

BALL = LInf(eps=0.05)
ATTACK = PGD(neighbourhood=BALL, steps=8, step_size=0.25)


def measured(linear, model, attacks, **options):
    options = {"batch_size": 16, "seed": 0, **options}
    return evaluate(model, linear.params, {}, linear.images, linear.labels, attacks, **options)


def level_of(report, check):
    return next(verdict.level for verdict in report.verdicts if verdict.check == check)


def test_batch_norm_in_train_mode_is_refused(linear, make_model):
    def logits_fn(params, x):
        z = logits_of(params, x)
        return (z - z.mean(axis=0)) / z.std(axis=0)

    with pytest.raises(ValueError, match="frozen BatchNorm statistics"):
        measured(linear, make_model(logits_fn), {})


@pytest.mark.parametrize("change_fn", [lambda x: 255 * x, lambda x: (x - 0.5) / 0.25])
def test_images_normalised_outside_the_model_are_refused(linear, change_fn):
    wrong = linear._replace(images=change_fn(linear.images).astype(np.float32))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        measured(wrong, linear.model, {})
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        jaxrobust.attack(
            ATTACK, partial(logits_of, linear.params), wrong.images, linear.labels, key=jax.random.key(0)
        )


def test_probabilities_in_the_place_of_logits_are_told(linear, make_model):
    model = make_model(lambda params, x: jax.nn.softmax(logits_of(params, x)))
    assert level_of(measured(linear, model, {}), "logits_not_probabilities") == Level.FAIL


def test_restarts_are_picked_per_example():
    """Which start finds the hole depends on the row: the worst of a batch would lose some rows."""

    def score_fn(images, example):
        # A narrow hole that only a start near it finds; elsewhere the loss is flat.
        x = images[:, 0, 0, 0]
        inside = jnp.abs(x - example.image[:, 0, 0, 0] - 0.2) < 0.05
        return jnp.stack([jnp.where(inside, -1.0, 1.0), jnp.zeros_like(x)], axis=-1)

    example = Example(jnp.full((24, 1, 1, 1), 0.5), jnp.zeros(24, jnp.int32))
    keys = jax.random.split(jax.random.key(0), 24)
    attack = PGD(neighbourhood=LInf(eps=0.3), steps=1, step_size=1e-3)
    found = [np.asarray(replace(attack, restarts=n)(keys, score_fn, example).found) for n in (1, 2, 4, 16)]
    for fewer, more in itertools.pairwise(found):
        assert (more >= fewer).all()
        assert more.sum() > fewer.sum()


def test_no_attack_couples_the_rows_of_a_batch(linear):
    """`tests/common/test_attacks.py` tries every attack; an evaluation's numbers show it too."""
    attacks = {"PGD": EvalAttack(ATTACK), "Square": EvalAttack(Square(neighbourhood=BALL, queries=20))}
    small, large = (
        measured(linear, linear.model, attacks, batch_size=size, trust_checks=False) for size in (5, 53)
    )
    for name in attacks:
        np.testing.assert_array_equal(small.flags[f"correct/{name}"], large.flags[f"correct/{name}"])


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_every_attack_names_its_paper_and_where_it_deviates(name):
    """An attack that is not as published says so where one reads it; benchmarks/parity.py compares."""
    text = " ".join(ATTACKS[name].__doc__.split())
    ours = name in ("sequence", "ensemble", "joint")  # composites, not published methods
    assert "arXiv" in text or "CN111401445A" in text
    assert ours or name in ("random_search", "grid", "pgd") or "eviat" in text


def test_a_minimum_norm_is_not_taken_for_a_success_at_eps(linear):
    """DDN finds an adversarial image for nearly every row; only those within the radius count at it."""
    attack = DDN(neighbourhood=L2(eps=0.1), steps=200, initial_norm=0.2, levels=None)
    report = measured(linear, linear.model, {"DDN": EvalAttack(attack)}, trust_checks=False)
    true_length = np.abs(linear.margin) / np.linalg.norm(linear.params["w"])
    lengths, right = report.flags["length/DDN"], linear.margin > 0
    np.testing.assert_allclose(lengths[right], true_length[right], rtol=0.02, atol=1e-3)
    assert lengths[right].min() < 0.1 < lengths[right].max()
    clear = np.abs(true_length - 0.1) > 0.003
    np.testing.assert_array_equal(
        report.flags["correct/DDN"][right & clear], (true_length > 0.1)[right & clear]
    )


def test_images_are_kept_as_floats_and_measured_after_rounding(linear, tmp_path):
    """A radius below half a grey level is lost in a PNG: the row says so, and the file keeps both."""
    fine = {"FGSM": EvalAttack(PGD(neighbourhood=LInf(eps=0.0015), steps=3, step_size=0.5))}
    images = (np.round(linear.images * 255) / 255).astype(np.float32)
    score = images.reshape(53, -1) @ linear.params["w"] + linear.params["b"]
    near = np.argsort(np.abs(score))[:6]
    scene = linear._replace(images=images[near], labels=(score[near] > 0).astype(np.int32))
    report = measured(scene, linear.model, fine, keep_images=True, trust_checks=False)
    row = report.row("FGSM")
    assert row["accuracy"] < row["accuracy_8bit"] == 1.0
    file = save_adversarial(report, tmp_path / "images.npz", scene.images)
    again = evaluate_adversarial(linear.model, linear.params, {}, load_adversarial(file), batch_size=6)
    assert again.row("FGSM")["accuracy"] == row["accuracy"]
    assert again.row("FGSM")["accuracy_8bit"] == 1.0


def test_masked_gradients_do_not_go_unnoticed_where_logits_saturate(linear, make_model):
    """Logits scaled until float32 gradients vanish: plain PGD calls the model robust."""
    model = make_model(lambda params, x: jnp.clip(1e7 * logits_of(params, x), -1e4, 1e4))
    blind = replace(ATTACK, start_fn=identity_start)
    attacks = {
        "PGD": EvalAttack(blind),
        "Square": EvalAttack(Square(neighbourhood=BALL, queries=100)),
    }
    report = measured(linear, model, attacks)
    truth = np.mean(linear.margin > 0.05 * linear.slope)
    assert report.row("PGD")["accuracy"] > report.row("none")["accuracy"] - 0.05 > truth + 0.2
    assert report.row("Square")["accuracy"] < report.row("PGD")["accuracy"] - 0.2
    for check in ("zero_gradients", "square", "huge_radius"):
        assert level_of(report, check) == Level.FAIL, check


def test_masked_gradients_do_not_go_unnoticed_behind_a_quantising_layer(linear, make_model):
    """A layer that rounds its input has no gradient: PGD stands still, others do not."""
    model = make_model(lambda params, x: logits_of(params, jnp.round(64 * x) / 64))
    blind = replace(ATTACK, start_fn=identity_start)

    def surrogate(images, example):
        return logits_of(linear.params, images)

    attacks = {
        "PGD": EvalAttack(blind),
        "adaptive": EvalAttack(replace(blind, gradient_fn=bpda(surrogate))),
        "Square": EvalAttack(Square(neighbourhood=BALL, queries=100)),
    }
    report = measured(linear, model, attacks)
    assert report.row("PGD")["accuracy"] == report.row("none")["accuracy"]
    assert report.row("adaptive")["accuracy"] < report.row("none")["accuracy"] - 0.2
    assert level_of(report, "zero_gradients") == Level.FAIL
    square = measured(linear, model, {name: attacks[name] for name in ("PGD", "Square")})
    assert level_of(square, "square") == Level.FAIL


def test_numbers_can_be_had_again(linear):
    """Exact radii, seed, versions, flags and intervals are stored, and a second run repeats them."""
    attacks = {"PGD": EvalAttack(PGD(neighbourhood=LInf(eps=8 / 255), steps=3, step_size=0.5))}
    first, second = (measured(linear, linear.model, attacks, trust_checks=False, seed=7) for _ in range(2))
    row = first.row("PGD")
    assert row["eps"] == [{"kind": "LInf", "eps": 8 / 255}]
    assert row["eps"][0]["eps"] != 0.031
    assert row["seed"] == 7
    assert {"jax", "jaxrobust", "numpy", "python"} <= set(row["versions"])
    correct = int(first.flags["correct/PGD"].sum())
    low, high = wilson_interval(correct, 53)
    assert (row["correct"], row["accuracy_low"], row["accuracy_high"]) == (correct, low, high)
    for name, flags in first.flags.items():
        np.testing.assert_array_equal(flags, second.flags[name])


def test_the_ensemble_leaves_no_row_that_a_member_broke(linear):
    """The worst over attacks is taken per example, whatever the order of the members."""
    members = (ATTACK, Square(neighbourhood=BALL, queries=30))
    attacks = {str(i): EvalAttack(member) for i, member in enumerate(members)}
    attacks["both"] = EvalAttack(Ensemble(attacks=members))
    report = measured(linear, linear.model, attacks, trust_checks=False)
    assert report.row("both")["accuracy"] <= report.row("0")["accuracy"]
    assert math.isclose(
        report.row("worst")["accuracy"],
        np.mean(np.logical_and.reduce([report.flags[f"correct/{name}"] for name in attacks])),
    )


def test_the_linear_model_is_what_these_tests_take_it_for(linear):
    assert linear.model.apply is linear_apply
    assert 0 < np.mean(linear.margin > 0.05 * linear.slope) < np.mean(linear.margin > 0) < 1
