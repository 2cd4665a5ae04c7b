"""Reconstructions of all kinds on invented people: numbers by hand, bands, controls, and what is refused."""

import functools
import json

import numpy as np
import pytest

from jaxrobust.data import make_pairs
from jaxrobust.evaluation import (
    AttackedFold,
    Band,
    Critic,
    Reconstructed,
    calibrated_critic,
    check_attackers,
    check_images_apart,
    measure_reconstructions,
    overlap,
    verify,
)
from jaxrobust.evaluation._reconstruction_rows import pair_rows, partners
from jaxrobust.models import pca_lda
from jaxrobust.numerics.fidelity import psnr, ssim
from tests.evaluation.invented_faces import invented_faces, pixels

ATTACKERS, HELD_OUT, VICTIMS = range(12), range(12, 17), range(17, 24)
FACES = invented_faces()
WINDOW = 7


@functools.cache
def critics():
    """PCA + LDA of the attackers' people, and plain pixels as the victim's own."""
    own = pixels(FACES, ATTACKERS)
    mean = own[0].mean(0)

    def centred(images):
        return np.asarray(images - mean).reshape(len(images), -1)

    validation = make_pairs(FACES, HELD_OUT, seed=0)
    return {
        "victim": calibrated_critic(centred, FACES, validation, far=0.05),
        "PCA + LDA": calibrated_critic(pca_lda.fit(*own, variance=0.98).embed, FACES, validation, far=0.05),
    }


def fold(invert, victims=VICTIMS, features=None):
    """The fold of an attack `invert(images, rng) -> reconstructions`."""
    rng = np.random.default_rng(3)
    mean = pixels(FACES, ATTACKERS)[0].mean(0)
    parts = [pixels(FACES, people) for people in (victims, HELD_OUT)]
    made = [np.clip(invert(images, rng), 0, 1).astype(np.float32) for images, _ in parts]
    images = parts[0][0]
    features = images.reshape(len(images), -1) if features is None else features
    found = [Reconstructed(part[0], one, part[1]) for part, one in zip(parts, made)]
    return AttackedFold(found[0], found[1], mean, features, critics())


def measure(*folds, **options):
    defaults = {"judge": "PCA + LDA", "window": WINDOW, "num_draws": 100, "batch_size": 16}
    return measure_reconstructions(folds, **{**defaults, **options})


def nearly(images, rng):
    return images + 0.02 * rng.normal(size=images.shape)


def mean_of_all(images, rng):
    return np.broadcast_to(images.mean(0), images.shape)


def nobody(images, rng):
    """A face that the critic takes for none of the victims."""
    strangers = pixels(FACES, ATTACKERS)[0]
    victims = pixels(FACES, VICTIMS)[0]
    embed_fn = critics()["PCA + LDA"].embed_fn
    likest = (embed_fn(strangers) @ embed_fn(victims).T).max(axis=1)
    return np.broadcast_to(strangers[likest.argmin()], images.shape)


@functools.cache
def good():
    return measure(fold(nearly))


def row_of(report, name="PCA + LDA"):
    return next(row for row in report.critics if row.name == name)


def test_a_copy_is_high():
    report = good()
    assert report.band is Band.HIGH and report.why_undetermined == () and report.warnings == ()
    row = row_of(report)
    assert row.type1.value == 1.0 and row.type2.value > 0.9 * row.genuine.value
    assert row.rank1.rate > 0.9 and row.rank1.num_probes == 21 and row.mean_face.value < 0.3
    assert report.leak.low > 0.5 and report.calibrated_ssim.value > 1
    assert (report.num_people, report.num_images, report.num_genuine, report.num_wrong) == (7, 28, 84, 672)


