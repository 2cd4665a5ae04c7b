"""Folders of images: both layouts, grey and colour, sizes, and damage that is named."""

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data import LazyImages, load


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def image(seed, shape=(6, 8)):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.fixture
def flat(tmp_path):
    """`class/*`, ten grey images in each of two classes."""
    for label, name in enumerate(("cat", "dog")):
        for i in range(10):
            save(tmp_path / name / f"{i}.png", image(100 * label + i))
    return tmp_path


@pytest.fixture
def split_layout(tmp_path):
    """`split/class/*`, with three classes in colour."""
    for s, (split, num) in enumerate((("train", 4), ("test", 2), ("val", 1))):
        for label in range(3):
            for i in range(num):
                save(
                    tmp_path / split / f"c{label}" / f"{i}.bmp", image(1000 * s + 100 * label + i, (6, 8, 3))
                )
    return tmp_path


def test_class_layout_with_a_seeded_split(flat):
    (flat / "cat" / "README.txt").write_text("not an image")
    (flat / "cat" / ".hidden.png").write_text("not an image")
    found = load(f"folder:{flat}", seed=1)
    assert found.class_names == ("cat", "dog")
    assert found.image_shape == (6, 8, 1)
    assert np.bincount(found.train.labels).tolist() == [8, 8]
    assert np.bincount(found.test.labels).tolist() == [2, 2]
    rows = {x.tobytes(): y for data in (found.train, found.test) for x, y in zip(*data, strict=True)}
    assert rows == {image(100 * label + i).tobytes(): label for label in range(2) for i in range(10)}
    assert load(f"folder:{flat}", seed=1).fingerprint == found.fingerprint
    assert load(f"folder:{flat}", seed=2).fingerprint != found.fingerprint


def test_split_layout(split_layout):
    found = load(f"folder:{split_layout}")
    assert (len(found.train.images), len(found.test.images)) == (15, 6)  # val joins train
    assert found.image_shape == (6, 8, 3)
    rows = {x.tobytes(): y for x, y in zip(*found.train, strict=True)}
    assert rows == {
        image(base + 100 * label + i, (6, 8, 3)).tobytes(): label
        for base, num in ((0, 4), (2000, 1))
        for label in range(3)
        for i in range(num)
    }
    tests = {x.tobytes(): y for x, y in zip(*found.test, strict=True)}
    assert tests[image(1100, (6, 8, 3)).tobytes()] == 1


@pytest.mark.parametrize("layout", [False, True])
def test_the_first_images_are_of_all_classes(tmp_path, layout):
    for split in ("train", "test") if layout else ("",):
        for label in range(3):
            for i in range(30):
                save(tmp_path / split / f"c{label}" / f"{i}.png", np.full((2, 2), 10 * label, np.uint8))
    found = load(f"folder:{tmp_path}", **({} if layout else {"test_fraction": 0.5}))
    for part in (found.train, found.test):
        np.testing.assert_array_equal(part.images[:, 0, 0, 0], 10 * part.labels)
        assert min(np.bincount(part.labels[:15], minlength=3)) >= 2


