"""The privacy audit on victims whose answer is known: the image itself, a constant, noise."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxrobust import _cli_privacy, data, experiments
from jaxrobust._cli_audit_privacy import mitigations_of, privacy_plan
from jaxrobust.audits import (
    PUBLISHED,
    Division,
    PrivacyAudit,
    audit_classifier_privacy,
    audit_privacy,
    compare_privacy,
    privacy_comparison_notes,
    privacy_html,
    write_privacy_report,
)
from jaxrobust.audits._privacy_inputs import Fold, Side, sampled, side_of
from jaxrobust.audits._privacy_measure import Published, about_of
from jaxrobust.audits._privacy_mitigations import class_utility
from jaxrobust.audits._privacy_report import DECODER, OPTIMISATION, headline_of, unless_failed
from jaxrobust.cli import main
from jaxrobust.evaluation import Band, Estimate
from jaxrobust.inversion import Features, Principal, Quantised, Truncated, TVInversion, content_keys
from jaxrobust.models import FaceCNN
from jaxrobust.training import Runtime
from jaxrobust.training.checkpoint import CONFIG_FILE
from tests.evaluation.invented_faces import SHAPE, invented_faces

FACES = invented_faces(42, each=4)
PEOPLE = Division(np.arange(24), np.arange(24, 32), np.arange(32, 42))
DIMENSIONS = SHAPE[0] * SHAPE[1]


def image_itself(images):
    return images.reshape(images.shape[0], -1)


def constant(images):
    return 0 * image_itself(images) + 0.5


def noise(images):
    """Unlike for every image, and nothing to do with it."""
    draw = jax.vmap(lambda key: jax.random.normal(key, (DIMENSIONS,)))
    return draw(content_keys(jax.random.key(0), images))


def small(**changes):
    given = {
        "width": 8,
        "steps": 12,
        "batch_size": 16,
        "window": 7,
        "far": 0.05,
        "feature_weights": (0.0,),
        "optimisation": (TVInversion(steps=60, restarts=1, total_variation=1e-3),),
        "num_optimised": 20,
        "batch_rows": 40,
        "num_draws": 60,
    }
    return PrivacyAudit(**{**given, **changes})


def audited(features_fn, audit=None, **options):
    return audit_privacy(audit or small(), features_fn, FACES, PEOPLE, **options)


@pytest.fixture(scope="module")
def itself():
    return audited(image_itself, trained_on=[PEOPLE.attackers], name="itself")


def test_the_image_itself_is_inverted_by_optimisation_and_high(itself):
    report = itself.attacks[OPTIMISATION]
    assert report.likeness[0].ssim.value > 0.95, itself.summary()
    assert (itself.band, itself.headline) == (Band.HIGH, OPTIMISATION)
    assert itself.sentence.startswith("HIGH: from the embedding (white box), an image that is optimised")
    # Twelve steps train no decoder, which does not speak for the model.
    assert itself.attacks[DECODER].band is Band.UNDETERMINED
    assert any("The attack by decoder failed" in warning for warning in itself.warnings)


@pytest.mark.parametrize("features_fn", [constant, noise])
def test_features_without_the_image_are_undetermined_and_never_low(features_fn):
    report = audited(features_fn)
    assert report.band is Band.UNDETERMINED, report.summary()
    assert report.sentence.startswith("UNDETERMINED: nothing can be said")
    assert "Whom the model was trained on is not known." in report.warnings
    json.dumps(report.to_json(), allow_nan=False)


def test_a_decoder_that_lacks_the_features_is_no_ground_for_low():
    """Twelve steps beat the mean face on held-out people, and say nothing of what is the image itself."""
    report = audited(image_itself, small(num_optimised=0))
    assert report.attacks[DECODER].held_out.over_mean.low > 0
    # Ten victims are too few for LOW anyway.
    assert report.band is Band.UNDETERMINED and "10 victims are too few" in report.sentence
    low = dataclasses.replace(report.attacks[DECODER], band=Band.LOW, why_undetermined=())
    assert unless_failed(low).band is Band.UNDETERMINED
    assert "lack the features" in unless_failed(low).why_undetermined[0]
    assert any("One attack alone, the decoder" in warning for warning in report.warnings)


def test_who_attacks_and_is_attacked_is_refused_and_the_rest_is_stated(itself):
    for wrong in (
        PEOPLE._replace(attackers=np.arange(25, 33)[[0, -1]]),
        PEOPLE._replace(held_out=np.arange(30, 33)),
    ):
        with pytest.raises(ValueError, match="attackers and victims"):
            audit_privacy(small(), image_itself, FACES, wrong)
    with pytest.raises(ValueError, match="attackers and held out"):
        audit_privacy(small(), image_itself, FACES, PEOPLE._replace(held_out=np.arange(20, 28)))
    twins = FACES._replace(images=FACES.images.copy())
    twins.images[-1] = twins.images[0]
    with pytest.raises(ValueError, match="images of the victims are the attacker's too"):
        audit_privacy(small(), image_itself, twins, PEOPLE)
    assert itself.division[1].startswith("attackers: The model was trained on 24 of these 24 people")
    assert itself.division[2] == "victims: The model was trained on none of these 10 people."


def test_the_setting_is_chosen_on_held_out_attackers(itself):
    report = audited(
        image_itself,
        small(
            feature_weights=(0.0, 0.1),
            optimisation=(TVInversion(steps=20, restarts=1, total_variation=30.0), *small().optimisation),
        ),
    )
    rows = {row.setting: row for row in report.candidates}
    assert len(rows) == 4 and sum(row.chosen for row in rows.values()) == 2
    assert rows["total variation 0.001, 60 steps"].chosen
    blurred = rows["total variation 30, 20 steps"]
    assert blurred.ssim < rows["total variation 0.001, 60 steps"].ssim and not blurred.chosen
    # What attacks in the end is the setting that was chosen.
    first, again = (one.attacks[OPTIMISATION].likeness[0].ssim.value for one in (itself, report))
    assert first == pytest.approx(again)


SLOPES = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE[:2]), indexing="ij"))


def lit_faces():
    """Faint faces under light from everywhere."""
    faces, rng = invented_faces(80, each=4), np.random.default_rng(3)
    angle = rng.uniform(0, 2 * np.pi, len(faces.images))
    light = np.einsum("kn,khw->nhw", [np.cos(angle), np.sin(angle)], SLOPES)[..., None]
    images = 120 + 0.3 * (faces.images.astype(float) - 120) + 60 * light
    return faces._replace(images=np.clip(np.rint(images), 0, 255).astype(np.uint8))


def light_alone(images):
    """Where the light comes from, which is nobody's."""
    found = jnp.einsum("nhwc,khw->nk", images, jnp.asarray(SLOPES, jnp.float32))
    return found / (jnp.linalg.norm(found, axis=1, keepdims=True) + 1e-6)