def test_numbers_by_hand():
    """One critic, counted pair by pair."""
    attacked, report = fold(nearly), good()
    images, made, whose, _ = attacked.victims
    critic = attacked.critics["PCA + LDA"]
    real, ours = (np.asarray(critic.embed_fn(x), np.float64) for x in (images, made))
    accepts = ours @ real.T >= critic.threshold
    same = whose[:, None] == whose[None]
    others = same & ~np.eye(28, dtype=bool)
    row = row_of(report)
    assert row.type1.value == pytest.approx(np.diag(accepts).mean())
    assert row.type2.value == pytest.approx(accepts[others].mean())
    assert row.wrong.value == pytest.approx(accepts[~same].mean())
    assert row.genuine.value == pytest.approx((real @ real.T >= critic.threshold)[others].mean())
    assert row.far.value == pytest.approx((real @ real.T >= critic.threshold)[~same].mean())
    leak = (row.type2.value - row.wrong.value) / (row.genuine.value - row.wrong.value)
    assert report.leak.value == pytest.approx(np.clip(leak, 0, 1))
    by_name = {one.name: one for one in report.likeness}
    (strip,) = report.strips
    mean = np.broadcast_to(attacked.mean_face, images.shape)
    expected = {
        "reconstruction": made,
        "mean face": mean,
        "wrong identity": made[strip.wrong],
        "other photo": images[strip.other],
    }
    for name, other in expected.items():
        assert by_name[name].ssim.value == pytest.approx(
            float(ssim(images, other, window=7).mean()), abs=1e-5
        )
        assert by_name[name].psnr.value == pytest.approx(float(psnr(images, other).mean()), rel=1e-5)
    assert (whose[strip.other] == whose).all() and (strip.other != np.arange(28)).all()
    assert (whose[strip.wrong] != whose).all()
    own, low, high = (by_name[n].ssim.value for n in ("reconstruction", "mean face", "other photo"))
    assert report.calibrated_ssim.value == pytest.approx((own - low) / (high - low), rel=1e-5)


def test_rank_1_asks_reconstructions_among_real_photos():
    """The gallery is each person's first photo, so that the reconstruction of that one is not asked about."""
    attacked = fold(nearly)
    made = attacked.victims.reconstructions.copy()
    made[::4] = 0.5
    report = measure(attacked._replace(victims=attacked.victims._replace(reconstructions=made)))
    assert row_of(report).rank1 == row_of(good()).rank1
    made[1::4] = made[0]
    report = measure(attacked._replace(victims=attacked.victims._replace(reconstructions=made)))
    assert row_of(report).rank1.hits < row_of(good()).rank1.hits
    assert row_of(report).rank1_real == row_of(good()).rank1_real


def test_pairs_are_all_there_are_and_partners_are_drawn_from_all():
    identity = np.array([2, 0, 2, 1, 0, 2, 1])
    same = (identity[:, None] == identity[None]) & ~np.eye(7, dtype=bool)
    found = pair_rows(identity, None, np.random.default_rng(0))
    for (first, second), mask in zip(found, (same, identity[:, None] != identity[None])):
        assert sorted(zip(first.tolist(), second.tolist())) == [
            tuple(at) for at in np.argwhere(mask).tolist()
        ]
    some = pair_rows(identity, 5, np.random.default_rng(0))
    for (first, second), mask in zip(some, (same, identity[:, None] != identity[None])):
        assert len(set(zip(first.tolist(), second.tolist()))) == 5 and mask[first, second].all()
    draws = [partners(identity, np.random.default_rng(seed)) for seed in range(200)]
    for i in range(7):
        assert {int(one.other[i]) for one in draws} == set(np.flatnonzero(same[i]).tolist())
        assert {int(one.wrong[i]) for one in draws} == set(np.flatnonzero(identity != identity[i]).tolist())


def test_the_critic_agrees_with_verify():
    """The achieved rates on the victims' real photos are those of face verification."""
    critic = critics()["PCA + LDA"]
    report = verify(
        critic.embed_fn,
        FACES,
        make_pairs(FACES, VICTIMS, seed=0),
        validation=make_pairs(FACES, HELD_OUT, seed=0),
        far=0.05,
        num_draws=5,
    )
    row = row_of(good())
    assert report.decisions.tar.value == pytest.approx(row.genuine.value)
    assert report.decisions.far.value == pytest.approx(row.far.value)
    assert report.folds[0].platt.tau == critic.threshold and report.folds[0].validation_far == critic.far


