"""Sets in an .npz file: what is accepted, and each thing that is not, with its message."""

import numpy as np
import pytest

from jaxrobust.data import export_npz, load


def arrays(n=12, k=3, shape=(4, 5, 3)):
    rng = np.random.default_rng(0)
    labels = np.arange(n) % k
    return {
        "train_images": rng.integers(0, 256, (n, *shape)).astype(np.uint8),
        "train_labels": labels,
        "test_images": rng.integers(0, 256, (n, *shape)).astype(np.uint8),
        "test_labels": labels[::-1],
    }


def write(tmp_path, **changes):
    path = tmp_path / "set.npz"
    content = {key: value for key, value in (arrays() | changes).items() if value is not None}
    np.savez(path, **content)
    return path


def test_reads_what_was_written(tmp_path):
    given = arrays()
    found = load(f"npz:{write(tmp_path)}")
    np.testing.assert_array_equal(found.train.images, given["train_images"])
    np.testing.assert_array_equal(found.test.labels, given["test_labels"])
    assert found.train.labels.dtype == np.int32
    assert found.class_names == ("0", "1", "2")


def test_medmnist_shapes(tmp_path):
    """Grey images without a channel axis, labels [n, 1], validation arrays joined to the training set."""
    given = arrays(shape=(4, 5))
    given |= {key: given[key].astype(np.uint8)[:, None] for key in ("train_labels", "test_labels")}
    given |= {"val_images": given["train_images"][:2] // 2, "val_labels": given["train_labels"][:2]}
    found = load(f"npz:{write(tmp_path, **given)}")
    assert found.train.images.shape == (14, 4, 5, 1)
    np.testing.assert_array_equal(found.train.images[12:, ..., 0], given["val_images"])
    np.testing.assert_array_equal(found.train.labels[12:], [0, 1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_in_the_unit_interval_are_rounded_to_8_bits(tmp_path, dtype):
    images = arrays()["train_images"]
    found = load(f"npz:{write(tmp_path, train_images=(images / 255).astype(dtype))}")
    assert found.train.images.dtype == np.uint8
    np.testing.assert_array_equal(found.train.images, images)


def test_size_and_channels(tmp_path):
    found = load(f"npz:{write(tmp_path)}", size=(8, 6), channels=1)
    assert found.image_shape == (8, 6, 1)


def test_a_constant_image_stays_constant_when_resized(tmp_path):
    path = write(tmp_path, train_images=np.full((12, 4, 5, 3), 7, np.uint8))
    assert (load(f"npz:{path}", size=16).train.images == 7).all()


def nan_images():
    images = np.zeros((12, 4, 5, 3), np.float32)
    images[3, 0, 0, 0] = np.nan
    return images


def with_label(value):
    labels = arrays()["train_labels"].copy()
    labels[5] = value
    return labels


BAD = [
    ({"train_images": nan_images()}, r"\(train_images\): image 3 has NaN"),
    ({"train_images": np.full((12, 4, 5, 3), np.inf)}, "image 0 has NaN or infinite pixels"),
    ({"train_images": np.full((12, 4, 5, 3), 255.0)}, r"must lie in \[0, 1\], but range over \[255, 255\]"),
    ({"test_images": np.full((12, 4, 5, 3), -0.1)}, r"\(test_images\): float images must lie in \[0, 1\]"),
    ({"train_images": np.zeros((12, 4, 5, 3), np.int64)}, "dtype int64; give uint8"),
    ({"train_images": np.zeros((12, 4, 5, 3), np.uint16)}, "dtype uint16; give uint8"),
    ({"train_images": np.zeros((12, 4, 5, 3), bool)}, "dtype bool; give uint8"),
    ({"train_images": np.zeros((12, 20), np.uint8)}, r"got shape \[12, 20\]"),
    ({"train_images": np.zeros((12, 4, 5, 2), np.uint8)}, r"got shape \[12, 4, 5, 2\]"),
    ({"train_images": np.zeros((12, 1, 4, 5, 3), np.uint8)}, r"got shape \[12, 1, 4, 5, 3\]"),
    ({"train_images": np.zeros((0, 4, 5, 3), np.uint8)}, "there are no images"),
    ({"train_images": np.zeros((11, 4, 5, 3), np.uint8)}, "12 labels for 11 images"),
    (
        {"test_images": np.zeros((12, 5, 5, 3), np.uint8)},
        r"test images are \[5, 5, 3\]; all must have one size",
    ),
    (
        {"val_images": np.zeros((2, 5, 5, 3), np.uint8), "val_labels": np.zeros(2, int)},
        r"\(val_images\): images are \[5, 5, 3\]",
    ),
    ({"val_images": np.zeros((2, 4, 5, 3), np.uint8)}, "missing val_labels"),
    ({"train_labels": with_label(-1)}, r"\(train_labels\): label -1 of image 5 is out of range"),
    ({"test_labels": with_label(3)}, r"label 3 of image 5 is out of range; the set has 3 classes, 0 .. 2"),
    ({"train_labels": with_label(9)}, "labels go up to 9 but class 3 never occurs"),
    ({"train_labels": with_label(2**40)}, f"label {2**40} is out of range"),
    (
        {"train_labels": with_label(3), "class_names": np.array(["a", "b", "c"])},
        "label 3 of image 5 is out of range",
    ),
    (
        {"train_labels": np.zeros(12, int), "test_labels": np.zeros(12, int)},
        "all 12 training images belong to the one",
    ),
    (
        {"train_labels": np.zeros((12, 14), int)},
        r"one label per image, \[n\] or \[n, 1\], got shape \[12, 14\]",
    ),
    ({"train_labels": np.zeros(12)}, "labels have dtype float64"),
    ({"class_names": np.array(["a", "b", "a"])}, "the class name 'a' occurs more than once"),
    ({"test_images": None, "test_labels": None}, "missing test_images, test_labels"),
    ({"train_images": np.array([{}] * 12, object)}, "cannot be read as an .npz file of plain arrays"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_content_is_refused_naming_the_file(tmp_path, changes, message):
    path = write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load(f"npz:{path}")
    assert str(path) in str(caught.value)


def half(content):
    return content[: len(content) // 2]


def flipped(content):
    changed = bytearray(content)
    changed[200] ^= 0xFF
    return bytes(changed)


@pytest.mark.parametrize("damage_fn", [half, flipped, lambda content: b"", lambda content: b"not a zip file"])
def test_damaged_files_are_refused(tmp_path, damage_fn):
    path = write(tmp_path)
    path.write_bytes(damage_fn(path.read_bytes()))
    with pytest.raises(ValueError, match=r"cannot be read|damaged") as caught:
        load(f"npz:{path}")
    assert str(path) in str(caught.value)


def test_a_single_array_is_refused(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"one\.npy: cannot be read as an \.npz"):
        load(f"npz:{tmp_path / 'one.npy'}")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none\.npz: there is no such file"):
        load(f"npz:{tmp_path / 'none.npz'}")


@pytest.mark.parametrize("name", ["digits", "colour"])
def test_export_reads_back_unchanged(tmp_path, name):
    source = load("digits") if name == "digits" else load(f"npz:{write(tmp_path)}")
    path = export_npz(source, tmp_path / "out.npz")
    found = load(f"npz:{path}")
    assert found.fingerprint == source.fingerprint
    assert found.class_names == source.class_names
    for part in ("train", "test"):
        np.testing.assert_array_equal(getattr(found, part).images, getattr(source, part).images)
        np.testing.assert_array_equal(getattr(found, part).labels, getattr(source, part).labels)
    with np.load(path) as written:
        assert written["train_labels"].shape == (len(source.train.labels), 1)
        assert written["train_images"].ndim == (3 if name == "digits" else 4)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_export_refuses_bad_paths(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.npz"):
        export_npz(load("digits"), tmp_path / "out.zip")
    with pytest.raises(ValueError, match="there is no folder"):
        export_npz(load("digits"), tmp_path / "none" / "out.npz")
