"""Adversarial images in a file, and what a model makes of them."""

import json

import numpy as np
import pytest

from jaxrobust.attacks import GridSearch, fgsm
from jaxrobust.evaluation import (
    EvalAttack,
    evaluate,
    evaluate_adversarial,
    load_adversarial,
    rows_table,
    save_adversarial,
    write_report,
)
from jaxrobust.evaluation.table import text
from jaxrobust.neighbourhoods import L2, LInf, RotationTranslation
from tests.evaluation.stand_ins import Boundary

BUDGET = 0.1
ATTACKS = {
    "fgsm": EvalAttack(fgsm(LInf(eps=0.05))),
    "near": EvalAttack(Boundary(neighbourhood=L2(eps=BUDGET))),
    "grid": EvalAttack(
        GridSearch(neighbourhood=RotationTranslation(max_angle=20.0, max_shift=1.0), granularity=(3, 1, 3)),
        every_image=True,
    ),
}


@pytest.fixture(scope="module")
def report(linear):
    return evaluate(
        linear.model, linear.params, {}, linear.images, linear.labels, ATTACKS, batch_size=16, seed=5,
        trust_checks=False, keep_images=True, model_name="maker", dataset_name="made up", fingerprint="f00d",
    )  # fmt: skip


@pytest.fixture(scope="module")
def file(report, linear, tmp_path_factory):
    return save_adversarial(report, tmp_path_factory.mktemp("sets") / "new" / "images.npz", linear.images)


def test_the_file_says_where_it_comes_from(file, linear):
    stored = load_adversarial(file)
    assert [one.name for one in stored.attacks] == list(ATTACKS)
    assert (stored.about["model"], stored.about["dataset"]) == ("maker", "made up")
    assert (stored.about["fingerprint"], stored.about["seed"]) == ("f00d", 5)
    np.testing.assert_array_equal(stored.index, np.arange(53))
    np.testing.assert_array_equal(stored.labels, linear.labels)
    np.testing.assert_array_equal(stored.clean, linear.images)
    fast = stored.attacks[0]
    assert fast.about["eps"] == [{"kind": "LInf", "eps": 0.05}]
    assert fast.images.dtype == np.float32 and fast.images_8bit.dtype == np.uint8
    assert np.abs(fast.images - fast.images_8bit / 255.0).max() <= 0.5 / 255 + 1e-6
    with np.load(file) as arrays:
        assert json.loads(str(arrays["about"]))["format"]


def test_the_model_that_they_were_made_for_gives_the_same_answers(file, report, linear):
    stored = load_adversarial(file)
    again = evaluate_adversarial(linear.model, linear.params, {}, stored, batch_size=16)
    for name in ATTACKS:
        for kind in ("correct", "correct_8bit", "prediction"):
            attacked = np.isfinite(report.flags[f"distance/{name}"])
            flag = f"{kind}/{name}"
            np.testing.assert_array_equal(again.flags[flag][attacked], report.flags[flag][attacked], flag)
        row = again.row(name)
        correct = report.flags[f"correct/{name}"]
        assert row["source_accuracy"] == report.row(name)["accuracy"] == pytest.approx(correct.mean())
        np.testing.assert_array_equal(stored.attacks[list(ATTACKS).index(name)].correct, correct)
    assert again.row("none")["accuracy"] == report.row("none")["accuracy"]
    assert again.row("worst")["accuracy"] <= min(again.row(name)["accuracy"] for name in ATTACKS)
    near = report.flags["distance/near"]
    kept = np.isfinite(near)
    np.testing.assert_allclose(again.flags["distance/near"][kept], near[kept], rtol=1e-4, atol=1e-6)
    assert (again.row("near")["norm_median"], again.row("near")["outside"]) == (
        pytest.approx(report.row("near")["norm_median"], rel=1e-4), 0,
    )  # fmt: skip
    assert np.isnan(again.flags["distance/grid"]).all()
    json.dumps([*again.rows], allow_nan=False)


def test_another_model_is_judged_by_its_own_answers(file, linear):
    stored = load_adversarial(file)
    params = {**linear.params, "w": -linear.params["w"], "b": -linear.params["b"]}
    other = evaluate_adversarial(linear.model, params, {}, stored, batch_size=16, model_name="other")
    flat = stored.attacks[0].images.reshape(53, -1)
    expected = (flat @ params["w"] + params["b"] > 0) == (linear.labels == 1)
    np.testing.assert_array_equal(other.flags["correct/fgsm"], expected)
    # Beyond the budget the clean image counts.
    far = other.flags["distance/near"] > 1
    assert far.any()
    np.testing.assert_array_equal(other.flags["correct/near"][far], other.flags["correct/none"][far])
    assert other.meta["source"] == "maker"


def test_the_first_so_many(file, linear):
    few = load_adversarial(file).first(7)
    report = evaluate_adversarial(linear.model, linear.params, {}, few, batch_size=16)
    assert report.row("fgsm")["n"] == 7


def test_a_report_of_stored_images_can_be_written(file, linear, tmp_path):
    report = evaluate_adversarial(linear.model, linear.params, {}, load_adversarial(file), batch_size=16)
    assert "of source" in text(rows_table(report), 160)
    paths = write_report(report, tmp_path, title="stored")
    assert paths.html.stat().st_size > 1000 and paths.png.stat().st_size > 1000


def test_a_folder_gets_a_file_of_the_known_name(report, linear, tmp_path):
    assert save_adversarial(report, tmp_path, linear.images) == tmp_path / "adversarial.npz"
    assert len(load_adversarial(tmp_path).attacks) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no adversarial images at"),
        (b"not a zip", "holds no adversarial images of this library"),
        ({"images": np.zeros(3)}, "holds no adversarial images of this library"),
        ({"about": np.array('{"format": "other"}')}, "has the format 'other'"),
        ({"about": np.array("{")}, "holds no adversarial images of this library"),
    ],
    ids=["absent", "bytes", "other keys", "other format", "bad json"],
)
def test_other_files_are_named(content, message, tmp_path):
    path = tmp_path / "x.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, **content)
    with pytest.raises(ValueError, match=message):
        load_adversarial(path)


def test_images_that_do_not_fit_are_refused(file, report, linear, tmp_path):
    stored = load_adversarial(file)
    with pytest.raises(ValueError, match=r"images \(5, 4, 1\) as the model takes them"):
        evaluate_adversarial(
            linear.model._replace(image_shape=(5, 4, 1)), linear.params, {}, stored, batch_size=8
        )
    with pytest.raises(ValueError, match="of 2 classes, the model knows 3"):
        evaluate_adversarial(linear.model._replace(num_classes=3), linear.params, {}, stored, batch_size=8)
    with pytest.raises(ValueError, match="Expected the 53 images"):
        save_adversarial(report, tmp_path, linear.images[:5])
    with pytest.raises(ValueError, match=r"an .npz file or a folder"):
        save_adversarial(report, tmp_path / "images.png", linear.images)
    bare = evaluate(linear.model, linear.params, {}, linear.images, linear.labels, {}, batch_size=16, seed=0)
    with pytest.raises(ValueError, match="keep_images=True"):
        save_adversarial(bare, tmp_path, linear.images)
