import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as scipy_stats

from jaxrobust.attacks import PGD, RandomSearch, Sequence, fgsm
from jaxrobust.evaluation import (
    EvalAttack,
    Level,
    _programs,
    breakage,
    curve_of,
    evaluate,
    least_likely,
    next_class,
)
from jaxrobust.models import from_callable
from jaxrobust.neighbourhoods import L2, LInf
from jaxrobust.types import AttackResult, Model, Outputs
from tests.evaluation.stand_ins import Boundary

SHAPE = (3, 4, 1)
EPS = 0.05
PGD_5 = PGD(neighbourhood=LInf(eps=EPS), steps=5, step_size=0.5)
FGSM = fgsm(LInf(eps=EPS))


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Every image becomes one grey; `distance` is what it claims in radii. A stand-in attack."""

    value: float
    distance: float = 1.0

    def __call__(self, keys, score_fn, example):
        image = jnp.full_like(example.image, self.value)
        distance = jnp.full(len(image), self.distance)
        return AttackResult(image, image, jnp.ones(len(image), bool), distance)

    def scaled(self, factor):
        return self


def run(linear, attacks, *, images=None, labels=None, **options):
    options = {"batch_size": 16, "seed": 0, "trust_checks": False, **options}
    images = linear.images if images is None else images
    labels = linear.labels if labels is None else labels
    return evaluate(linear.model, linear.params, {}, images, labels, attacks, **options)


@pytest.mark.parametrize("attack", [FGSM, PGD_5], ids=["fgsm", "pgd"])
def test_accuracy_of_a_linear_model_is_the_share_of_margins_above_eps_times_its_slope(linear, attack):
    row = run(linear, {"a": EvalAttack(attack)}).row("a")
    expected = linear.margin > EPS * linear.slope
    assert 0 < expected.sum() < (linear.margin > 0).sum()
    assert row["correct"] == expected.sum()
    assert row["accuracy"] == pytest.approx(expected.mean())
    assert row["r_stand"] == pytest.approx((linear.margin <= 0).mean())
    assert row["r_adv"] == pytest.approx(1 - expected.mean())


def test_robust_risk_needs_no_label(linear):
    report = run(linear, {"a": EvalAttack(PGD_5)}, robust_risk=True)
    moved = np.abs(linear.score) <= EPS * linear.slope
    np.testing.assert_array_equal(report.flags["moved/a"], moved)
    assert report.row("a")["r_rob"] == pytest.approx(moved.mean())
    other = run(linear, {"a": EvalAttack(PGD_5)}, labels=1 - linear.labels, robust_risk=True)
    np.testing.assert_array_equal(other.flags["moved/a"], moved)


def test_the_identity_of_the_three_risks_holds_image_by_image(linear):
    attacks = {
        "pgd": EvalAttack(PGD_5),
        "random": EvalAttack(RandomSearch(neighbourhood=LInf(eps=EPS), num=3), every_image=True),
    }
    report = run(linear, attacks, robust_risk=True)
    right = report.flags["correct/none"]
    for name in attacks:
        row = report.row(name)
        assert row["identity_violations"] == 0
        adv = ~right | ~report.flags[f"correct/{name}"]
        np.testing.assert_array_equal(adv, ~right | (right & report.flags[f"moved/{name}"]))
        joint = (right & report.flags[f"moved/{name}"]).mean()
        assert row["r_adv"] == pytest.approx(row["r_stand"] + joint)
    assert report.row("worst")["identity_violations"] == 0


def test_only_images_still_right_are_attacked(linear):
    report = run(linear, {"a": EvalAttack(PGD_5), "all": EvalAttack(PGD_5, every_image=True)})
    right = report.flags["correct/none"]
    assert report.row("a")["attacked"] == right.sum() < len(right)
    assert report.row("all")["attacked"] == len(right)
    np.testing.assert_array_equal(np.isfinite(report.flags["distance/a"]), right)


def test_a_row_that_counts_every_image_may_exceed_clean_accuracy_but_the_worst_may_not(linear):
    grey = np.full((1, 3, 4, 1), 0.5, np.float32)
    logits = grey.reshape(1, -1) @ linear.params["w"] + linear.params["b"]
    labels = np.full(len(linear.images), int(logits[0] > 0), np.int32)
    entry = EvalAttack(Constant(value=0.5), every_image=True)
    report = run(linear, {"a": entry}, labels=labels)
    assert report.row("none")["accuracy"] < 1
    assert report.row("a")["accuracy"] == 1
    assert report.row("a")["r_adv"] == report.row("none")["r_stand"]
    assert report.row("worst")["accuracy"] == report.row("none")["accuracy"]


def test_the_worst_is_per_example_and_has_the_clean_image_among_its_candidates(linear):
    attacks = {"dark": EvalAttack(Constant(value=0.0)), "bright": EvalAttack(Constant(value=1.0))}
    report = run(linear, attacks)
    together = np.logical_and.reduce([report.flags[f"correct/{name}"] for name in ("none", *attacks)])
    assert report.row("worst")["correct"] == together.sum()
    np.testing.assert_array_equal(report.flags["correct/worst"], together)
    assert report.row("worst")["accuracy"] <= min(report.row(name)["accuracy"] for name in attacks)


@pytest.mark.parametrize("batch_size", [1, 7, 500])
def test_results_do_not_depend_on_the_batch_size(linear, batch_size):
    attacks = {
        "pgd": EvalAttack(PGD(neighbourhood=LInf(eps=0.03), steps=2, step_size=0.2)),
        "random": EvalAttack(RandomSearch(neighbourhood=LInf(eps=0.2), num=2), every_image=True),
    }
    options = {"robust_risk": True, "keep_images": True}
    reference, other = run(linear, attacks, **options), run(linear, attacks, batch_size=batch_size, **options)
    for name, flag in reference.flags.items():
        np.testing.assert_allclose(other.flags[name], flag, atol=1e-6, err_msg=name)
    for name, images in reference.images.items():
        np.testing.assert_allclose(other.images[name], images, atol=1e-6)


@pytest.mark.parametrize("n", [1, 16, 17])
def test_padding_counts_for_nothing(linear, n):
    report = run(
        linear, {"a": EvalAttack(PGD_5)}, images=linear.images[1 : n + 1], labels=linear.labels[1 : n + 1]
    )
    expected = (linear.margin > EPS * linear.slope)[1 : n + 1]
    row = report.row("a")
    assert row["n"] == n == len(report.flags["correct/a"])
    assert row["correct"] == expected.sum()
    assert report.row("none")["correct"] == (linear.margin[1 : n + 1] > 0).sum()


def test_a_model_that_is_always_wrong_leaves_nothing_to_attack(linear):
    wrong = linear.margin < 0
    report = run(linear, {"a": EvalAttack(PGD_5)}, images=linear.images[wrong], labels=linear.labels[wrong])
    assert report.row("a")["attacked"] == 0
    assert report.row("a")["accuracy"] == 0
    assert report.row("a")["distance_mean"] is None


def test_other_attacks_in_the_list_change_nothing(linear):
    entry = EvalAttack(RandomSearch(neighbourhood=LInf(eps=0.2), num=1), every_image=True)
    alone = run(linear, {"b": entry}, keep_images=True)
    among = run(linear, {"a": entry, "b": entry}, keep_images=True)
    np.testing.assert_array_equal(alone.images["b"], among.images["b"])
    assert not np.array_equal(among.images["a"], among.images["b"])
    assert not np.array_equal(
        run(linear, {"b": entry}, keep_images=True, seed=1).images["b"], alone.images["b"]
    )


def test_nothing_compiles_twice(linear):
    traces = []

    def apply(params, stats, x, *, train, keys=None, axis_name=None):
        traces.append(x.shape)
        return linear.model.apply(params, stats, x, train=train)

    model = Model(None, apply, linear.model.image_shape, 2)

    def once(w, eps, n):
        attacks = {"a": EvalAttack(PGD(neighbourhood=LInf(eps=eps), steps=2, step_size=0.5))}
        params = {**linear.params, "w": w}
        options = {"batch_size": 8, "seed": 0, "robust_risk": True}
        evaluate(
            model, params, {}, linear.images[:n], linear.labels[:n], attacks, trust_checks=False, **options
        )

    once(linear.params["w"], EPS, 53)
    compiled, seen = _programs.num_compiled(), len(traces)
    once(-linear.params["w"], EPS, 53)
    once(linear.params["w"], EPS, 20)
    assert (_programs.num_compiled(), len(traces)) == (compiled, seen)


def test_an_image_outside_the_radius_is_no_success(linear):
    report = run(linear, {"far": EvalAttack(Constant(value=0.0, distance=1.01))})
    assert report.row("far")["correct"] == report.row("none")["correct"]
    assert report.row("far")["outside"] == report.row("far")["attacked"]
    near = run(linear, {"near": EvalAttack(Constant(value=0.0, distance=1.00001))})
    assert near.row("near")["correct"] < near.row("none")["correct"]


def test_rounding_to_8_bits_undoes_what_is_smaller_than_half_a_level(linear):
    images = np.round(linear.images * 255).astype(np.uint8)
    score = images.reshape(len(images), -1) / 255 @ linear.params["w"] + linear.params["b"]
    order = np.argsort(np.abs(score))[:10]
    labels = (score > 0).astype(np.int32)
    # Large weights make a change of 0.0019 matter; rounding brings the pixels back.
    params = {"w": linear.params["w"], "b": linear.params["b"]}
    entry = {"a": EvalAttack(fgsm(LInf(eps=0.0019)))}
    near = np.abs(score[order]) < 0.0019 * linear.slope
    assert near.any()
    report = evaluate(
        linear.model,
        params,
        {},
        images[order],
        labels[order],
        entry,
        batch_size=16,
        seed=0,
        trust_checks=False,
    )
    assert report.row("a")["accuracy"] == pytest.approx(1 - near.mean())
    assert report.row("a")["accuracy_8bit"] == 1


def test_intervals_are_wilsons(linear):
    row = run(linear, {"a": EvalAttack(PGD_5)}).row("a")
    expected = scipy_stats.binomtest(row["correct"], row["n"]).proportion_ci(method="wilson")
    assert (row["accuracy_low"], row["accuracy_high"]) == pytest.approx((expected.low, expected.high))


def test_uint8_float_and_lazy_images_are_the_same_images(linear):
    raw = np.round(linear.images * 255).astype(np.uint8)

    class Lazy:
        def __len__(self):
            return len(raw)

        def __getitem__(self, i):
            assert isinstance(i, int)
            return raw[i]

    reports = [run(linear, {"a": EvalAttack(PGD_5)}, images=x) for x in (raw, raw / 255.0, Lazy())]
    for report in reports[1:]:
        for name, flag in reports[0].flags.items():
            np.testing.assert_array_equal(report.flags[name], flag)


def test_rows_are_json_and_say_where_the_number_comes_from(linear):
    eps = 8 / 255
    pgd = PGD(neighbourhood=LInf(eps=eps), steps=2, step_size=0.5)
    report = run(linear, {"a": EvalAttack(pgd)}, seed=7, model_name="lin", dataset_name="made up")
    row = json.loads(json.dumps(report.row("a"), allow_nan=False))
    assert row["eps"] == [{"kind": "LInf", "eps": eps}]
    assert row["radius"] == "ℓ∞ 8/255"
    assert row["config"]["steps"] == 2
    assert (row["seed"], row["n"], row["model"], row["dataset"]) == (7, 53, "lin", "made up")
    assert row["versions"]["jax"] == jax.__version__
    assert {"jaxlib", "jaxrobust", "python"} <= set(row["versions"])
    assert row["hardware"].startswith(jax.default_backend())
    assert row["seconds"] > 0 < row["images_per_second"]
    assert 0 < row["distance_mean"] <= 1 + 1e-5
    assert set(row) <= set(report.row("worst"))
    assert report.row("worst")["eps"] == row["eps"]
    for value in report.flags.values():
        assert value.shape == (53,)
    assert report.flags["correct/a"].dtype == report.flags["correct_8bit/a"].dtype == bool


def test_samples_are_the_first_right_image_of_each_class(linear):
    report = run(linear, {"a": EvalAttack(PGD_5)})
    for label, sample in enumerate(report.samples):
        candidates = np.flatnonzero((linear.labels == label) & (linear.margin > 0))
        assert (sample.label, sample.index) == (label, candidates[0])
        np.testing.assert_allclose(sample.clean.image, linear.images[candidates[0]])
        change = np.abs(sample.attacked["a"].image - sample.clean.image).max()
        assert change == pytest.approx(EPS, abs=1e-6)
        assert 0.5 <= sample.clean.confidence <= 1
    assert len(report.samples) == 2
    assert run(linear, {}, num_samples=0).samples == ()


def test_kept_images_give_the_flags_back(linear):
    report = run(linear, {"a": EvalAttack(PGD_5)}, keep_images=True)
    flat = report.images["a"].reshape(53, -1)
    score = flat @ linear.params["w"] + linear.params["b"]
    np.testing.assert_array_equal((score > 0) == linear.labels, report.flags["correct/a"])


def test_nan_counts_as_wrong_and_is_reported(linear, make_model):
    def broken(params, x):
        z = x.reshape(len(x), -1).sum(axis=-1)
        bad = jnp.where(z > 6.2, jnp.nan, 1.0)
        return jnp.stack([bad, 0 * bad], axis=-1)

    labels = np.zeros(53, np.int32)
    report = evaluate(
        make_model(broken),
        {},
        {},
        linear.images,
        labels,
        {},
        batch_size=16,
        seed=0,
        trust_checks=False,
    )
    bad = linear.images.reshape(53, -1).sum(axis=-1) > 6.2
    assert 0 < bad.sum() < 53
    assert report.row("none")["nonfinite"] == bad.sum()
    np.testing.assert_array_equal(report.flags["correct/none"], ~bad)


def test_a_model_in_train_mode_is_refused_with_the_cure(linear, make_model):
    def normalised(params, x):
        z = x.reshape(len(x), -1) @ params["w"]
        z = (z - z.mean()) / (z.std() + 1e-5)
        return jnp.stack([-z, z], axis=-1)

    model = make_model(normalised)
    arguments = (model, linear.params, {}, linear.images, linear.labels, {})
    with pytest.raises(
        ValueError, match=r"train=False.*--allow-batch-dependent.*refuse_batch_dependent=False"
    ):
        evaluate(*arguments, batch_size=16, seed=0)
    report = evaluate(*arguments, batch_size=16, seed=0, refuse_batch_dependent=False)
    assert {v.check: v.level for v in report.verdicts}["batch_independence"] == Level.FAIL


def test_a_foreign_model_is_evaluated_like_our_own(linear):
    model = from_callable(
        lambda p, x: jnp.stack([jnp.zeros(len(x)), 2 * (x.reshape(len(x), -1) @ p["w"] + p["b"])], axis=-1),
        linear.params,
        linear.model.image_shape,
    )
    params, stats = model.init(jax.random.key(0))
    attacks = {"a": EvalAttack(PGD_5)}
    report = evaluate(model, params, stats, linear.images, linear.labels, attacks, batch_size=16, seed=0)
    assert report.row("a")["correct"] == (linear.margin > EPS * linear.slope).sum()
    assert len(report.verdicts) > 5


def test_statistics_of_the_model_are_used(linear):
    def apply(params, stats, x, *, train, keys=None, axis_name=None):
        assert not train
        return Outputs(linear.model.apply(params, {}, x - stats["mean"], train=train)[0].logits), stats

    model = Model(None, apply, linear.model.image_shape, 2)
    report = evaluate(
        model,
        linear.params,
        {"mean": np.float32(0.0)},
        linear.images,
        linear.labels,
        {},
        batch_size=16,
        seed=0,
        trust_checks=False,
    )
    assert report.row("none")["correct"] == (linear.margin > 0).sum()


def test_progress_is_told_after_every_batch(linear):
    told = []
    run(linear, {"a": EvalAttack(PGD_5, every_image=True)}, progress_fn=lambda *at: told.append(at))
    assert told == [("a", 16, 53), ("a", 32, 53), ("a", 48, 53), ("a", 53, 53)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((0, 3, 4, 1), np.uint8), "labels": np.zeros(0, np.int32)}, "at least one image"),
        ({"labels": np.full(53, 2)}, r"labels in \[0, 1\]"),
        ({"labels": np.zeros(52, np.int32)}, "one label per image"),
        ({"labels": np.zeros(53)}, "integer labels"),
        ({"images": np.full((53, 3, 4, 1), 255.0)}, r"pixels in \[0, 1\].*inside the model"),
        ({"images": np.full((53, 3, 4, 1), np.nan)}, r"pixels in \[0, 1\]"),
        ({"images": np.zeros((53, 4, 4, 1), np.uint8)}, r"\(3, 4, 1\)"),
        ({"images": np.zeros((53, 3, 4, 1), np.int32)}, "uint8 or float"),
        ({"batch_size": 0}, "batch_size >= 1"),
        ({"seed": -1}, "seed >= 0"),
    ],
)
def test_bad_arguments_are_named(linear, change, message):
    with pytest.raises(ValueError, match=message):
        run(linear, {}, **change)


def test_bad_attacks_are_named(linear):
    with pytest.raises(ValueError, match="Wrap it"):
        run(linear, {"a": PGD_5})
    with pytest.raises(ValueError, match="is taken"):
        run(linear, {"worst": EvalAttack(PGD_5)})
    with pytest.raises(ValueError, match="scaled"):
        EvalAttack(lambda keys, score_fn, example: None)
    with pytest.raises(ValueError, match="Known: none, worst"):
        run(linear, {}).row("pgd")


@pytest.mark.parametrize(
    "attack", [PGD_5, RandomSearch(neighbourhood=LInf(eps=EPS), num=3, chunk=2)], ids=["pgd", "random"]
)
def test_a_model_that_answers_nan_off_the_clean_images_is_not_robust(linear, attack):
    """The model answers NaN wherever the pixels are not whole 8-bit values."""

    def apply(params, stats, x, *, train, keys=None, axis_name=None):
        whole = (jnp.abs(x * 255 - jnp.round(x * 255)) < 1e-3).all(axis=(1, 2, 3))
        outputs, stats = linear.model.apply(params, stats, x, train=train)
        return Outputs(jnp.where(whole[:, None], outputs.logits, jnp.nan)), stats

    broken = linear._replace(
        model=linear.model._replace(apply=apply), images=np.round(linear.images * 255).astype(np.uint8)
    )
    report = run(broken, {"a": EvalAttack(attack)}, trust_checks=True, robust_risk=True)
    row = report.row("a")
    assert report.row("none")["correct"] > 0 and row["correct"] == 0 and row["r_rob"] == 1.0
    assert row["nonfinite"] == row["attacked"]
    verdicts = {verdict.check: verdict.level for verdict in report.verdicts}
    assert verdicts["finite_logits"] == Level.FAIL


BUDGET = 0.1


@pytest.fixture(scope="module")
def nearest(linear):
    """A minimum-norm attack of which the true lengths are known, and a weak attack beside it."""
    weak = EvalAttack(fgsm(LInf(eps=0.005)))
    attacks = {"near": EvalAttack(Boundary(neighbourhood=L2(eps=BUDGET))), "weak": weak}
    return run(linear, attacks, trust_checks=True, keep_images=True)


def test_a_minimum_norm_attack_counts_what_it_found_within_the_budget(linear, nearest):
    expected = linear.nearest > BUDGET
    assert 0 < expected.sum() < (linear.margin > 0).sum()
    row = nearest.row("near")
    assert row["correct"] == expected.sum()
    assert (row["minimum_norm"], row["norm"], row["radius"]) == (True, 2, "ℓ2 0.1")
    assert row["distance_median"] <= 1
    weak, worst = nearest.row("weak"), nearest.row("worst")
    assert not weak["minimum_norm"] and weak["norm"] == "inf"
    assert weak["found"] is weak["norm_median"] is None
    together = expected & nearest.flags["correct/weak"]
    assert worst["correct"] == together.sum()
    json.dumps([*nearest.rows], allow_nan=False)


def test_minimum_norms_are_those_of_the_linear_model(linear, nearest):
    right = linear.margin > 0
    lengths = nearest.flags["length/near"]
    np.testing.assert_allclose(lengths, linear.nearest, rtol=1e-4, atol=1e-6)
    row = nearest.row("near")
    assert row["found"] == 1.0
    assert row["norm_median"] == pytest.approx(np.median(linear.nearest[right]), rel=1e-4)
    assert row["norm_mean"] == pytest.approx(np.mean(linear.nearest[right]), rel=1e-4)


def test_what_lies_beyond_the_budget_is_no_fault_of_a_minimum_norm_attack(nearest):
    assert nearest.row("near")["outside"] == 0
    verdicts = {verdict.check: verdict.level for verdict in nearest.verdicts}
    assert verdicts["result_bounds"] == Level.OK
    assert (nearest.flags["distance/near"] > 1).any()
    assert verdicts["rounding"] == Level.OK


def test_the_curve_of_a_minimum_norm_attack_needs_no_further_run(linear, nearest):
    compiled = _programs.num_compiled()
    curve = curve_of(nearest, "near", factors=(2.0, 0.25, 0.5, 1.0))
    assert _programs.num_compiled() == compiled
    assert curve.factors == (0.0, 0.25, 0.5, 1.0, 2.0)
    right = linear.margin > 0
    expected = [right.mean(), *((linear.nearest > f * BUDGET).mean() for f in curve.factors[1:])]
    assert curve.accuracy == pytest.approx(expected)
    assert curve.accuracy[3] == nearest.row("near")["accuracy"]
    assert (curve.eps, curve.norm, curve.n) == (BUDGET, 2.0, 53)
    assert list(curve_of(nearest, "near").accuracy) == sorted(curve_of(nearest, "near").accuracy)[::-1]
    with pytest.raises(ValueError, match="weak is no minimum-norm attack"):
        curve_of(nearest, "weak")


def test_failures_are_infinitely_far(linear):
    first = linear.images[:, 0, 0, 0]
    right = linear.margin > 0
    report = run(
        linear,
        {
            "some": EvalAttack(Boundary(neighbourhood=L2(eps=9.0), fails_below=0.45)),
            "most": EvalAttack(Boundary(neighbourhood=L2(eps=9.0), fails_below=0.6)),
        },
    )
    for name, below in (("some", 0.45), ("most", 0.6)):
        row, failed = report.row(name), right & (first < below)
        assert row["found"] == pytest.approx(1 - failed.sum() / right.sum())
        np.testing.assert_array_equal(np.isinf(report.flags[f"length/{name}"]), failed)
        assert row["correct"] == failed.sum()
        found = right & ~failed
        assert row["norm_mean"] == pytest.approx(linear.nearest[found].mean(), rel=1e-4)
    assert report.row("most")["norm_median"] is None
    lengths = np.where(first < 0.45, np.inf, linear.nearest)[right]
    assert report.row("some")["norm_median"] == pytest.approx(np.median(lengths), rel=1e-4)
    curve = curve_of(report, "most", factors=(1.0, 100.0))
    assert curve.accuracy[1] == curve.accuracy[2] == report.row("most")["accuracy"] > 0


def test_which_attack_broke_which_image(linear, nearest):
    found = breakage(nearest)
    assert found.attacks == ("near", "weak")
    right = linear.margin > 0
    by_near = right & (linear.nearest <= BUDGET)
    by_weak = right & (linear.margin <= 0.005 * linear.slope)
    np.testing.assert_array_equal(found.broken, [by_near, by_weak])
    assert found.alone == {"near": (by_near & ~by_weak).sum(), "weak": (by_weak & ~by_near).sum()}
    assert breakage(run(linear, {})).broken.shape == (0, 53)


@pytest.fixture(scope="module")
def three() -> tuple[Model, dict]:
    """A linear model of three classes on the same images."""
    weights = {"w": np.random.default_rng(1).normal(size=(12, 3)).astype(np.float32)}

    def apply(params, stats, x, *, train, keys=None, axis_name=None):
        return Outputs((x.reshape(len(x), -1) - 0.5) @ params["w"]), stats

    return Model(None, apply, SHAPE, 3), weights


@pytest.mark.parametrize("target_fn", [least_likely, next_class])
def test_a_targeted_attack_is_led_to_the_class_that_was_chosen(linear, three, target_fn):
    model, params = three
    logits = (linear.images.reshape(53, -1) - 0.5) @ params["w"]
    labels = logits.argmax(axis=-1).astype(np.int32)
    labels[:5] = (labels[:5] + 1) % 3
    pgd = PGD(neighbourhood=LInf(eps=0.15), steps=5, step_size=0.5, targeted=True)
    report = evaluate(
        model, params, {}, linear.images, labels, {"t": EvalAttack(pgd, target_fn=target_fn)},
        batch_size=16, seed=0, trust_checks=False, robust_risk=True,
    )  # fmt: skip
    row, flags = report.row("t"), report.flags
    right = np.arange(53) >= 5
    np.testing.assert_array_equal(flags["target/t"], target_fn(logits, labels))
    reached = right & (flags["prediction/t"] == flags["target/t"])
    assert row["targeted_success"] == pytest.approx(reached.sum() / right.sum())
    assert 0 < row["targeted_success"] < 1
    # Some are led astray without getting there: accuracy counts the label alone.
    np.testing.assert_array_equal(flags["correct/t"], right & (flags["prediction/t"] == labels))
    assert row["accuracy"] <= 1 - row["targeted_success"] * right.mean()
    assert row["targeted_success_low"] < row["targeted_success"] < row["targeted_success_high"]
    assert row["identity_violations"] == 0
    assert report.row("none")["targeted_success"] is None


def test_a_targeted_attack_without_a_target_is_refused_with_the_cure():
    targeted = PGD(neighbourhood=LInf(eps=0.1), targeted=True)
    with pytest.raises(ValueError, match=r"target_fn=least_likely.*pgd:target=least_likely"):
        EvalAttack(targeted)
    with pytest.raises(ValueError, match="leave target_fn out"):
        EvalAttack(PGD_5, target_fn=least_likely)
    with pytest.raises(ValueError, match="all targeted or all untargeted"):
        EvalAttack(Sequence(stages=(PGD_5, targeted)))
    with pytest.raises(ValueError, match="one integer class per image"):
        _ = run_targets(lambda logits, labels: logits)
    with pytest.raises(ValueError, match=r"labels in \[0, 1\]"):
        _ = run_targets(lambda logits, labels: labels + 2)


def run_targets(target_fn):
    images = np.full((2, *SHAPE), 0.5, np.float32)
    apply = lambda params, stats, x, *, train, keys=None, axis_name=None: (  # noqa: E731
        Outputs(jnp.stack([x[:, 0, 0, 0], 0 * x[:, 0, 0, 0]], axis=-1)),
        stats,
    )
    attack = PGD(neighbourhood=LInf(eps=0.1), steps=1, targeted=True)
    return evaluate(
        Model(None, apply, SHAPE, 2), {}, {}, images, np.zeros(2, np.int32),
        {"a": EvalAttack(attack, target_fn=target_fn)}, batch_size=2, seed=0, trust_checks=False,
    )  # fmt: skip