def test_the_interval_resamples_people():
    """One person of seven is reconstructed: the leak hangs on who is drawn."""

    def one_only(images, rng):
        made = np.array(np.broadcast_to(images.mean(0), images.shape))
        made[:4] = images[:4]
        return made

    attacked = fold(one_only)
    helped = fold(nearly)
    report = measure(attacked._replace(held_out=helped.held_out))
    assert report.leak.low == 0 and report.leak.high > 0.25 and report.band is Band.MEDIUM


def test_the_mean_face_and_a_constant_decoder_are_undetermined():
    constant = measure(fold(lambda images, rng: np.broadcast_to(images[:1], images.shape)))
    assert constant.band is Band.UNDETERMINED
    report = measure(fold(mean_of_all))
    assert report.band is Band.UNDETERMINED
    assert any("does not beat" in reason for reason in report.why_undetermined)
    assert report.leak.value == pytest.approx(0, abs=0.05)


def test_one_face_that_is_liker_than_the_mean_is_undetermined():
    """A decoder of noise learns the best single face, which beats the mean face's SSIM and leaks nothing."""
    attacked = fold(mean_of_all)
    worse = 0.3 + 0 * attacked.mean_face
    report = measure(attacked._replace(mean_face=worse))
    assert report.held_out.over_mean.low > 0 and report.band is Band.UNDETERMINED
    assert any("somebody else" in reason for reason in report.why_undetermined)


def test_constant_features_are_undetermined_even_where_all_else_is_well():
    report = measure(fold(nearly, features=np.full((28, 5), 0.3)))
    assert report.band is Band.UNDETERMINED and "constant" in report.why_undetermined[0]


def test_an_attack_that_works_on_its_own_people_and_not_on_victims_is_low_where_they_are_enough():
    failed, worked = fold(nobody), fold(nearly)
    seven = failed._replace(held_out=worked.held_out)
    report = measure(seven)
    assert report.band is Band.UNDETERMINED and report.leak.high < 0.1
    assert report.why_undetermined[0].startswith("7 victims are too few for LOW")
    whose = seven.victims.identity
    others = [seven._replace(victims=seven.victims._replace(identity=whose + 100 * k)) for k in range(5)]
    report = measure(*others)
    assert report.num_people == 35 and report.band is Band.LOW and report.leak.high < 0.1


def test_a_critic_who_knows_nobody_is_no_judge():
    attacked = fold(nearly)
    strict = Critic(critics()["PCA + LDA"].embed_fn, 0.99999, 0.0, 0.0)
    report = measure(attacked._replace(critics={"PCA + LDA": strict}))
    assert report.band is Band.UNDETERMINED and "does not know people" in report.why_undetermined[0]


def test_folds_pool_decisions():
    first, second = fold(nearly, VICTIMS[:3]), fold(mean_of_all, VICTIMS[3:])
    both = measure(first, second._replace(held_out=first.held_out))
    alone = [measure(one._replace(held_out=first.held_out)) for one in (first, second)]
    weights = [one.num_genuine for one in alone]
    expected = np.average([row_of(one).type2.value for one in alone], weights=weights)
    assert row_of(both).type2.value == pytest.approx(expected)
    assert row_of(both).rank1.hits == sum(row_of(one).rank1.hits for one in alone)
    assert both.num_people == 7 and both.num_folds == 2 and len(both.strips) == 2


def test_classifiers_are_measured_by_class_with_images_as_the_sample():
    attacked = fold(nearly)
    images, made, whose, _ = attacked.victims
    by_class = attacked._replace(victims=Reconstructed(images, made, whose % 2, np.arange(28)))
    report = measure(by_class)
    assert report.num_people == 2 and report.num_genuine == 16 * 15 + 12 * 11
    assert report.leak.low is not None


def test_fewer_pairs_are_a_sample():
    report = measure(fold(nearly), num_pairs=50)
    assert (report.num_genuine, report.num_wrong) == (50, 50)
    assert report.leak.value == pytest.approx(good().leak.value, abs=0.2)