def test_features_that_are_inverted_and_tell_nobody_are_low():
    audit = small(steps=250, feature_weights=(1.0,), num_optimised=0, batch_size=32, flip=False, far=0.02)
    many = PEOPLE._replace(victims=np.arange(32, 80))
    report = audit_privacy(audit, light_alone, lit_faces(), many, perceptual_fn=_squares)
    assert report.band is Band.LOW, report.summary()
    own = {row.name: row for row in report.attacks[DECODER].critics}
    assert own["the model itself"].type1.low > 0.5 and own["PCA + LDA"].leak.high < 0.1
    assert report.attacks[DECODER].likeness[0].perceptual.value < 0.1
    assert "perceptual distance" in privacy_html(report, title="Brightness")


def _squares(first, second):
    return jnp.square(first - second).mean(axis=(1, 2, 3))


class Killed(Exception):
    pass


def test_an_audit_that_was_killed_goes_on_to_the_same_result(tmp_path, itself):
    def killed(what, done, total):
        if done == total:
            raise Killed

    with pytest.raises(Killed):
        audited(image_itself, folder=tmp_path, progress_fn=killed)
    (first,) = tmp_path.glob("fold0-weight0-seed0-*")
    steps = [path.name for path in first.iterdir() if path.name.isdigit()]
    assert steps == ["10"]
    starts = []
    report = audited(
        image_itself, folder=tmp_path, progress_fn=lambda what, done, total: starts.append((what, done))
    )
    assert ("fold0-weight0-seed0", 10) in starts and ("fold0-weight0-seed0", 0) not in starts
    assert json.dumps(report.to_json()["attacks"]) == json.dumps(itself.to_json()["attacks"])
    np.testing.assert_array_equal(report.cases[0].reconstruction, itself.cases[0].reconstruction)


