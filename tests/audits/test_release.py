"""One report for a release, from the command: a classifier and a fold of faces, small."""

import dataclasses
import json
import re
from types import SimpleNamespace

import pytest

from jaxrobust import experiments
from jaxrobust.audits import MitigationRow
from jaxrobust.audits.release import _best_mitigation
from jaxrobust.cli import main
from jaxrobust.evaluation import Band, Estimate
from jaxrobust.models import FaceCNN
from jaxrobust.training import Runtime

QUICK = ("--steps=4", "--optimise=0", "--num-draws=20", "--num-saliency=8", "--num=20")
ONE = Runtime(num_devices=1)


@pytest.fixture
def command(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    experiment = dataclasses.replace(experiments.get("digits_standard"), num_steps=30, validate_every=30)
    return experiments.train(
        experiment, tmp_path_factory.mktemp("runs") / "standard", runtime=ONE, progress=False
    ).folder


def test_a_classifier_has_one_page(digits_run, command):
    options = ("--attacks=none,fgsm,rand_adv", "--mitigations=truncated:keep=8")
    code, out, err = command("audit", "all", digits_run, *QUICK, *options)
    assert code == 0, err
    folder = digits_run / "release"
    page = (folder / "release.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href|srcset)=\"(?!data:)", page) and "<script" not in page
    headings = re.findall(r"<h2>(\d)\. ", page)
    assert headings == list("1234567")
    assert page.count("data:image/png") >= 15
    said = json.loads((folder / "release.json").read_text(encoding="utf-8"))
    rows = {row["threat"]: row for row in said["threats"]}
    assert len(rows) == 3 and "all together" in rows
    together = rows["all together"]["values"][0]["value"]
    assert together <= min(row["values"][0]["value"] for row in rows.values())
    assert together <= said["clean"]["accuracy"]["value"]
    assert list(said["headlines"]) == [
        "Clean", "Robust", "Where it looks", "What features give away", "Mitigations",
    ]  # fmt: skip
    # Four steps invert nothing, and the page says so.
    assert said["privacy"]["band"] == "UNDETERMINED"
    assert any(one.startswith("Privacy, by decoder:") for one in said["unresolved"])
    assert any(one.startswith("Trust check transfer, skipped") for one in said["unresolved"])
    assert re.fullmatch(r"50 images \(hash [0-9a-f]{12}\)", said["data"]["labelled"])
    assert said["data"]["fingerprint"] and said["meta"]["seeds"]["privacy"] == 0
    assert (folder / "saliency" / "saliency.html").is_file()
    assert (folder / "privacy" / "privacy.html").is_file()
    assert "Not resolved (" in out and "Report:" in out
    code, _, err = command("audit", "all", digits_run, digits_run, *QUICK)
    assert code == 1 and "one classifier at a time" in err
    for wrong, message in (
        (["--features=conv9", "--mitigations="], "Unknown layer 'conv9'"),
        (["--mitigations=truncated:keep=100"], "Expected keep <= 64"),
    ):
        code, out, err = command("audit", "all", digits_run, *QUICK, *wrong)
        assert code == 1 and message in err and "Accuracy" not in out


@pytest.mark.parametrize(
    ("now", "behind", "said"),
    [
        (("HIGH", 0.8), ("MEDIUM", 0.4), "signs leaks least: 40.0% instead of 80.0%; TAR is 90.0%"),
        (("MEDIUM", 0.4), ("MEDIUM", 0.5), "50.0% instead of 40.0%, so that none is of help; TAR"),
        # What an attack that failed leaked is nothing to compare with.
        (("UNDETERMINED", 0.0), ("MEDIUM", 0.4), "40.0%, where nothing can be said of what is published"),
        (("HIGH", 0.8), ("UNDETERMINED", 0.0), "No mitigation can be judged"),
    ],
)
def test_a_mitigation_is_compared_with_what_can_be_judged(now, behind, said):
    rows = tuple(
        MitigationRow(name, "", 8, Band(band), Estimate(leak), "", Estimate(None), Estimate(0.9))
        for name, (band, leak) in (("as published", now), ("signs", behind))
    )
    assert said in _best_mitigation(SimpleNamespace(mitigations=rows, utility="TAR"))


@pytest.mark.slow
def test_the_model_of_the_demonstration_has_one_page(tmp_path, command):
    code, _, err = command(
        "train", "digits_srt", "--run-dir", tmp_path / "srt", "--no-progress", "--devices=1"
    )
    assert code == 0, err
    code, _, err = command("audit", "all", tmp_path / "srt")
    assert code == 0, err
    said = json.loads((tmp_path / "srt" / "release" / "release.json").read_text(encoding="utf-8"))
    assert set(said["headlines"]) >= {"Clean", "Robust", "Where it looks", "What features give away"}
    assert said["clean"]["accuracy"]["value"] > 0.6
    assert said["meta"]["seconds"] > 0


@pytest.mark.slow
def test_faces_have_one_page_without_anybody_on_it(tmp_path, command):
    experiment = dataclasses.replace(
        experiments.get("face_orl_clean"),
        data=experiments.FaceData(dataset="orl", size=(16, 16)),
        model=FaceCNN(num_classes=24, widths=(8, 8, 8, 8), embedding_size=16),
        num_steps=4,
        batch_size=8,
    )
    experiments.train(experiment, tmp_path / "clean", runtime=ONE, progress=False)
    # More pairs than there are genuine ones.
    options = ("--attacks=none,fgsm", "--mitigations=", "--no-pictures", "--num=600")
    code, _, err = command("audit", "all", tmp_path / "clean", *QUICK, *options)
    assert code == 0, err
    page = (tmp_path / "clean" / "release" / "release.html").read_text(encoding="utf-8")
    assert "data:image/png" not in page and "None was measured." in page
    said = json.loads((tmp_path / "clean" / "release" / "release.json").read_text(encoding="utf-8"))
    assert said["form"] == "people" and said["columns"][0] == "accepted under dodging"
    assert "24 train (hash " in said["data"]["fold 0"] and "10 test (hash " in said["data"]["fold 0"]
    assert said["attacked_on"] == "450 genuine and 600 impostor pairs"
    assert "people who were not trained on" in said["headlines"]["Clean"]