def test_a_perceptual_distance_is_a_column():
    report = measure(fold(nearly), perceptual_fn=lambda x, y: abs(x - y).mean((1, 2, 3)))
    images, made, _, _ = fold(nearly).victims
    assert report.likeness[0].perceptual.value == pytest.approx(np.abs(images - made).mean(), rel=1e-4)
    assert good().likeness[0].perceptual is None


def test_equal_pictures_have_a_psnr_that_can_be_averaged():
    report = measure(fold(lambda images, rng: images))
    assert report.likeness[0].psnr.value == 100.0 and report.likeness[0].ssim.value == pytest.approx(1)


def test_json_summary_and_strips():
    report = good()
    found = json.loads(json.dumps(report.to_json()))
    assert found["band"] == "HIGH" and found["leak"]["value"] == report.leak.value
    assert "strips" not in found and found["critics"][0]["name"] == "victim"
    assert report.summary().startswith("Privacy risk HIGH: leak ") and "Calibrated SSIM" in report.summary()
    picks, values = report.strips[0].picks(), report.strips[0].ssim
    assert values[picks["best"]] == values.max() and values[picks["worst"]] == values.min()
    assert (values < values[picks["median"]]).sum() in (13, 14)
    again = measure(fold(nearly))
    np.testing.assert_array_equal(again.draws["leak/PCA + LDA"], report.draws["leak/PCA + LDA"])


def test_attackers_and_victims_are_others():
    check_attackers(FACES, range(17), VICTIMS)
    with pytest.raises(ValueError, match="2 people are attackers and victims, 'p17' among them"):
        check_attackers(FACES, range(19), VICTIMS)
    copied = FACES.images.copy()
    copied[4 * 20] = copied[0]
    with pytest.raises(
        ValueError, match=r"1 images of the victims are the attacker's too, .* image 12 first"
    ):
        check_attackers(FACES._replace(images=copied), range(17), VICTIMS)
    few = FACES._replace(identity=np.where(np.arange(96) == 71, 18, FACES.identity).astype(np.int32))
    few = few._replace(identity=np.where((few.identity == 17) & (np.arange(96) > 68), 18, few.identity))
    with pytest.raises(ValueError, match="1 of 7 victims have one image, 'p17' among them"):
        check_attackers(few, range(17), VICTIMS)
    with pytest.raises(ValueError, match=r"people 0 .. 23 of invented, got 24"):
        check_attackers(FACES, range(17), [24])
    with pytest.raises(ValueError, match="got none"):
        check_attackers(FACES, [], VICTIMS)
    check_images_apart(FACES.images[:5], FACES.images[5:9])
    assert overlap(FACES, range(5), [3, 4, 20]).endswith("2 of these 5 people (p3, p4).")


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({}, {"judge": "nobody"}, "Unknown critic 'nobody'. Known: PCA \\+ LDA, victim"),
        ({}, {"window": 15}, "at least window=15 pixels, got 16x14"),
        ({}, {"num_pairs": 0}, "num_pairs >= 1"),
        ({"features": np.zeros((3, 2))}, {}, "28 images of victims in fold 0, got 3 rows"),
        ({"mean_face": np.zeros((8, 8, 1))}, {}, "as the mean face has it"),
    ],
)
def test_bad_input(change, options, said):
    with pytest.raises(ValueError, match=said):
        measure(fold(nearly)._replace(**change), **options)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v._replace(images=255 * v.images), "floats in \\[0, 1\\]"),
        (lambda v: v._replace(identity=v.identity[:4]), "one identity per image"),
        (lambda v: v._replace(identity=0 * v.identity), "are one person"),
        (lambda v: v._replace(identity=np.arange(28)), "28 of 28 victims have one image"),
    ],
)
def test_bad_victims(change, said):
    attacked = fold(nearly)
    with pytest.raises(ValueError, match=said):
        measure(attacked._replace(victims=change(attacked.victims)))


def test_no_folds_and_folds_of_other_critics():
    with pytest.raises(ValueError, match="at least one fold"):
        measure()
    attacked = fold(nearly)
    with pytest.raises(ValueError, match="Fold 1 has the critics victim, fold 0 PCA"):
        measure(attacked, attacked._replace(critics={"victim": critics()["victim"]}))