def test_decoders_are_taken_again_for_the_same_victim_images_and_settings_alone(tmp_path):
    quick = small(num_optimised=0, steps=1)
    victim, other = (jax.tree_util.Partial(_scaled, scale * jnp.ones(3)) for scale in (1, 2))

    def folders():
        return {path.name for path in tmp_path.iterdir()}

    audited(victim, quick, folder=tmp_path)
    first = folders()
    audited(victim, quick, folder=tmp_path)
    assert folders() == first
    audited(other, quick, folder=tmp_path)
    assert len(folders()) == 2 * len(first)
    fewer = PEOPLE._replace(attackers=PEOPLE.attackers[1:])
    audit_privacy(quick, victim, FACES, fewer, folder=tmp_path)
    assert len(folders()) == 3 * len(first)
    audited(victim, dataclasses.replace(quick, steps=2), folder=tmp_path)
    assert len(folders()) == 4 * len(first)


def test_what_a_protection_is_fitted_to_is_in_the_decoders_configuration():
    fold = Fold(0, image_itself, *(side_of(FACES, people) for people in PEOPLE))
    few, all_of_them = small(most_fitted=50), small()
    signs = (Quantised(bits=1),)
    assert about_of(few, fold, "v", signs) == about_of(all_of_them, fold, "v", signs)
    for extra in ((Principal(keep=3),), (*signs, Principal(keep=3))):
        assert about_of(few, fold, "v", extra) != about_of(all_of_them, fold, "v", extra)


def _scaled(scale, images):
    return image_itself(images)[:, :3] * scale


def test_mitigations_are_a_curve_of_leak_against_recognition(itself):
    mitigations = {"twenty": (Principal(keep=20),), "signs": (Quantised(bits=1),)}
    report = audited(_centred, small(mitigations=mitigations, num_optimised=0, far=0.2))
    assert [row.name for row in report.mitigations] == [PUBLISHED, "twenty", "signs"]
    whole, twenty, signs = report.mitigations
    assert (whole.size, twenty.size, signs.size) == (DIMENSIONS, 20, DIMENSIONS)
    assert report.utility == "TAR at FAR 20%"
    assert whole.utility.value >= signs.utility.value > 0.5
    assert whole.leak == report.attacks[DECODER].leak
    assert "| signs | 224 |" in report.summary()
    assert itself.mitigations == ()
    page = privacy_html(report, title="Mitigated")
    assert "Leak against TAR at FAR 20%" in page and page.count("image/svg+xml") == 2


def _centred(images):
    flat = image_itself(images)
    return flat - flat.mean(axis=1, keepdims=True)


def test_of_logits_that_tie_each_is_as_good_a_guess():
    pixels = np.zeros((2, 4, 4, 1), np.uint8)
    side = Side(pixels, np.array([1, 0]), np.arange(2))
    signs = np.array([[0.5, 0.5], [0.5, -0.5]], np.float32)
    name, accuracy_fn = class_utility(
        small(threat=Features(layer="logits")), Fold(0, image_itself, side, side, side), num_classes=2
    )
    seen = Published(image_itself, victims=signs, held_out=signs, key=jax.random.key(0))
    assert name == "accuracy" and accuracy_fn([seen]).value == 0.75


def test_several_models_and_seeds_count_together():
    other = Division(np.arange(18, 42), np.arange(8, 16), np.arange(8))
    report = audit_privacy(
        small(num_optimised=0, seeds=(0, 1)),
        [image_itself, _centred],
        FACES,
        [PEOPLE, other],
        trained_on=[PEOPLE.attackers, other.victims],
    )
    found = report.attacks[DECODER]
    assert (found.num_folds, found.num_people, found.num_images) == (2, 18, 72)
    assert (found.held_out.num_people, found.held_out.num_images) == (16, 64)
    assert report.facts["num_decoder_seeds"] == 2
    assert "Fold 1: victims: The model was trained on 8 of these 8 people" in report.division[6]
    assert len(report.facts["victims"]) == 2


