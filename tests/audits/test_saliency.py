"""The saliency audit on models whose eyes are known, and on people."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import data, experiments
from jaxrobust.attacks import FAB, MIFGSM, PGD
from jaxrobust.audits import (
    WORST_MAP,
    Blur,
    Fill,
    Noise,
    SaliencyAudit,
    Sensitivity,
    audit_classifier,
    audit_pairs,
    compare_saliency,
    confined,
    parse_map,
    parse_perturbation,
    parse_regions,
    patch,
    region_pgd,
    saliency_html,
    write_saliency_report,
)
from jaxrobust.audits._saliency_report import SaliencyRow
from jaxrobust.audits._saliency_verdict import Grounds, verdict_of
from jaxrobust.data import Identities, fold_pairs, identity_folds, make_pairs
from jaxrobust.evaluation import Estimate, ThreatModel
from jaxrobust.models import TinyCNN, build
from jaxrobust.neighbourhoods import L2, LInf, Masked
from jaxrobust.saliency import (
    GradCAM,
    Gradient,
    IntegratedGradients,
    Occlusion,
    Threshold,
    TopFraction,
    iou,
)

SIDE, EYE = 12, 4
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.3, 0.7, size=(40, SIDE, SIDE, 1)).astype(np.float32)
# Bright or dark where the model looks.
LABELS = RNG.integers(0, 2, 40)
IMAGES[:, 2 : 2 + EYE, 6 : 6 + EYE] = np.where(LABELS, 0.9, 0.1)[:, None, None, None]
PATCH = np.zeros((SIDE, SIDE), bool)
PATCH[2 : 2 + EYE, 6 : 6 + EYE] = True
# A fraction is a decimal: sixteen pixels of 144 are a little more than 0.111.
AREA = TopFraction(fraction=0.1112, sigma=0)


def eye(images):
    """Looks at one patch alone."""
    seen = images[:, 2 : 2 + EYE, 6 : 6 + EYE].mean(axis=(1, 2, 3)) - 0.5
    return jnp.stack([-8 * seen, 8 * seen], axis=1)


def blind(images):
    """Looks at the lower left corner, which says nothing."""
    seen = images[:, -EYE:, :EYE].mean(axis=(1, 2, 3)) - 0.5
    return jnp.stack([-8 * seen, 8 * seen], axis=1)


def plan(**changes):
    given = {
        "maps": {"occlusion": Occlusion(window=2, stride=1), "gradients": IntegratedGradients(steps=4)},
        "regions": {"patch": AREA},
        # The other side of grey: a decision that rests on the patch turns.
        "perturbations": {"dark": Fill(level=0.0)},
        "num_sanity": 0,
        "batch_size": 40,
        "num_draws": 60,
    }
    return SaliencyAudit(**{**given, **changes})


def load_digits_subset():
    test = data.load("digits").test
    return np.asarray(test.images[:80]), np.asarray(test.labels[:80])


def fitted(model, images, labels):
    """Weights that know these few images by heart, after some steps on them."""
    params, stats = model.init(jax.random.key(0))
    optimizer = optax.adam(3e-3)
    x, y = jnp.asarray(images / np.float32(255)), jnp.asarray(labels)

    @jax.jit
    def step(params, state):
        def loss(p):
            logits = model.apply(p, stats, x, train=False)[0].logits
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(80):
        params, state = step(params, state)
    return params, stats


@pytest.fixture(scope="module")
def found():
    return audit_classifier(plan(), eye, IMAGES, LABELS, fill=0.5, name="eye", dataset="patches")


def test_a_model_that_looks_at_one_patch_is_found_out(found):
    assert found.num_right == 40
    row = found.row("occlusion")
    bright = LABELS == 1
    # Dark patches stay dark; every bright one turns.
    assert row.flips.value == pytest.approx(bright.mean())
    for case in found.cases:
        assert iou(case.inside[None], PATCH[None])[0] >= 0.8
    assert row.excess["rolled"].value >= 0.8 * row.flips.value
    assert row.area == pytest.approx(PATCH.mean())
    flipped = found.flags["flipped/occlusion/patch/dark/salient"]
    np.testing.assert_array_equal(flipped == 1, bright)


def test_regions_of_another_model_are_worth_no_more_than_chance():
    report = audit_classifier(plan(), eye, IMAGES, LABELS, fill=0.5, explained=blind)
    row = report.row(WORST_MAP)
    assert row.excess["rolled"].value < 0.1
    assert row.flips.value < 0.1
    assert report.verdict.sensitivity is Sensitivity.UNDETERMINED
    assert "another model's maps" in report.verdict.sentence
    assert report.facts["regions_of_another_model"]


def test_regions_of_a_randomised_model_do_no_more_than_chance():
    model = build(TinyCNN(), (8, 8, 1))
    digits = load_digits_subset()
    params, stats = fitted(model, *digits)
    drawn = model.init(jax.random.key(99))
    audit = plan(
        maps={"occlusion": Occlusion(window=2, stride=1)},
        regions={"top": TopFraction(fraction=0.2)},
        perturbations={"mean": Fill()},
        num_draws=200,
    )
    fn = experiments.logits_fn
    own = audit_classifier(audit, fn(model, params, stats), *digits, fill=digits[0].mean(axis=0) / 255)
    other = audit_classifier(
        audit,
        fn(model, params, stats),
        *digits,
        fill=digits[0].mean(axis=0) / 255,
        explained=fn(model, *drawn),
    )
    assert own.row("occlusion").excess["rolled"].low > 0
    chance = other.row("occlusion").excess["rolled"]
    assert chance.low <= 0.02
    assert chance.value < own.row("occlusion").excess["rolled"].value / 2


def test_the_probability_before_and_after_is_the_models(found):
    row = found.row("gradients")
    before = 1 / (1 + np.exp(-16 * 0.4))
    after = np.where(LABELS == 1, 1 / (1 + np.exp(16 * 0.5)), 1 / (1 + np.exp(-16 * 0.5)))
    assert row.support_drop.value == pytest.approx((before - after).mean(), abs=2e-3)


def test_results_do_not_depend_on_the_batch(found):
    again = audit_classifier(plan(batch_size=7), eye, IMAGES, LABELS, fill=0.5)
    for one, other in zip(found.rows, again.rows):
        assert one.flips == other.flips
        assert one.support_drop.value == pytest.approx(other.support_drop.value, abs=1e-5)


def test_an_attack_changes_nothing_outside_of_the_region():
    attack = region_pgd(0.3, 4)
    report = audit_classifier(
        plan(perturbations={"pgd": attack, "patch": patch(4)}), eye, IMAGES, LABELS, fill=0.5
    )
    for case in report.cases:
        changed = np.abs(case.perturbed - case.image).max(axis=-1)
        assert changed[~case.inside].max() == 0
        assert changed.max() <= 0.3 + 1e-6
    # A patch may do whatever it likes to the place where the model looks.
    assert report.row("occlusion", perturbation="patch").flips.value == 1
    assert report.row("occlusion", perturbation="pgd").flips.value == 0


def test_images_that_are_wrong_from_the_start_are_counted_and_left_out():
    wrong = LABELS.copy()
    wrong[:10] = 1 - wrong[:10]
    report = audit_classifier(plan(), eye, IMAGES, wrong, fill=0.5)
    assert (report.num_rows, report.num_right) == (40, 30)
    assert report.before["right"].value == 0.75
    assert (report.flags["flipped/occlusion/patch/dark/salient"][:10] == -1).all()
    predicted = audit_classifier(plan(), eye, IMAGES, fill=0.5)
    assert predicted.num_right == 40


def test_all_wrong_is_undetermined_and_no_crash():
    report = audit_classifier(plan(), eye, IMAGES, 1 - LABELS, fill=0.5)
    assert report.num_right == 0
    assert report.verdict.sensitivity is Sensitivity.UNDETERMINED
    json.dumps(report.to_json(), allow_nan=False)
    assert "UNDETERMINED" in saliency_html(report, title="None right")


def test_curves_rise_with_the_region_and_begin_at_nothing():
    regions = {f"{q}": TopFraction(fraction=q, sigma=0) for q in (0.02, 0.06, 0.12)}
    report = audit_classifier(plan(regions=regions), eye, IMAGES, LABELS, fill=0.5)
    curve = next(curve for curve in report.curves if curve.map == "occlusion")
    assert curve.areas[0] == curve.flips[0] == 0
    assert list(curve.flips) == sorted(curve.flips)
    under = np.trapezoid(curve.flips, curve.areas) / curve.areas[-1]
    assert curve.area_under.value == pytest.approx(under)
    assert report.headline == ("0.06", "dark")


def test_the_worst_over_maps_is_at_least_each_of_them(found):
    worst = found.row(WORST_MAP)
    for name in ("occlusion", "gradients"):
        assert worst.flips.value >= found.row(name).flips.value


def test_constant_maps_and_nan_are_said():
    def broken(images):
        dark = images[:, 2 : 2 + EYE, 6 : 6 + EYE].mean(axis=(1, 2, 3)) < 0.07
        return jnp.where(dark[:, None], jnp.nan, eye(images))

    maps = {"gradients": IntegratedGradients(steps=2)}
    report = audit_classifier(plan(maps=maps), broken, IMAGES, LABELS, fill=0.5)
    assert report.row("gradients").nonfinite == 40
    assert report.row("gradients").flips.value == 1
    assert any("NaN" in warning for warning in report.warnings)

    def steps(images):
        return jnp.round(eye(images))

    flat = audit_classifier(plan(maps={"gradient": Gradient()}), steps, IMAGES, LABELS, fill=0.5)
    assert any("40 of 40 maps of gradient are constant" in warning for warning in flat.warnings)


def test_sanity_curves_tell_a_map_from_noise():
    report = audit_classifier(plan(num_sanity=8), eye, IMAGES, LABELS, fill=0.5)
    for row in report.maps:
        assert row.insertion > row.random_insertion
        assert row.deletion < row.random_deletion


# Verdicts ------------------------------------------------------------------------------------------------


def grounds(**changes):
    given = {
        "num_maps": 2, "num_right": 1000, "num_units": 1000, "pointless": 0.0, "informative": True,
        "foreign": False, "control": "rolled",
    }  # fmt: skip
    return Grounds(**{**given, **changes})


def row_of(flips, excess):
    nothing = Estimate(None)
    return SaliencyRow(
        WORST_MAP, "top", "mean", 0.1, flips, {}, {"rolled": excess}, nothing, nothing, {}, None, None, 0
    )


@pytest.mark.parametrize(
    ("flips", "changes", "level"),
    [
        (Estimate(0.05, 0.02, 0.0999), {}, "LOW"),
        (Estimate(0.05, 0.02, 0.1), {}, "MEDIUM"),
        (Estimate(0.6, 0.5, 0.7), {}, "MEDIUM"),
        (Estimate(0.6, 0.501, 0.7), {}, "HIGH"),
        (Estimate(0.05, 0.02, 0.09), {"num_maps": 1}, "UNDETERMINED"),
        (Estimate(0.05, 0.02, 0.09), {"pointless": 0.5}, "UNDETERMINED"),
        (Estimate(0.05, 0.02, 0.09), {"informative": False}, "UNDETERMINED"),
        (Estimate(0.05, 0.02, 0.09), {"informative": None}, "UNDETERMINED"),
        (Estimate(0.6, 0.55, 0.7), {"foreign": True}, "UNDETERMINED"),
        (Estimate(0.6, 0.55, 0.7), {"num_maps": 1}, "HIGH"),
        (Estimate(0.6), {}, "UNDETERMINED"),
        # Resampling shows no spread where none flips, or all: as few people cannot say so.
        (Estimate(0.0, 0.0, 0.0), {"num_units": 34}, "MEDIUM"),
        (Estimate(0.0, 0.0, 0.0), {"num_units": 35}, "LOW"),
        (Estimate(1.0, 1.0, 1.0), {"num_units": 3}, "MEDIUM"),
        (Estimate(0.0, 0.0, 0.0), {"num_units": 1}, "UNDETERMINED"),
    ],
)
def test_verdicts(flips, changes, level):
    found = verdict_of(row_of(flips, Estimate(0.1, 0.05, 0.2)), grounds(**changes))
    assert found.sensitivity == level
    assert found.sentence.startswith(level)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.3, True),
        (-0.1, 0.1, None),
        (-0.3, 0.0, None),
        (-0.3, -0.1, False),
        (0.0, 0.0, None),
        (1.0, 1.0, None),
    ],
)
def test_where_the_model_looks_is_said_only_if_the_control_is_beaten(low, high, said):
    excess = Estimate((low + high) / 2, low, high)
    assert verdict_of(row_of(Estimate(0.3, 0.2, 0.4), excess), grounds()).localised is said


def test_a_region_without_pixels_is_no_ground_for_low():
    report = audit_classifier(
        plan(regions={"none": Threshold(level=1e9)}, num_sanity=4), eye, IMAGES, LABELS, fill=0.5
    )
    assert report.verdict.sensitivity is Sensitivity.UNDETERMINED
    assert any("40 of 40 regions of occlusion, none, have no pixel" in warning for warning in report.warnings)


def test_what_an_attack_of_least_norm_finds_beyond_its_radius_does_not_count():
    ball = FAB(neighbourhood=L2(eps=1e-3), steps=5)
    report = audit_classifier(plan(perturbations={"fab": ball}), eye, IMAGES, LABELS, fill=0.5)
    assert report.row("occlusion").flips.value == 0
    wide = FAB(neighbourhood=L2(eps=10.0), steps=5)
    found = audit_classifier(plan(perturbations={"fab": wide}), eye, IMAGES, LABELS, fill=0.5)
    assert found.row("occlusion").flips.value > 0.9


def test_geometry_and_joint_attacks_stay_in_the_region():
    names = ("grid_adv", "joint", "colour", "rand_adv.r")
    threat = ThreatModel(eps=0.1, max_angle=10.0, max_shift=1.0, granularity=(2, 2, 2))
    kinds = dict(parse_perturbation(name, threat) for name in names)
    report = audit_classifier(plan(perturbations=kinds, controls=()), eye, IMAGES[:4], LABELS[:4], fill=0.5)
    for case in report.cases:
        assert np.abs(case.perturbed - case.image).max(axis=-1)[~case.inside].max() == 0


def test_groups_are_what_is_resampled():
    report = audit_classifier(plan(), eye, IMAGES, LABELS, fill=0.5, groups=np.arange(40) // 4)
    assert (report.unit, report.num_units) == ("groups", 10)
    assert "40 images, of 10 groups" in report.summary() and "resampling groups" in report.summary()


def test_colour_images_and_many_maps():
    colour = np.repeat(IMAGES, 3, axis=-1)
    maps = {f"occlusion {i}": Occlusion(window=2 + i % 3, stride=1) for i in range(9)}
    regions = {"a": TopFraction(fraction=0.05), "b": AREA}
    report = audit_classifier(plan(maps=maps, regions=regions), eye, colour, LABELS, fill=[0.5, 0.4, 0.6])
    assert len(report.agreement) == 36
    assert "worst over maps" in saliency_html(report, title="Colour")


def test_two_models_are_compared_row_by_row(found):
    same = compare_saliency(found, found, num_draws=20)
    assert all(row.flips == Estimate(0.0, 0.0, 0.0) for row in same)
    numb = audit_classifier(
        plan(),
        lambda images: eye(0.5 + 0.01 * (images - 0.5)) * 100 + blind(images),
        IMAGES,
        LABELS,
        fill=0.5,
    )
    (row,) = [row for row in compare_saliency(found, numb, num_draws=20) if row.map == WORST_MAP]
    assert row.num_rows == int((numb.flags["right"] == 1).sum())
    both = numb.flags["right"] == 1
    name = "flipped/{}/patch/dark/salient"
    share = [
        np.any([flags[name.format(m)][both] == 1 for m in ("occlusion", "gradients")], axis=0).mean()
        for flags in (found.flags, numb.flags)
    ]
    assert row.flips.value == pytest.approx(share[1] - share[0])
    other = audit_classifier(plan(), eye, IMAGES[:20], LABELS[:20], fill=0.5)
    with pytest.raises(ValueError, match="different rows"):
        compare_saliency(found, other)


# Pairs ---------------------------------------------------------------------------------------------------


def people(num=8, each=4):
    """People who differ in one patch, whose pixels are their embedding."""
    rng = np.random.default_rng(1)
    images = rng.integers(100, 156, size=(num * each, SIDE, SIDE, 1))
    faces = rng.integers(0, 256, size=(num, EYE, EYE, 1))
    identity = np.repeat(np.arange(num), each)
    noise = rng.integers(-20, 21, size=(num * each, EYE, EYE, 1))
    images[:, 2 : 2 + EYE, 6 : 6 + EYE] = np.clip(faces[identity] + noise, 0, 255)
    return Identities(
        images.astype(np.uint8), identity.astype(np.int32), tuple(f"p{i}" for i in range(num)), "0" * 16, "p"
    )


def embed(images):
    seen = images[:, 2 : 2 + EYE, 6 : 6 + EYE].reshape(images.shape[0], -1)
    return seen - seen.mean(axis=1, keepdims=True) + 1e-3


@pytest.fixture(scope="module")
def faces():
    return people()


@pytest.fixture(scope="module")
def asked(faces):
    pairs, validation = make_pairs(faces, range(5), seed=0), make_pairs(faces, range(5, 8), seed=0)
    report = audit_pairs(
        plan(perturbations={"dark": Fill(level=0.5), "patch": patch(3)}, headline="patch"),
        embed,
        faces,
        pairs,
        validation=validation,
        fill=0.5,
        far=0.05,
        num_genuine=20,
        num_impostor=20,
    )
    return report, pairs, validation


def test_each_image_of_a_pair_is_perturbed_in_turn(asked, faces):
    report, _, _ = asked
    assert report.form == "pairs"
    assert report.num_rows == 80
    assert report.num_units == 5
    assert "80 images, each of 40 pairs in turn, of 5 people" in report.summary()
    assert report.facts["num_pairs"] == 40
    # Without its patch an image has no embedding left.
    row = report.row("occlusion")
    assert row.tar.value < 0.1 < report.before["tar"].value
    assert row.flips.value > 0.4
    assert report.row("occlusion", perturbation="patch").far.value > report.before["far"].value


def test_pair_decisions_are_those_of_the_threshold(asked, faces):
    report, pairs, _ = asked
    (fold,) = report.facts["folds"]
    units = np.asarray(embed(faces.images / np.float32(255)))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    # A row's number is its pair's, those of the second images behind all first ones.
    row = report.flags["number"] % len(pairs.first)
    cosines = (units[pairs.first[row]] * units[pairs.second[row]]).sum(axis=1)
    right = (cosines >= fold["tau"]) == pairs.genuine[row]
    np.testing.assert_array_equal(report.flags["right"] == 1, right)
    accepted = right == pairs.genuine[row]
    assert report.before["tar"].value == pytest.approx(accepted[pairs.genuine[row]].mean())
    assert report.before["far"].value == pytest.approx(accepted[~pairs.genuine[row]].mean())


def test_models_of_several_folds_are_pooled(faces):
    folds = identity_folds(faces, 2, 2, 0)
    lists = {part: fold_pairs(faces, folds, part, seed=0) for part in ("test", "validation")}
    options = {"validation": lists["validation"], "far": 0.05, "num_genuine": 9, "num_impostor": 7}
    one = audit_pairs(plan(), embed, faces, lists["test"], **options)
    two = audit_pairs(plan(), [embed, embed], faces, lists["test"], fill=[0.5, 0.4], **options)
    assert one.num_rows == two.num_rows == 32
    np.testing.assert_array_equal(one.flags["right"], two.flags["right"])
    assert set(two.flags["fold"]) == {0, 1}
    alone = audit_pairs(
        plan(), embed, faces, lists["test"], **{**options, "num_genuine": 1, "num_impostor": 1}
    )
    assert alone.num_rows == 4
    with pytest.raises(ValueError, match=r"fill as one value, or one for each of the folds \[0, 1\], got 3"):
        audit_pairs(plan(), embed, faces, lists["test"], fill=[0.1, 0.2, 0.3], **options)


def test_the_fill_is_not_the_tested_peoples(faces, asked):
    _, pairs, validation = asked
    report = audit_pairs(plan(), embed, faces, pairs, validation=validation, num_genuine=3, num_impostor=3)
    tested = faces.images[np.unique(np.concatenate([pairs.first, pairs.second]))]
    others = faces.images[np.unique(np.concatenate([validation.first, validation.second]))]
    assert any("validation people" in warning for warning in report.warnings)
    dark = next(iter(report.cases))
    new = (dark.perturbed - dark.image)[dark.inside]
    assert np.abs(new).max() > 0
    mean = audit_pairs(
        plan(perturbations={"mean": Fill()}), embed, faces, pairs, validation=validation, num_genuine=3,
        num_impostor=3,
    ).cases[0]  # fmt: skip
    np.testing.assert_allclose(
        mean.perturbed[mean.inside], (others / 255).mean(axis=0)[mean.inside], atol=1e-5
    )
    assert np.abs(mean.perturbed - (tested / 255).mean(axis=0))[mean.inside].max() > 1e-3


def test_people_who_were_trained_on_are_refused(faces, asked):
    _, pairs, validation = asked
    with pytest.raises(ValueError, match="trained on"):
        audit_pairs(plan(), embed, faces, pairs, validation=validation, trained_on=[np.array([0])])


def test_a_fine_far_is_flagged(asked):
    report, _, _ = asked
    assert any("not resolved" in warning for warning in report.warnings)


# Bad input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": IMAGES * 255}, r"in \[0, 1\].*Divide"),
        ({"images": np.where(IMAGES > 0.69, np.nan, IMAGES)}, "without NaN"),
        ({"images": IMAGES[0]}, r"images \[m, h, w, c\]"),
        ({"images": (IMAGES * 100).astype(np.int32)}, "uint8 or floats"),
        ({"labels": LABELS[:3]}, r"labels as integers \[40\]"),
        ({"labels": LABELS + 5}, r"labels 0 \.\. 1"),
        ({"labels": LABELS.astype(float)}, "labels as integers"),
        ({"fill": 2.0}, r"fill in \[0, 1\]"),
        ({"fill": np.zeros((3, 3))}, "fill to be a level"),
        ({"groups": [1, 2]}, r"groups \[40\]"),
        ({"logits_fn": lambda images: eye(images) * jnp.nan}, "finite logits"),
        ({"logits_fn": lambda images: eye(images)[:, :1]}, "at least two classes"),
        ({"class_names": ["one"]}, "2 class_names"),
    ],
)
def test_bad_input_is_named(changes, message):
    given = {"logits_fn": eye, "images": IMAGES, "labels": LABELS, "fill": 0.5, **changes}
    with pytest.raises(ValueError, match=message):
        audit_classifier(plan(), **given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"maps": {}}, "at least one of maps"),
        ({"maps": {"o": Occlusion}}, r"maps\['o'\]"),
        ({"maps": {WORST_MAP: Occlusion()}}, "taken"),
        ({"regions": {"r": 0.1}}, r"regions\['r'\]"),
        ({"controls": ("roled",)}, "Did you mean 'rolled'"),
        ({"headline": "top"}, "Unknown headline"),
        ({"perturbations": {"p": 3}}, r"perturbations\['p'\]"),
        ({"perturbations": {"p": Blur}}, r"perturbations\['p'\]"),
        ({"num_draws": 1}, "num_draws"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_a_bad_audit_is_refused_at_once(changes, message):
    with pytest.raises(ValueError, match=message):
        plan(**changes)


def test_grad_cam_needs_the_model_cut():
    with pytest.raises(ValueError, match="needs the model cut at a layer"):
        audit_classifier(plan(maps={"cam": GradCAM()}), eye, IMAGES, LABELS, fill=0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: parse_map("oclusion"), "Did you mean 'occlusion'"),
        (lambda: parse_map("occlusion:side=3"), "Unknown parameter 'side=3'.*window, stride"),
        (lambda: parse_map("occlusion:window=2.5"), "window as a whole number"),
        (lambda: parse_map("rise@conv1"), "has no layer"),
        (lambda: parse_regions("top_fraction", (1.5,), 8, 8), r"fractions in \(0, 1\)"),
        (lambda: parse_regions("threshold", (), 8, 8), "needs level"),
        (lambda: parse_perturbation("blurr", ThreatModel(eps=0.1)), "may also be one of mean"),
        (lambda: parse_perturbation("none", ThreatModel(eps=0.1)), "perturbs nothing"),
        (lambda: parse_perturbation("pgd:target=least_likely", ThreatModel(eps=0.1)), "leads to a class"),
        (lambda: parse_perturbation("noise:sigma=x", ThreatModel(eps=0.1)), "sigma as a number"),
    ],
)
def test_names_that_are_not_understood(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_names_that_are():
    assert parse_map("smooth_grad:num=5,reduce_fn=largest_magnitude")[1].num == 5
    assert parse_regions("threshold:level=0.1", (), 8, 8) == {"threshold:level=0.1": Threshold(level=0.1)}
    assert parse_perturbation("noise", ThreatModel(eps=0.1))[1] == Noise()
    title, attack = parse_perturbation("region_pgd", ThreatModel(eps=0.1))
    assert title == "region_pgd:eps=0.1,steps=40" and attack.neighbourhood.eps == 0.1
    assert (
        parse_perturbation("region_pgd:eps=8/255", ThreatModel(eps=0.1))[0] == "region_pgd:eps=8/255,steps=40"
    )
    title, attack = parse_perturbation("pgd:steps=3 > rand_adv", ThreatModel(eps=0.1))
    assert title == "PGD-3 > RandAdv"
    assert all(isinstance(stage.neighbourhood, Masked) for stage in attack.stages)


def test_confining_is_idempotent_and_reaches_every_neighbourhood():
    plain = MIFGSM(neighbourhood=LInf(eps=0.1))
    once = confined(plain)
    assert confined(once) == once
    assert dataclasses.replace(once, neighbourhood=plain.neighbourhood) == plain
    assert confined(PGD(neighbourhood=Masked(neighbourhood=LInf(eps=0.1)))).neighbourhood.eps == 0.1


# The page ------------------------------------------------------------------------------------------------


def test_the_report_is_written_whole(tmp_path, found):
    paths = write_saliency_report(found, tmp_path, title="Eyes <b>", command="again")
    page = paths.html.read_text()
    assert "Eyes &lt;b&gt;" in page
    assert not re.findall(r"(?:src|href)=[\"'](?!data:)", page)
    assert page.count('class="case"') == len(found.cases)
    said = json.loads(paths.json.read_text())
    assert said["verdict"]["sensitivity"] == found.verdict.sensitivity
    assert found.verdict.sentence in paths.markdown.read_text()
    assert "```\nagain\n```" in paths.markdown.read_text()
    with np.load(paths.flags) as flags:
        np.testing.assert_array_equal(flags["right"], found.flags["right"])


def test_pictures_can_be_left_out(asked):
    report, _, _ = asked
    page = saliency_html(report, title="People", pictures=False)
    assert "image/png" not in page
    assert 'class="case"' not in page


def test_an_unknown_row_lists_the_known(found):
    with pytest.raises(ValueError, match="Known: occlusion / patch / dark"):
        found.row("rise")
