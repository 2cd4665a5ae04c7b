"""Runs on faces: who is trained on, what validates, what a run says of itself, and its evaluation."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from jaxrobust import experiments
from jaxrobust.attacks import PGD
from jaxrobust.cli import main
from jaxrobust.data import load_identities
from jaxrobust.experiments import FaceData, codec
from jaxrobust.experiments.face_table import SCALES
from jaxrobust.models import FaceCNN
from jaxrobust.neighbourhoods import LInf
from jaxrobust.objectives import Gate
from jaxrobust.training import Runtime
from tests.common.lfw import write_orl, write_pairs

SIZE = (16, 16)
DATA = FaceData(dataset="orl", size=SIZE)
NET = FaceCNN(num_classes=24, widths=(8, 8, 8, 8), embedding_size=16)
ONE = Runtime(num_devices=1)
TINY = ("--devices=1", "--no-progress", "num_steps=3", "batch_size=8", "data.size=16,16")


def tiny(name, **changes):
    small = {"data": DATA, "model": NET, "num_steps": 4, "batch_size": 8, **changes}
    return dataclasses.replace(experiments.get(f"face_orl_{name}"), **small)


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """A run whose gate is open from its second step on, and what it said."""
    gate = dataclasses.replace(tiny("gated").objective.gate, threshold=1e3)
    objective = dataclasses.replace(
        tiny("gated").objective,
        gate=gate,
        attack=PGD(neighbourhood=LInf(eps=0.03), steps=1, step_size=0.5),
    )
    check = PGD(neighbourhood=LInf(eps=0.03), steps=2, step_size=0.5)
    experiment = tiny("gated", objective=objective, validation_attack=check)
    said = []
    folder = tmp_path_factory.mktemp("faces") / "gated"
    run = experiments.train(experiment, folder, runtime=ONE, progress=False, log_fn=said.append)
    return experiment, run, said


def test_a_fold_shares_nobody_and_unlabelled_people_are_no_class():
    config = dataclasses.replace(DATA, fold=2, num_unlabelled=8)
    faces = config.load(None)
    people = [faces.part.train, faces.unlabelled, faces.part.validation, faces.part.test]
    assert [len(some) for some in people] == [16, 8, 6, 10]
    assert len(np.unique(np.concatenate(people))) == 40
    parts = config.split(faces)
    assert sorted(np.unique(parts.labelled.labels)) == list(range(16))
    assert len(parts.unlabelled) == 80
    own = faces.identities.images_of(faces.unlabelled)
    np.testing.assert_array_equal(parts.unlabelled, faces.identities.images[own])
    whole = dataclasses.replace(config, num_unlabelled=0).load(None)
    np.testing.assert_array_equal(whole.part.test, faces.part.test)
    assert set(faces.part.train) < set(whole.part.train)


def test_pairs_are_those_of_the_fold_and_part():
    config = dataclasses.replace(DATA, fold=1)
    faces = config.load(None)
    for part in ("validation", "test"):
        pairs = config.pairs(faces, part)
        images = np.concatenate([pairs.first, pairs.second])
        assert set(faces.identities.identity[images]) == set(getattr(faces.part, part))
        assert set(pairs.fold) == {1}
    assert int(pairs.genuine.sum()) == 450


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fold": 4}, "fold"),
        ({"num_folds": 1}, "num_folds >= 2"),
        ({"num_validation": 1}, "num_validation >= 2"),
        ({"num_impostor": 0}, "num_impostor >= 1"),
    ],
)
def test_numbers_out_of_range_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FaceData(**fields)


def test_too_few_people_with_labels_are_refused():
    with pytest.raises(ValueError, match=r"num_unlabelled=23 of the 24 people .* a head needs 2"):
        dataclasses.replace(DATA, num_unlabelled=23).load(None)


@pytest.mark.parametrize("name", ["clean", "at", "ungated", "gated", "srt"])
def test_configurations_go_to_json_and_back(name):
    experiment = tiny(name)
    assert codec.loads(codec.dumps(experiment)) == experiment
    assert '"kind": "faces"' in codec.dumps(experiment)


def test_a_run_validates_by_pairs_and_says_what_its_gate_did(gated):
    _, run, said = gated
    assert set(run.validation) == {"accuracy", "eer", "tar", "robust_accuracy"}
    assert run.validation["accuracy"] == pytest.approx(1 - run.validation["eer"])
    assert 0 <= run.validation["robust_accuracy"] <= run.validation["accuracy"] + 0.05
    result = json.loads((run.folder / "result.json").read_text())
    gate = result["gate"]
    assert (gate["first_open"], gate["share_open"], gate["flaps"]) == (1, 0.75, 1)
    assert not any("never opened" in str(line) for line in said)


def test_a_run_without_its_result_still_says_what_its_gate_did(gated, tmp_path):
    experiment, run, _ = gated
    made = json.loads((run.folder / "result.json").read_text())
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    (folder / "result.json").unlink()
    experiments.train(experiment, folder, runtime=ONE, progress=False)
    again = json.loads((folder / "result.json").read_text())
    assert again == {"steps": 4, "seconds": None, "resumed_at": None, "gate": made["gate"]}
    assert (folder / "metrics.jsonl").read_text() == (run.folder / "metrics.jsonl").read_text()


def test_a_gate_that_never_opens_is_warned_of(tmp_path):
    gate = dataclasses.replace(tiny("gated").objective.gate, threshold=1e-6)
    experiment = tiny("gated", objective=dataclasses.replace(tiny("gated").objective, gate=gate), num_steps=2)
    said = []
    experiments.train(experiment, tmp_path / "run", runtime=ONE, progress=False, log_fn=said.append)
    assert any("The gate never opened in 2 steps" in str(line) for line in said)


def test_one_run_is_asked_about_its_own_fold(gated):
    _, run, _ = gated
    found = experiments.evaluate_faces(
        [run], attacks=["pgd:steps=2"], num_genuine=4, num_impostor=4, num_draws=20, trust_checks=False
    )
    assert found.clean.num_genuine == 450
    assert found.clean.num_people == 10
    assert found.attacked is not None
    row = found.attacked.row("PGD-2")
    assert row.acceptance.value <= found.attacked.acceptance.value
    assert row.false_accepts.value >= found.attacked.false_accepts.value


def test_what_cannot_be_asked_is_refused(gated, tmp_path):
    experiment, run, _ = gated
    with pytest.raises(ValueError, match="different folds, those in their order"):
        experiments.evaluate_faces([run, run], attacks=["none"])
    with pytest.raises(ValueError, match="A list of pairs is for another set"):
        experiments.evaluate_faces([run], attacks=["none"], pairs=tmp_path / "pairs.txt")
    with pytest.raises(ValueError, match="leads to a class"):
        experiments.evaluate_faces([run], attacks=["pgd:target=least_likely"])
    with pytest.raises(ValueError, match="--task verification"):
        experiments.evaluate_run(run)
    with pytest.raises(ValueError, match="its classes are the people it was trained on"):
        experiments.predict(run, [tmp_path / "face.png"])
    with pytest.raises(ValueError, match="compares faces; an export is a program images -> logits"):
        experiments.export_run(run, tmp_path / "released")
    assert not (tmp_path / "released").exists()
    another = dataclasses.replace(experiment, data=dataclasses.replace(DATA, fold=1), num_steps=5)
    later = dataclasses.replace(run, experiment=another)
    with pytest.raises(ValueError, match="is another experiment than"):
        experiments.evaluate_faces([run, later], attacks=["none"])


@pytest.mark.parametrize("changes", [{"fingerprint": "0" * 16}, {"class_names": ("s1",) * 24}])
def test_people_who_may_have_been_trained_on_are_refused(gated, changes):
    other = dataclasses.replace(gated[1], **changes)
    with pytest.raises(ValueError, match=r"is not what .* was trained on"):
        experiments.evaluate_faces([other], attacks=["none"])


def test_the_own_set_under_another_name_is_refused(tmp_path):
    folder = write_orl(tmp_path / "faces", SIZE)
    data = dataclasses.replace(DATA, dataset=f"folder:{folder}")
    run = experiments.train(tiny("clean", data=data), tmp_path / "run", runtime=ONE, progress=False)
    with pytest.raises(ValueError, match=r"is the run's own set, .* under another name"):
        experiments.evaluate_faces([run], attacks=["none"], dataset=f"folder:{folder}/../faces")


def test_seeds_leave_people_in_their_folds(tmp_path):
    experiment = tiny("clean", num_steps=1)
    assert experiment.seeded(3).data == DATA and experiment.seeded(3).seed == 3
    runs = experiments.train_seeds(
        experiment, [0, 1], [tmp_path / "0", tmp_path / "1"], runtime=ONE, progress=False
    )
    assert runs[0].class_names == runs[1].class_names
    assert {run.experiment.data for run in runs} == {DATA}


def test_runs_of_one_net_share_their_programs(gated):
    first = experiments.embed_fn(gated[1])
    moved = dataclasses.replace(gated[1], params=jax.tree.map(lambda leaf: leaf + 1, gated[1].params))
    assert jax.tree.structure(first) == jax.tree.structure(experiments.embed_fn(moved))


def test_a_gate_of_validations_needs_some():
    gate = Gate(measure="val_tar", threshold=0.5)
    objective = dataclasses.replace(tiny("gated").objective, gate=gate)
    with pytest.raises(ValueError, match="set validate_every"):
        tiny("gated", objective=objective)
    assert tiny("gated", objective=objective, validate_every=2).validate_every == 2


def test_another_set_with_lfws_pairs_is_verified_by_view_2(gated, tmp_path, capsys):
    """The commands are those of ORL but for the name."""
    folder = write_orl(tmp_path / "faces", SIZE)
    write_pairs(folder / "pairs.txt", num_folds=10, each=5)
    for file in folder.rglob("*.jpg"):  # LFW is colour, and the net takes grey
        Image.open(file).convert("RGB").resize((20, 24)).save(file)
    _, run, _ = gated
    line = ["evaluate", str(run.folder), "--dataset", f"folder:{folder}", "--attacks", "none"]
    with pytest.raises(SystemExit) as stop:
        main([*line, "--report", str(tmp_path / "report")])
    assert stop.value.code == 0
    assert "Accuracy over 10 folds (View 2)" in capsys.readouterr().out
    written = json.loads((tmp_path / "report" / "verification.json").read_text())
    assert written["clean"]["num_folds"] == 10
    assert written["clean"]["view2"] is not None
    assert written["attacked"] is None


def test_the_commands_train_and_evaluate_a_folder_of_people(tmp_path, capsys):
    folder = write_orl(tmp_path / "faces", SIZE)
    net = ("model.widths=(8,8,8,8)", "model.embedding_size=16", "objective.attack.steps=1")
    where = ("--run-dir", str(tmp_path / "run"), f"data.dataset=folder:{folder}", "data.channels=1")
    with pytest.raises(SystemExit) as stop:
        main(["train", "face_orl_gated", *where, *TINY, *net])
    assert stop.value.code == 0, capsys.readouterr()
    line = ["evaluate", str(tmp_path / "run"), "--task", "verification", "--num", "4", "--minimum-eps"]
    with pytest.raises(SystemExit) as stop:
        main([*line, "--attacks", "pgd:steps=2"])
    printed = capsys.readouterr()
    assert stop.value.code == 0, printed
    assert "EER" in printed.out and "| PGD-2 |" in printed.out and "least change" in printed.out
    page = (tmp_path / "run" / "verification" / "verification.md").read_text()
    assert "## Under attack" in page
    assert (tmp_path / "run" / "verification" / "roc.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--certify", "0.1"], "Verification takes no --certify"),
        (["--task", "classification"], "--task verification"),
    ],
)
def test_options_of_classification_are_refused(gated, options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", str(gated[1].folder), *options])
    assert stop.value.code == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_arms_are_made_once_and_again_what_is_missing(tmp_path):
    said = []

    def make(**options):
        said.clear()
        experiments.REPRODUCTIONS["face-arms"](
            runs_dir=tmp_path, log_fn=said.append, scale="tiny", seeds=(0, 1), **options
        )

    make(only="clean,gated", dry_run=True)
    assert str(said[0]).startswith("24 runs are to be trained")
    make(only="clean,gated")
    page = (tmp_path / "table" / "README.md").read_text()
    rows = [json.loads(line) for line in (tmp_path / "table" / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    assert {row["attacked"]["num_genuine"] for row in rows} == {SCALES["tiny"]}
    assert "at-seed1" in str(rows[0]["attacked"]["rows"])
    assert "| regulariser behind the gate less clean |" in page
    assert (tmp_path / "table" / "gate.png").is_file()
    assert (tmp_path / "table" / "arms.png").is_file()
    make(only="clean,gated")
    assert len(said) == 1
    for folder in tmp_path.glob("*-seed*"):
        shutil.rmtree(folder)
    make(only="clean,gated", dry_run=True)
    assert str(said[0]).startswith("0 runs")


def test_orl_is_not_written_anywhere(gated):
    """Its faces stay out of runs: numbers alone are kept."""
    pixels = load_identities("orl", size=SIZE).images[0].tobytes()
    for file in gated[1].folder.rglob("*"):
        assert not file.is_file() or pixels not in file.read_bytes()