@pytest.mark.parametrize(
    ("bands", "headline", "band"),
    [
        (("LOW", "HIGH"), OPTIMISATION, "HIGH"),
        (("MEDIUM", "UNDETERMINED"), DECODER, "MEDIUM"),
        (("LOW", "UNDETERMINED"), DECODER, "LOW"),
        (("UNDETERMINED", "LOW"), DECODER, "UNDETERMINED"),
        (("UNDETERMINED", "UNDETERMINED"), DECODER, "UNDETERMINED"),
    ],
)
def test_the_headline_is_the_worst_that_can_be_said(itself, bands, headline, band):
    made = {
        name: dataclasses.replace(itself.attacks[name], band=Band(one), leak=Estimate(0.1))
        for name, one in zip((DECODER, OPTIMISATION), bands, strict=True)
    }
    assert headline_of(made) == (headline, Band(band))


def test_samples_have_as_many_of_everybody():
    side = side_of(FACES, np.arange(10))
    at = sampled(side, 20, 0)
    assert np.unique(side.identity[at], return_counts=True)[1].tolist() == [2] * 10
    few = sampled(side, 6, 0)
    assert np.unique(side.identity[few], return_counts=True)[1].tolist() == [2] * 3
    assert len(sampled(side, 10_000, 0)) == 40


def digits_parts():
    digits = data.load("digits")
    parts = [(0, 600), (600, 700), (700, 820)]
    return [(digits.train.images[a:b], digits.train.labels[a:b]) for a, b in parts]


def test_a_classifier_is_audited_by_class():
    def features_fn(images):
        return image_itself(images)[:, :32]

    report = audit_classifier_privacy(
        small(steps=60, width=16, flip=False, mitigations={"eight": (Truncated(keep=8),)}),
        features_fn,
        *digits_parts(),
        num_classes=10,
        division=("The model was trained on none of them.",),
        dataset="digits",
    )
    assert report.form == "classes" and report.attacks[DECODER].num_people == 10
    assert report.utility == "accuracy by nearest class mean"
    whole, eight = report.mitigations
    assert whole.utility.value > eight.utility.value > 0.2
    assert "Attackers: 600 images; held out: 100; victims: 120" in report.division[0]
    assert "by resampling images" in report.summary()


def test_bad_input_is_answered(tmp_path):
    parts = digits_parts()
    with pytest.raises(ValueError, match="images of the victims are the attacker's too"):
        audit_classifier_privacy(small(), image_itself, parts[0], parts[1], parts[0], num_classes=10)
    with pytest.raises(ValueError, match=r"Expected classes 0 .. 4 of the attackers, got 0 .. 9"):
        audit_classifier_privacy(small(), image_itself, *parts, num_classes=5)
    with pytest.raises(ValueError, match=r"images of the attackers as uint8, or floats in \[0, 1\]"):
        audit_classifier_privacy(
            small(), image_itself, (parts[0][0] * 1.0, parts[0][1]), *parts[1:], num_classes=10
        )
    with pytest.raises(ValueError, match="Expected a class as integer for each of the 600 images"):
        audit_classifier_privacy(
            small(), image_itself, (parts[0][0], parts[0][1][:5]), *parts[1:], num_classes=10
        )
    last_but_one = np.where(np.arange(168) > 164, 40, FACES.identity).astype(np.int32)
    lonely = FACES._replace(identity=last_but_one)
    with pytest.raises(ValueError, match="victims have one image, 'p41' among them: type-II"):
        audit_privacy(small(), image_itself, lonely, PEOPLE)
    with pytest.raises(ValueError, match=r"vector \[d\] or a map \[h, w, c\], got \[16, 14\]"):
        audited(lambda images: images[..., 0])
    with pytest.raises(ValueError, match="Expected finite features"):
        audited(lambda images: image_itself(images) / 0)
    with pytest.raises(ValueError, match="needs perceptual_fn"):
        audited(image_itself, small(perceptual_weight=1.0))
    with pytest.raises(ValueError, match=r"'PCA \+ LDA' is taken"):
        audited(image_itself, critics={"PCA + LDA": image_itself})
    with pytest.raises(ValueError, match="one callable, or one for each of 1 divisions"):
        audited([image_itself, image_itself])
    with pytest.raises(ValueError, match="people of 1 models in trained_on, got 2"):
        audited(image_itself, trained_on=[[0], [1]])


