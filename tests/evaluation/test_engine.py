"""Pixels as training sees them, what is kept of attacked images, and ensembles over what is left."""

import itertools

import jax
import numpy as np
import pytest

from jaxrobust.attacks import PGD, Ensemble, RandomSearch, fgsm
from jaxrobust.data import to_float
from jaxrobust.evaluation import (
    EvalAttack,
    _engine,
    _programs,
    _survivors,
    accuracy_curve,
    evaluate,
    next_class,
)
from jaxrobust.neighbourhoods import L2, LInf
from tests.evaluation.stand_ins import Boundary

LEVELS = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)


def test_all_levels_are_bitwise_those_of_training():
    trained_on = np.asarray(jax.jit(to_float)(LEVELS))
    assert trained_on[255] == 1 and trained_on[0] == 0
    np.testing.assert_array_equal(_engine.gather(LEVELS, np.arange(256)), trained_on)
    np.testing.assert_array_equal(_engine.gather(list(LEVELS), np.arange(256)), trained_on)
    np.testing.assert_array_equal(_programs.to_8bit(trained_on), trained_on)
    near = np.clip(trained_on + np.float32(0.001), 0, 1)
    np.testing.assert_array_equal(_programs.to_8bit(near), trained_on)
    np.testing.assert_array_equal(_programs.to_8bit(np.float32([-1e-6, 1 + 1e-6])), np.float32([0, 1]))


def test_only_the_rows_asked_for_are_kept(linear):
    def report(**options):
        return evaluate(
            linear.model, linear.params, {}, linear.images, linear.labels,
            {"a": EvalAttack(fgsm(LInf(eps=0.05)))}, batch_size=16, seed=0, trust_checks=False, **options,
        )  # fmt: skip

    subject = _engine.subject(
        linear.model, linear.params, {}, linear.images, linear.labels, batch_size=16, seed=0
    )
    index = np.arange(subject.n)
    found = _engine.run_attack(subject, "a", fgsm(LInf(eps=0.05)), index, subject.labels, keep=(3, 18))
    assert sorted(found.images) == [3, 18]
    assert all(
        image.base is None and image.shape == linear.images.shape[1:] for image in found.images.values()
    )
    few, whole = report(), report(keep_images=True)
    assert not few.images and len(few.samples) == 2
    assert whole.images["a"].shape == linear.images.shape
    for sample in few.samples:
        np.testing.assert_array_equal(sample.attacked["a"].image, whole.images["a"][sample.index])
    assert few.row("a")["pixel_low"] == whole.row("a")["pixel_low"]


RANDOM = RandomSearch(neighbourhood=LInf(eps=0.1), num=2)
NEAR = Boundary(neighbourhood=L2(eps=0.08))
WEAK = fgsm(LInf(eps=0.02))
FINAL = PGD(neighbourhood=LInf(eps=0.06), steps=2, step_size=0.7)


@pytest.mark.parametrize(
    "members",
    [
        pytest.param((RANDOM, NEAR, WEAK, FINAL), marks=pytest.mark.slow),
        (Ensemble(attacks=(WEAK, RANDOM)), Ensemble(attacks=(Ensemble(attacks=(NEAR,)), FINAL))),
    ],
    ids=["flat", "nested"],
)
@pytest.mark.parametrize("batch_size", [7, pytest.param(53, marks=pytest.mark.slow)])
def test_an_ensemble_over_the_survivors_is_the_ensemble_inside_jit(linear, members, batch_size):
    s = _engine.subject(
        linear.model, linear.params, {}, linear.images, linear.labels, batch_size=batch_size, seed=3
    )
    ensemble, index = Ensemble(attacks=members), np.arange(3, s.n)
    inside = _engine.run_attack(s, "e", ensemble, index, s.labels[index], keep=range(s.n))
    outside = _survivors.run_attack(s, "e", ensemble, index, s.labels[index], keep=range(s.n))
    found = outside.found
    np.testing.assert_array_equal(found.seen.prediction, inside.seen.prediction)
    np.testing.assert_allclose(found.distance, inside.distance, atol=1e-6)
    assert sorted(found.images) == sorted(inside.images) == index.tolist()
    for row, image in inside.images.items():
        np.testing.assert_allclose(found.images[row], image, atol=1e-6, err_msg=str(row))
    np.testing.assert_array_equal(outside.broken_by >= 0, found.seen.prediction != s.labels[index])
    assert [share.broken for share in outside.shares] == [
        int(np.sum(outside.broken_by == at)) for at in range(4)
    ]