def test_val_serves_for_testing_where_there_is_no_test(split_layout):
    for path in sorted((split_layout / "test").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (split_layout / "test").rmdir()
    assert len(load(f"folder:{split_layout}").test.images) == 3


@pytest.mark.parametrize("extension", ["jpg", "jpeg", "png", "bmp", "gif", "tiff", "webp", "ppm", "JPG"])
def test_formats(tmp_path, extension):
    for name in ("a", "b"):
        for i in range(2):
            save(tmp_path / name / f"{i}.{extension}", np.full((4, 4, 3), 60 * i + 60, np.uint8))
    found = load(f"folder:{tmp_path}", channels=3)
    assert found.train.images.shape == (2, 4, 4, 3)
    assert set(np.unique(found.train.images // 10)) <= {6, 5, 12, 11}


def test_grey_among_colour_becomes_colour_and_channels_decide(flat):
    save(flat / "dog" / "0.png", image(5, (6, 8, 3)))
    assert load(f"folder:{flat}").image_shape == (6, 8, 3)
    assert load(f"folder:{flat}", channels=1).image_shape == (6, 8, 1)


def test_transparency_and_palettes(flat):
    opaque = image(5, (6, 8, 4))
    opaque[..., 3] = 255
    Image.fromarray(opaque, "RGBA").save(flat / "dog" / "0.png")
    Image.fromarray(image(6, (6, 8, 3))).quantize(16).save(flat / "dog" / "1.png")
    found = load(f"folder:{flat}")
    assert found.image_shape == (6, 8, 3)
    pixels = {x.tobytes() for part in (found.train, found.test) for x in part.images}
    assert opaque[..., :3].tobytes() in pixels


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L"])
@pytest.mark.parametrize("options", [{}, {"max_resident_bytes": 1}])
def test_transparent_pixels_are_refused_with_the_file_and_the_cure(flat, mode, options):
    """Black ink on a transparent ground would become an all-black image."""
    ink = Image.new("RGBA", (8, 6), (0, 0, 0, 0))
    ink.putpixel((3, 3), (0, 0, 0, 255))
    path = flat / "dog" / "0.png"
    if mode in ("RGBA", "LA"):
        ink.convert(mode).save(path)
    else:
        Image.new(mode, (8, 6)).save(path, transparency=0)

    def read_everything():
        found = load(f"folder:{flat}", **options)
        return found.train.images[:], found.test.images[:]

    with pytest.raises(ValueError, match=r"has transparent pixels.*flatten it on a background") as caught:
        read_everything()
    assert str(path) in str(caught.value)


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.zeros((8, 6), np.uint8)
    upright[:4] = 255
    for name in ("a", "b"):
        for i in range(2):
            # Orientation 6: the stored image must be turned 90 degrees clockwise to stand upright.
            save(tmp_path / name / f"{i}.png", np.rot90(upright).copy(), exif=exif)
    for options in ({}, {"max_resident_bytes": 1}):
        found = load(f"folder:{tmp_path}", **options)
        assert found.image_shape == (8, 6, 1)
        np.testing.assert_array_equal(found.train.images[0][..., 0], upright)


def test_on_demand_gives_the_same_images(split_layout):
    whole, lazy = load(f"folder:{split_layout}"), load(f"folder:{split_layout}", max_resident_bytes=1)
    assert isinstance(lazy.train.images, LazyImages)
    assert lazy.train.images.shape == whole.train.images.shape
    np.testing.assert_array_equal(lazy.train.images[3:7], whole.train.images[3:7])
    np.testing.assert_array_equal(lazy.test.images[np.array([4, 0])], whole.test.images[[4, 0]])
    np.testing.assert_array_equal(lazy.test.images[5], whole.test.images[5])


@pytest.mark.parametrize("options", [{}, {"max_resident_bytes": 1}])
def test_mixed_sizes_name_two_files_and_the_cure(flat, options):
    save(flat / "dog" / "3.png", image(5, (6, 9)))
    with pytest.raises(ValueError, match=r"all images must have one size\. Give a size") as caught:
        load(f"folder:{flat}", **options)
    assert str(flat / "dog" / "3.png") in str(caught.value)
    assert str(caught.value).count(".png") == 2
    assert load(f"folder:{flat}", size=7, **options).image_shape == (7, 7, 1)


@pytest.mark.parametrize("options", [{}, {"max_resident_bytes": 1}, {"size": 4}])
@pytest.mark.parametrize("content", [b"", b"not an image", "header"])
def test_damaged_files_are_named(flat, options, content):
    path = flat / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:20] if content == "header" else content)
    with pytest.raises(ValueError, match="cannot be read as an image") as caught:
        load(f"folder:{flat}", **options)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_truncated_files_are_named(tmp_path, extension):
    for name in ("a", "b"):
        for i in range(3):
            save(tmp_path / name / f"{i}.{extension}", image(i, (32, 32)))
    path = tmp_path / "b" / f"1.{extension}"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"1.{extension}: cannot be read as an image"):
        load(f"folder:{tmp_path}")

    def read_everything():
        lazy = load(f"folder:{tmp_path}", max_resident_bytes=1)
        return lazy.train.images[:], lazy.test.images[:]

    with pytest.raises(ValueError, match=f"1.{extension}: cannot be read as an image"):
        read_everything()


def test_sixteen_bits_are_refused(flat):
    save(flat / "dog" / "3.png", image(5).astype(np.uint16) * 256)
    with pytest.raises(ValueError, match=r"3\.png: cannot be read as an image: has pixel mode 'I;16'"):
        load(f"folder:{flat}")


def test_bad_layouts(tmp_path):
    def refused(message):
        with pytest.raises(ValueError, match=message) as caught:
            load(f"folder:{tmp_path / 'set'}")
        assert str(tmp_path / "set") in str(caught.value)

    refused("there is no such folder")
    (tmp_path / "set" / "cat").mkdir(parents=True)
    refused("cat: there are no image files directly in this folder")
    save(tmp_path / "set" / "cat" / "0.png", image(0))
    refused("every class has a single image")
    save(tmp_path / "set" / "cat" / "1.png", image(1))
    refused("belong to the one class 'cat'")
    (tmp_path / "set" / "cat").rename(tmp_path / "set" / "test")
    refused("there is test/ but no train/")
    (tmp_path / "set" / "test").rename(tmp_path / "set" / "train")
    refused("beside train/ there is no test/")
    (tmp_path / "set" / "test").mkdir()
    (tmp_path / "set" / "train" / "0.png").unlink()
    (tmp_path / "set" / "train" / "1.png").unlink()
    refused("train: there are no class folders")
    for split, name in (("train", "a"), ("train", "b"), ("test", "z")):
        save(tmp_path / "set" / split / name / "0.png", image(0))
    refused("the class 'z' does not occur in the training set")


def test_an_empty_folder(tmp_path):
    with pytest.raises(ValueError, match="it is empty"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "positive size"),
        ({"channels": 4}, r"channels 1 \(grey\) or 3 \(colour\), got channels=4"),
        ({"test_fraction": 1.0}, "0 < test_fraction < 1"),
        (
            {"resize": 3},
            "takes no option 'resize'. It takes: channels, max_resident_bytes, size, test_fraction",
        ),
    ],
)
def test_bad_options(flat, options, message):
    with pytest.raises(ValueError, match=message):
        load(f"folder:{flat}", **options)