def test_what_does_not_fit_is_refused_before_anything_is_trained():
    told = []

    def tell(*one):
        told.append(one)

    for changes, message in (
        ({"mitigations": {"many": (Truncated(keep=225),)}}, "keep <= 224"),
        ({"mitigations": {"fitted": (Principal(keep=96),)}}, "more than keep=96 images"),
        ({"window": 15}, "at least window=15 pixels, got 16x14"),
    ):
        with pytest.raises(ValueError, match=message):
            audited(image_itself, small(**changes, num_optimised=0), progress_fn=tell)
    attackers, held_out, (images, _) = digits_parts()
    for labels, message in (
        ([0, 0, 1], "1 of 2 victims have one image"),
        ([3, 3, 3], "victims of at least two people"),
        ([0, 0, 10], "classes 0 .. 9 of the victims, got 0 .. 10"),
    ):
        with pytest.raises(ValueError, match=message):
            audit_classifier_privacy(
                small(num_optimised=0),
                image_itself,
                attackers,
                held_out,
                (images[:3], np.asarray(labels)),
                num_classes=10,
                progress_fn=tell,
            )
    assert told == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threat": "embedding"}, "Expected threat to be Features"),
        ({"feature_weights": ()}, "Expected feature_weights"),
        ({"feature_weights": (0.1, 0.1)}, "Expected different feature_weights"),
        ({"feature_weights": (0.1,), "white_box": False}, "need the model's gradients"),
        ({"optimisation": ("tv",)}, "Expected methods such as TVInversion"),
        ({"mitigations": {"none": ()}}, "protects nothing"),
        ({"mitigations": {"x": ("noise",)}}, "Expected a tuple of protections"),
        ({"far": 0.0}, "Expected far > 0"),
        ({"seeds": ()}, "Expected different seeds"),
        ({"steps": 0}, "Expected steps >= 1"),
        ({"num_draws": 1}, "Expected num_draws >= 2"),
    ],
)
def test_a_bad_audit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_without_the_model_there_are_no_gradients():
    audit = small(white_box=False, feature_weights=(0.0, 0.1), threat=Features(layer="logits"))
    assert audit.weights == (0.0,) and audit.methods == ()


def test_the_report_is_one_page_and_needs_no_network(itself, tmp_path):
    paths = write_privacy_report(
        itself, tmp_path / "report", title="What <itself> gives away", command="jaxrobust audit privacy x"
    )
    page = paths.html.read_text(encoding="utf-8")
    assert "What &lt;itself&gt; gives away" in page and 'class="verdict HIGH"' in page
    assert not re.findall(r"(?:src|href|srcset)=\"(?!data:)", page) and "<script" not in page
    # Three strips of five pictures for each of the two attacks.
    assert page.count("data:image/png") == 30
    said = json.loads(paths.json.read_text(encoding="utf-8"))
    assert said["band"] == "HIGH" and said["attacks"][OPTIMISATION]["leak"]["value"] > 0.5
    assert said["meta"]["audit"]["steps"] == 12 and "cases" not in said
    assert paths.markdown.read_text(encoding="utf-8").startswith("# What <itself> gives away")


def test_people_are_left_out_of_the_page_where_they_must_not_be_shown(itself, tmp_path):
    page = privacy_html(itself, title="Unseen", pictures=False)
    assert "data:image/png" not in page and "<h2>Pictures</h2>" not in page


# The command ---------------------------------------------------------------------------------------------

QUICK = ("--steps=4", "--width=8", "--optimise=4", "--optimise-steps=4", "--num-draws=20")


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    experiment = dataclasses.replace(experiments.get("digits_standard"), num_steps=30, validate_every=30)
    folder = tmp_path_factory.mktemp("runs") / "standard"
    return experiments.train(experiment, folder, runtime=Runtime(num_devices=1), progress=False).folder