def test_on_cpu_members_take_small_batches_and_find_the_same(linear, monkeypatch):
    members, sizes = Ensemble(attacks=(WEAK, NEAR, FINAL)), []
    real = _engine.run_attack

    def noting(s, *args, **options):
        sizes.append(s.batch_size)
        return real(s, *args, **options)

    monkeypatch.setattr(_engine, "run_attack", noting)
    s = _engine.subject(
        linear.model, linear.params, {}, linear.images, linear.labels,
        batch_size=len(linear.labels), seed=3, num_devices=1,
    )  # fmt: skip
    index = np.arange(s.n)
    found = {}
    for rows in (s.n, 8):
        sizes.clear()
        monkeypatch.setattr(_survivors, "ROWS", rows)
        found[rows] = _survivors.run_attack(s, "e", members, index, s.labels)
        assert len(sizes) == 3 and len(set(sizes)) == 1
        assert sizes[0] == s.n if rows == s.n else 6 <= sizes[0] <= 12
    np.testing.assert_array_equal(found[8].broken_by, found[s.n].broken_by)
    np.testing.assert_allclose(found[8].found.distance, found[s.n].found.distance, atol=1e-6)


def test_members_see_what_the_members_before_them_left(linear):
    members = (WEAK, NEAR, FINAL)
    report = evaluate(
        linear.model, linear.params, {}, linear.images, linear.labels,
        {"e": EvalAttack(Ensemble(attacks=members)), "last": EvalAttack(FINAL)},
        batch_size=16, seed=0, trust_checks=False,
    )  # fmt: skip
    row, right = report.row("e"), linear.margin > 0
    shares = row["broken_by"]
    assert [share["member"] for share in shares] == ["PGD", "Boundary", "PGD"]
    assert shares[0]["attacked"] == right.sum() == row["attacked"]
    for before, after in itertools.pairwise(shares):
        assert after["attacked"] == before["attacked"] - before["broken"]
    weak = right & (linear.margin <= 0.02 * linear.slope)
    near = right & (linear.nearest <= 0.08) & ~weak
    assert [share["broken"] for share in shares[:2]] == [weak.sum(), near.sum()]
    np.testing.assert_array_equal(report.flags["broken_by/e"] == 1, near)
    assert row["correct"] == shares[-1]["attacked"] - shares[-1]["broken"]
    assert report.row("last")["broken_by"] is None
    assert row["radius"] == "ℓ∞ 0.02 or ℓ2 0.08 or ℓ∞ 0.06"
    assert not row["minimum_norm"] and row["outside"] == 0


def test_an_ensemble_has_a_curve_and_a_targeted_form(linear):
    arguments = (linear.model, linear.params, {}, linear.images, linear.labels)
    options = {"batch_size": 16, "seed": 0}
    ensemble = Ensemble(attacks=(WEAK, FINAL))
    row = evaluate(*arguments, {"e": EvalAttack(ensemble)}, trust_checks=False, **options).row("e")
    curve = accuracy_curve(*arguments, EvalAttack(ensemble), name="e", factors=(0.5, 1.0), **options)
    assert curve.accuracy[-1] == row["accuracy"] < curve.accuracy[0]
    led = Ensemble(attacks=tuple(type(m)(**{**vars(m), "targeted": True}) for m in (WEAK, FINAL)))
    to = evaluate(
        *arguments, {"e": EvalAttack(led, target_fn=next_class)}, trust_checks=False, **options
    ).row("e")
    # Of two classes the other one is the target.
    assert to["correct"] == row["correct"]
    assert to["targeted_success"] == pytest.approx(1 - row["correct"] / row["attacked"])


def test_nothing_compiles_twice_for_what_is_left(linear):
    arguments = (linear.model, linear.params, {}, linear.images, linear.labels)
    attacks = {"e": EvalAttack(Ensemble(attacks=(WEAK, NEAR, FINAL)))}
    evaluate(*arguments, attacks, batch_size=8, seed=0, trust_checks=False)
    compiled = _programs.num_compiled()
    evaluate(*arguments, attacks, batch_size=8, seed=1, trust_checks=False)
    assert _programs.num_compiled() == compiled


def test_what_an_attack_found_is_judged_where_it_lies(linear):
    """Answers, pixels and bounds are those of the kept images on the host, whatever their batch."""
    s = _engine.subject(
        linear.model, linear.params, {}, linear.images, linear.labels,
        batch_size=8, seed=0, num_devices=4,
    )  # fmt: skip
    index = np.arange(3, 24)
    found = _engine.run_attack(s, "a", WEAK, index, s.labels[index], keep=index)
    images = np.stack([found.images[row] for row in index])
    assert (found.low, found.high) == (images.min(), images.max())
    for answers, pixels in ((found.seen, images), (found.seen_8bit, _programs.to_8bit(images))):
        for part, other in zip(answers, _engine.predict(s, pixels)):
            np.testing.assert_array_equal(part, other)
    assert _engine.run_attack(s, "a", WEAK, index, s.labels[index], keep=[5]).images.keys() == {5}


def test_images_that_are_not_kept_stay_on_the_devices(linear, monkeypatch):
    sizes, get = [], jax.device_get
    monkeypatch.setattr(
        jax, "device_get", lambda tree: sizes.extend(np.size(x) for x in jax.tree.leaves(tree)) or get(tree)
    )
    s = _engine.subject(
        linear.model, linear.params, {}, linear.images, linear.labels, batch_size=8, seed=0, num_devices=1
    )
    _engine.run_attack(s, "a", WEAK, np.arange(8), s.labels[:8])
    # Logits of two classes for eight images are the most.
    assert max(sizes) == 16