@pytest.fixture
def command(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return run


def test_the_command_audits_a_classifier(digits_run, command):
    options = ("--features=logits", "--mitigations=top_k:keep=2", "--num-victims=100")
    code, out, err = command("audit", "privacy", digits_run, *QUICK, *options)
    assert code == 0, err
    # Ten logits of a net that was hardly trained, and four steps: nothing can be said.
    assert "UNDETERMINED: nothing can be said of the logits (white box)" in out
    assert "| top_k:keep=2 | 10 |" in out and "accuracy |" in out
    said = json.loads((digits_run / "privacy" / "privacy.json").read_text())
    assert said["command"].startswith("jaxrobust audit privacy") and said["dataset"] == "digits"
    assert said["mitigations"][0]["utility"] == said["mitigations"][1]["utility"]
    assert said["meta"]["audit"]["window"] == 7 and not said["meta"]["audit"]["flip"]
    assert any("saw 50 of" in sentence for sentence in said["division"])
    names = {path.name.rsplit("-", 1)[0] for path in (digits_run / "privacy" / "decoders").iterdir()}
    assert names == {f"fold0-{name}-seed0" for name in ("weight0", "weight0.1")} | {
        path for path in names if "top-k-keep-2" in path
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--features=conv9"], "Unknown layer 'conv9'. Known: conv1, conv2, conv3, conv4, embedding, logits"),
        (["--mitigations=blurred:keep=3"], "Unknown protection 'blurred'. Known: noisy, principal"),
        (["--mitigations=top_k:keep=1"], "Expected keep >= 2, got keep=1"),
        (["--protections=noisy"], "'noisy' needs ratio"),
        (["--protections=truncated:keep=100"], "Expected keep <= 64"),
        (["--perceptual={run}"], "needs an independent network"),
        (["{run}"], "Audit one classifier at a time"),
        (["--seeds=0,0"], "Expected different seeds"),
        (["--steps=0"], "Expected steps >= 1"),
        (["--mitigations=truncated:keep=100"], "Expected keep <= 64"),
    ],
)
def test_the_command_answers_mistakes(digits_run, command, tmp_path, options, message):
    given = [option.format(run=digits_run) for option in options]
    code, _, err = command("audit", "privacy", digits_run, *QUICK, *given, "--report", tmp_path / "out")
    assert code == 1 and message in err
    assert not (tmp_path / "out").exists()


def test_what_a_run_started_from_is_said(digits_run, itself, tmp_path, monkeypatch):
    monkeypatch.setattr("jaxrobust.audits.audit_classifier_privacy", lambda *given, **options: itself)
    folder = tmp_path / "tuned"
    shutil.copytree(digits_run, folder)
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**config, "init_from": {"name": "released.npz"}}))
    own, tuned = (
        _cli_privacy.audit_runs([experiments.load_run(run)], small()).warnings for run in (digits_run, folder)
    )
    assert own == itself.warnings and tuned[1:] == own
    assert tuned[0].startswith("tuned was started from released.npz, and whom or what that was trained on")


def test_the_usual_mitigations_fit_a_map(digits_run):
    run = experiments.load_run(digits_run)
    found = mitigations_of("default", "conv4", run)
    assert list(found) == ["quantised:bits=4", "quantised:bits=1", "noisy:ratio=0.5", "noisy:ratio=1"]
    plan = privacy_plan(
        run, features="conv4", mitigations=found, steps=None, optimise=0, far=0.01, batch_size=64, seeds=(0,),
        num_draws=20,
    )  # fmt: skip
    assert plan.mitigations == found and plan.steps == 400
    assert "truncated:keep=32" in mitigations_of("default", "embedding", run)


def test_the_command_audits_faces_whom_nobody_saw(tmp_path, command):
    experiment = dataclasses.replace(
        experiments.get("face_orl_clean"),
        data=experiments.FaceData(dataset="orl", size=(16, 16)),
        model=FaceCNN(num_classes=24, widths=(8, 8, 8, 8), embedding_size=16),
        num_steps=4,
        batch_size=8,
    )
    folder = tmp_path / "clean"
    experiments.train(experiment, folder, runtime=Runtime(num_devices=1), progress=False)
    options = ("--mitigations=truncated:keep=8", "--no-pictures", "--attacker-split=held-out", "--far=0.05")
    code, out, err = command("audit", "privacy", folder, *QUICK, *options, "--report", tmp_path / "out")
    assert code == 0, err
    assert "5 people attack, 6 of the attacker's are held out, 5 are victims" in out
    assert "attackers: The model was trained on none of these 5 people." in out
    page = (tmp_path / "out" / "privacy.html").read_text()
    assert "data:image/png" not in page and "1 - EER" not in page and "TAR at FAR 5%" in page

    rng = np.random.default_rng(0)
    for person in range(12):
        (tmp_path / "strangers" / f"p{person}").mkdir(parents=True)
        for image in range(1 + (person > 3)):
            pixels = rng.integers(0, 256, (20, 18), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "strangers" / f"p{person}" / f"{image}.png")
    brought = ("--attackers", f"folder:{tmp_path / 'strangers'}", "--no-pictures", "--far=0.05")
    code, out, err = command("audit", "privacy", folder, *QUICK, *brought, "--report", tmp_path / "brought")
    assert code == 0, err
    assert "10 people attack, 2 of the attacker's are held out, 10 are victims" in out
    code, _, err = command("audit", "privacy", folder, *QUICK, "--attackers=orl")
    assert code and "is what clean was made from, victims and all" in err
    code, _, err = command("audit", "privacy", folder, *brought, "--attacker-split=train")
    assert code and "--attackers brings another; leave one" in err


def test_a_set_that_is_brought_is_divided_or_refused():
    def brought(*counts):
        whose = np.repeat(np.arange(len(counts)), counts)
        images = np.zeros((len(whose), 2, 2, 1), np.uint8)
        return data.Identities(images, whose, tuple(map(str, range(len(counts)))), "", "brought")

    # A fifth of twenty is all who have two images: one of them is left to attack.
    own, held_out = _cli_privacy._divided(brought(*[2] * 4, *[1] * 16), 0, first=100)
    assert len(held_out) == 3 and len(own) == 17 and min(held_out) >= 100
    assert not set(own) & set(held_out) and all(one < 104 for one in held_out)
    for counts in ((2, 2, 1, 1), (2, 2, 2)):
        with pytest.raises(ValueError, match="expected four, three of them with two"):
            _cli_privacy._divided(brought(*counts), 0, first=0)


def test_the_attacker_of_a_classifier_brings_images(digits_run, tmp_path):
    run = experiments.load_run(digits_run)
    found = data.load("digits")
    darker = {part: np.asarray(getattr(found, part).images) // 2 for part in ("train", "test")}
    np.savez(
        tmp_path / "own.npz",
        **{f"{part}_images": images[:200] for part, images in darker.items()},
        **{f"{part}_labels": getattr(found, part).labels[:200] for part in darker},
    )
    report = _cli_privacy.audit_runs([run], small(), attackers=f"npz:{tmp_path / 'own.npz'}")
    assert any("which the attacker brought" in line for line in report.division)
    with pytest.raises(ValueError, match=r"is what .* was made from"):
        _cli_privacy.audit_runs([run], small(), attackers="digits")


def test_two_models_are_compared_on_the_same_people(itself, tmp_path, command):
    quick = small(steps=2, optimisation=(TVInversion(steps=2, restarts=1, total_variation=1e-3),))
    weak = audited(image_itself, quick, name="weak")
    for name, report in (("weak", weak), ("itself", itself)):
        write_privacy_report(report, tmp_path / name, title=name)
    rows = {(row.attack, row.measure): row for row in compare_privacy(tmp_path / "weak", tmp_path / "itself")}
    assert rows[OPTIMISATION, "leak"].first == weak.attacks[OPTIMISATION].leak.value
    like = rows[OPTIMISATION, "SSIM"]
    assert like.second == itself.attacks[OPTIMISATION].likeness[0].ssim.value
    # Two steps make a person, and sixty the image.
    assert like.difference.low > 0.1
    assert like.difference.value == pytest.approx(like.second - like.first)
    code, out, _ = command("audit", "privacy-compare", tmp_path / "weak", tmp_path / "itself")
    assert code == 0 and "| optimisation | leak |" in out
    assert f"By optimisation the first is {weak.attacks[OPTIMISATION].band}, the second HIGH." in out
    assert "attacked otherwise, so that not the models alone differ: steps is 2 for the first, 12 for" in out
    assert not any(
        "otherwise" in note for note in privacy_comparison_notes(tmp_path / "itself", tmp_path / "itself")
    )
    same = compare_privacy(tmp_path / "itself", tmp_path / "itself")
    assert all(row.difference == Estimate(0.0, 0.0, 0.0) for row in same)
    said = json.loads((tmp_path / "weak" / "privacy.json").read_text())
    for change, message in (
        ({"facts": {"images": ["other"]}}, "different images"),
        ({"meta": {"audit": {**said["meta"]["audit"], "far": 0.5}}}, "measured with far=0.5"),
        ({"meta": {}}, "no folder of a privacy audit"),
    ):
        (tmp_path / "weak" / "privacy.json").write_text(json.dumps({**said, **change}))
        with pytest.raises(ValueError, match=message):
            compare_privacy(tmp_path / "weak", tmp_path / "itself")
