"""The command line: the whole path on digits in a few steps, and what every mistake is answered with."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxrobust.cli import _sentence, main
from jaxrobust.experiments import codec, is_finished, load_export, train
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.models import Precision
from jaxrobust.training import Runtime

TINY = (
    "--steps=240",
    "--devices=1",
    "--no-progress",
    "--checkpoint-every=20",
    "objective.attack.steps=1",
    "batch_size=32",
    "data.num_validation=20",
    "validate_every=120",
    "validation_attack.steps=2",
)


@pytest.fixture
def command(capsys):
    """Runs a command line in this process; gives the exit code and what was printed."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return run


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run that was told to stop on its way."""
    folder = tmp_path_factory.mktemp("runs") / "srt"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    line = [sys.executable, "-m", "jaxrobust", "train", "digits_srt", "--run-dir", str(folder), *TINY]
    process = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not (folder / "checkpoints" / "20" / "weights").exists() and process.poll() is None:
        assert time.monotonic() < deadline, "No checkpoint in five minutes."
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    return folder, process.returncode, errors


@pytest.fixture(scope="module")
def finished(interrupted):
    """The same run, resumed to its end."""
    folder, _, _ = interrupted
    with pytest.raises(SystemExit) as stop:
        main(["train", "digits_srt", "--run-dir", str(folder), *TINY])
    assert stop.value.code == 0
    return folder


def test_sigterm_saves_and_exits_with_143(interrupted):
    folder, code, errors = interrupted
    assert code == 143, errors
    assert "Stopped: SIGTERM after step" in errors
    steps = [int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit()]
    assert 0 < max(steps) < 240


def test_the_same_command_resumes_and_finishes(finished, command):
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == sorted(set(steps)) and steps[-1] == 240
    config = json.loads((finished / "config.json").read_text())
    assert config["experiment"]["objective"]["attack"]["steps"] == 1
    code, out, _ = command("train", "digits_srt", "--run-dir", finished, *TINY)
    assert code == 0
    assert "resuming at step 240" in out


def test_evaluate_prints_a_table_and_writes_the_report(finished, command, tmp_path):
    code, out, err = command(
        "evaluate", finished, "--attacks=none,fgsm,pgd:steps=3,restarts=2", "--eps=0.1", "--num=40",
        "--report", tmp_path, "--no-curves",
    )  # fmt: skip
    assert code == 0, err
    assert "FGSM" in out and "PGD-3" in out
    rows = {row["attack"]: row for row in map(json.loads, (tmp_path / "rows.jsonl").read_text().splitlines())}
    assert rows["FGSM"]["n"] == 40 and rows["FGSM"]["precision"] == "float32"
    assert rows["worst"]["accuracy"] <= rows["FGSM"]["accuracy"] <= rows["none"]["accuracy"]
    assert (tmp_path / "report.html").stat().st_size > 1000


def test_a_run_is_audited_where_it_looks(finished, command, tmp_path):
    small = ("--num=20", "--num-sanity=2", "--num-draws=20", "--fraction=0.1", "--batch-size=20")
    code, out, err = command(
        "audit", "saliency", finished, *small, "--perturb=mean,patch:steps=2", "--report", tmp_path
    )
    assert code == 0, err
    assert "| worst over maps | patch:steps=2 |" in out
    said = json.loads((tmp_path / "saliency.json").read_text())
    assert [row["map"] for row in said["maps"]] == [
        "occlusion:window=2,stride=1", "integrated_gradients", "grad_cam",
    ]  # fmt: skip
    assert list(said["maps"][0]["cascade"]) == ["fc3", "fc2", "fc1", "conv4", "conv3", "conv2", "conv1"]
    assert said["command"].startswith("jaxrobust audit saliency")
    assert "<h2>Best and worst</h2>" in (tmp_path / "saliency.html").read_text()
    code, _, err = command("audit", "saliency", finished, "--maps=oclusion")
    assert code == 1 and "Did you mean 'occlusion'" in err
    code, _, err = command("audit", "saliency", finished, finished)
    assert code == 1 and "one classifier at a time" in err
    code, _, err = command("audit", "saliency", finished, "--far=0.1")
    assert code == 1 and "--far 0.1 is of a threshold of faces" in err


def test_export_takes_its_accuracy_from_a_report(finished, command, tmp_path):
    report, out = tmp_path / "report", tmp_path / "out"
    options = ("--attacks=none,fgsm", "--num=20", "--no-curves", "--report", report)
    code, _, err = command("evaluate", finished, *options)
    assert code == 0, err
    code, printed, err = command("export", finished, "--out", out, "--report", report, "--no-gradients")
    assert code == 0, err
    rows = [json.loads(line) for line in (report / "rows.jsonl").read_text().splitlines()]
    card = json.loads((out / "model_card.json").read_text())
    assert [row["accuracy"] for row in card["evaluation"]["attacks"]] == [row["accuracy"] for row in rows[:2]]
    assert f"none {rows[0]['accuracy']:.1%}" in printed and str(out / "model_card.md") in printed
    assert load_export(out).logits_fn(np.zeros((2, 8, 8, 1), np.float32)).shape == (2, 10)
    code, _, err = command("export", finished, "--out", out, "--no-evaluate")
    assert code == 1 and f"{out} is not empty" in err and "--force" in err


def test_precision_is_recorded_in_rows_and_runs(finished, command, tmp_path):
    code, _, err = command(
        "evaluate", finished, "--attacks=none", "--num=20", "--no-curves", "--report", tmp_path,
        "--precision=bf16",
    )  # fmt: skip
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {row["precision"] for row in rows} == {"bf16"}
    assert "<dd>bf16</dd>" in (tmp_path / "report.html").read_text()
    code, _, err = command(
        "train", "digits_standard", "--run-dir", tmp_path / "half", "--steps=1", "--devices=1",
        "--no-progress", "batch_size=8", "data.num_validation=0", "--precision=bf16",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads((tmp_path / "half" / "config.json").read_text())["precision"] == "bfloat16"


def test_images_are_kept_and_tried_again(finished, command, tmp_path):
    file = tmp_path / "kept.npz"
    names = "fgsm,ddn:steps=5,pgd:steps=2,target=runner_up,fgsm>colour:granularity=1x1x3x3x1"
    code, out, err = command(
        "evaluate", finished, "--attacks", names, "--num=20", "--report", tmp_path / "a",
        "--save-adversarial", file,
    )  # fmt: skip
    assert code == 0, err
    assert "median norm" in out and "on target" in out and str(file) in out
    first = json.loads((tmp_path / "a" / "report.json").read_text())["models"][0]
    rows = {row["attack"]: row for row in first["rows"]}
    assert rows["DDN-5"]["minimum_norm"] and rows["DDN-5"]["norm"] == 2
    assert [curve["attack"] for curve in first["curves"]] == ["DDN-5"]
    code, out, err = command("evaluate", finished, "--adversarial", file, "--report", tmp_path / "b")
    assert code == 0, err
    again = {
        row["attack"]: row
        for row in map(json.loads, (tmp_path / "b" / "rows.jsonl").read_text().splitlines())
    }
    assert set(again) == set(rows)
    for name in ("none", "FGSM", "DDN-5", "worst"):
        assert again[name]["accuracy"] == rows[name]["accuracy"]
    assert again["FGSM"]["accuracy_8bit"] == rows["FGSM"]["accuracy_8bit"]


def test_a_run_of_an_older_threat_model_has_the_published_radii(finished, command, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(finished, folder)
    config = json.loads((folder / "config.json").read_text())
    for name in ("eps_linf", "eps_l2", "eps_l0", "colours", "lengths"):
        config["experiment"]["threat"].pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    code, _, err = command("evaluate", folder, "--attacks=ddn:steps=2", "--num=20", "--report", tmp_path)
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert rows[1]["eps"] == [{"kind": "L2", "eps": 0.6}]


def test_the_report_says_the_whole_command(finished, command, tmp_path):
    folder = tmp_path / "a folder"
    arguments = (
        "evaluate", str(finished), "--attacks", "none,PGD-2 (restarts=2),FGSM (eps=0.1)", "--num=20",
        "--report", str(folder), "--no-curves", "--seed", "3",
    )  # fmt: skip
    code, out, err = command(*arguments)
    assert code == 0, err
    assert "PGD-2 (restarts=2)" in out and "FGSM (eps=0.1)" in out
    typed = json.loads((folder / "report.json").read_text())["command"]
    assert shlex.split(typed) == ["jaxrobust", *arguments]


def test_a_folder_of_mixed_sizes_is_described_exported_and_evaluated(finished, command, tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in range(10):
            for i, size in enumerate(((9, 7, 3), (12, 8, 3))):
                path = tmp_path / "set" / split / str(label) / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(path)
    name = f"folder:{tmp_path / 'set'}"
    code, _, err = command("data", "info", name)
    assert code == 1 and "Give a size" in err
    code, out, err = command("data", "info", name, "--size=8", "--channels=1")
    assert code == 0 and "8, 8, 1" in out, err
    assert command("data", "export", name, tmp_path / "out.npz", "--size=6,5")[0] == 0
    with np.load(tmp_path / "out.npz") as written:
        assert written["train_images"].shape == (20, 6, 5, 3)
    options = ("--attacks=none", "--no-curves", "--report", tmp_path / "report")
    code, out, err = command(
        "evaluate", finished, "--dataset", name, "--size=8,8", "--channels=1", "--allow-batch-dependent",
        *options,
    )  # fmt: skip
    assert code == 0, err
    assert "none (clean)" in out


@pytest.mark.parametrize("size", ["0", "8,", "8,8,8", "big", "-3"])
def test_a_size_is_one_or_two_numbers(size, command):
    code, _, err = command("data", "info", "digits", f"--size={size}")
    assert code == 2 and "expected pixels as 28 or 28,32" in err


def test_an_error_without_a_file_names_none():
    assert _sentence(OSError(28, "No space left on device")) == "No space left on device"
    assert _sentence(OSError(2, "No such file", "x.png")) == "No such file: x.png"


def test_evaluate_takes_one_checkpoint(finished, command, tmp_path):
    checkpoint = max(
        (p for p in (finished / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name)
    )
    code, out, err = command(
        "evaluate", checkpoint, "--attacks=none", "--num=20", "--report", tmp_path, "--no-curves"
    )
    assert code == 0, err
    assert "none (clean)" in out


def test_predict_gives_class_and_distribution(finished, command, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    small, large = tmp_path / "small.png", tmp_path / "large.png"
    Image.fromarray(pixels).save(small)
    Image.fromarray(np.kron(pixels, np.ones((2, 2), np.uint8))).save(large)
    code, out, _ = command("predict", finished, small, large, "--resize", "--json")
    assert code == 0
    first, second = map(json.loads, out.splitlines())
    for one in (first, second):
        assert sum(one["distribution"].values()) == pytest.approx(1, abs=1e-5)
        assert one["label"] == max(one["distribution"], key=one["distribution"].get)
    assert first["path"] == str(small)
    code, out, _ = command("predict", finished, small, "--top=3")
    assert code == 0
    assert first["label"] in out


def test_weights_of_another_run_are_a_start(finished, command, tmp_path):
    code, _, err = command(
        "train", "digits_standard", "--run-dir", tmp_path / "tuned", "--init-from", finished, "--steps=2",
        "--devices=1", "--no-progress", "batch_size=8", "data.num_validation=0",
    )  # fmt: skip
    assert code == 0, err
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert config["init_from"]["name"] == finished.name and len(config["init_from"]["sha256"]) == 16
    experiment = codec.from_json(Experiment, config["experiment"])
    # The same experiment from new weights is another run.
    assert not is_finished(tmp_path / "tuned", experiment)
    with pytest.raises(ValueError, match=r"another configuration. Differing: init_from"):
        train(experiment, tmp_path / "tuned", runtime=Runtime(num_devices=1), progress=False)
    with pytest.raises(ValueError, match=r"precision: null -> \"bfloat16\""):
        train(
            experiment,
            tmp_path / "tuned",
            runtime=Runtime(num_devices=1, precision=Precision.BF16),
            init_from=finished,
            progress=False,
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digits_best"], "Unknown experiment 'digits_best'. Known: cifar10_at"),
        (
            ["train", "digits_srt", "objective.lamda=2"],
            "objective has no field 'lamda'. SRT has: attack, lam",
        ),
        (["train", "digits_srt", "lam"], "Expected PATH=VALUE, got 'lam'"),
        (["train", "digits_srt", "objective.lam=-1"], "Expected lam >= 0, got lam=-1.0"),
        (["train", "digits_srt", "--steps=0"], "Expected num_steps >= 1"),
        (["train", "digits_srt", "model.num_classes=7", "--devices=1"], "add model.num_classes=10"),
        (["train", "digits_srt", "data.num_labelled=5000", "--devices=1"], "5000"),
        (["train", "digits_srt", "data.dataset=folder:{tmp}/absent", "--devices=1"], "{tmp}/absent"),
        (["train", "digits_srt", "data.dataset=npz:{tmp}/absent.npz", "--devices=1"], "{tmp}/absent.npz"),
        (["train", "digits_srt", "--devices=4"], "which 4 devices do not divide. Nearest that"),
        (["train", "digits_srt", "--devices=64"], "num_devices <= 4"),
        (["train", "digits_srt", "--devices=1", "--init-from={tmp}/absent"], "no checkpoint at {tmp}/absent"),
        (["train", "mnist_srt", "--data-dir={tmp}", "--devices=1"], "jaxrobust data prepare mnist"),
        (["evaluate", "{tmp}/absent"], "There is no run at {tmp}/absent. Train one: jaxrobust train NAME"),
        (["evaluate", "{tmp}"], "{tmp} is not a run: it has no config.json"),
        (["predict", "{tmp}/absent", "x.png"], "There is no run at {tmp}/absent"),
        (["export", "{tmp}/absent", "--out={tmp}/out"], "There is no run at {tmp}/absent"),
        (["data", "info", "npz:{tmp}/absent.npz"], "{tmp}/absent.npz"),
        (["data", "info", "mnist", "--data-dir={tmp}"], "jaxrobust data prepare mnist"),
        (["data", "export", "digits", "{tmp}/digits.zip"], "ends in .npz"),
        (["data", "prepare", "digits"], "needs no preparing"),
        (["reproduce", "table_99"], "Unknown reproduction 'table_99'. Known: digits_demo, face-arms"),
        (["reproduce", "srt_mnist", "--only=sound"], "Unknown part 'sound'. Known: pixels, spatial"),
        (["reproduce", "digits_demo", "--only=pixels"], "digits_demo takes no --only"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_a_mistake_is_one_sentence_and_exit_code_1(arguments, message, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert code == 1
    assert message.format(tmp=tmp_path) in err
    assert err.startswith("Error: ") and err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "{run}", "--attacks=pdg"], "Unknown attack 'pdg'. Known: none, FGSM, PGD"),
        (["evaluate", "{run}", "--attacks=,"], "Expected at least one name"),
        (["evaluate", "{run}", "--attacks=pgd>cw"], "C&W looks at any distance"),
        (["evaluate", "{run}", "--attacks=pgd:target=best"], "Unknown target 'best'. Known: least_likely"),
        (["evaluate", "{run}", "--eps-l0=0"], "Expected eps_l0 >= 1"),
        (["evaluate", "{run}", "--adversarial={tmp}/absent.npz"], "no adversarial images at {tmp}/absent"),
        (["evaluate", "{run}", "--adversarial={tmp}/other.npz"], "holds no adversarial images"),
        (
            ["evaluate", "{run}", "--adversarial={tmp}/other.npz", "--eps=0.1", "--attacks=pgd"],
            "leave out --attacks, --eps",
        ),
        (["evaluate", "{run}", "--attacks=pgd:stepz=3"], "Unknown parameter 'stepz=3'"),
        (["evaluate", "{run}", "--eps=-1"], "Expected eps > 0"),
        (["evaluate", "{run}", "--num=0"], "Expected num >= 1"),
        (["evaluate", "{run}", "--dataset=npz:{tmp}/other.npz"], "the model takes [8, 8, 1]"),
        (["export", "{run}", "--out={run}"], "is not empty. Export into another folder"),
        (["export", "{run}", "--out={tmp}/out", "--report={tmp}/absent"], "There is no report {tmp}/absent"),
        (["export", "{run}", "--out={tmp}/out", "--report={tmp}", "--num=3"], "leave num out"),
        (["predict", "{run}", "{tmp}/absent.png"], "There is no image {tmp}/absent.png"),
        (["predict", "{run}", "{tmp}/broken.png"], "{tmp}/broken.png: cannot be read as an image"),
        (
            ["predict", "{run}", "{tmp}/clear.png"],
            "{tmp}/clear.png: cannot be read as an image: has transparent",
        ),
        (["predict", "{run}", "{tmp}/large.png"], "{tmp}/large.png is 9x5 pixels, the model takes 8x8"),
        (["train", "digits_srt", "--run-dir={run}", "--devices=1"], "another configuration"),
        (["train", "digits_srt", "--run-dir={run}", "--no-resume"], "holds a run already"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_a_mistake_with_a_run_is_one_sentence_and_exit_code_1(
    finished, arguments, message, command, tmp_path
):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    Image.fromarray(np.zeros((5, 9), np.uint8)).save(tmp_path / "large.png")
    Image.new("RGBA", (8, 8)).save(tmp_path / "clear.png")
    labels = np.arange(4, dtype=np.uint8) % 2
    images = np.zeros((4, 6, 6), np.uint8)
    np.savez(
        tmp_path / "other.npz",
        train_images=images, train_labels=labels, test_images=images, test_labels=labels,
    )  # fmt: skip
    code, _, err = command(*(argument.format(run=finished, tmp=tmp_path) for argument in arguments))
    assert code == 1
    assert message.format(tmp=tmp_path) in err
    assert err.startswith("Error: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["trian"],
        ["train", "digits_srt", "--stepz=3"],
        ["predict", "run"],
        ["export", "run"],
        ["list", "cats"],
        ["predict", "run", "x.png", "--top=0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments, command):
    code, _, err = command(*arguments)
    assert code == 2
    assert "Usage: jaxrobust" in err


def test_a_file_is_no_folder_for_a_run(command, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = command("train", "digits_srt", "--run-dir", tmp_path / "file")
    assert code == 2
    assert f"'{tmp_path / 'file'}' is a file" in err


def test_a_corrupt_configuration_is_named(command, tmp_path):
    (tmp_path / "config.json").write_text("{")
    code, _, err = command("evaluate", tmp_path)
    assert code == 1
    assert f"{tmp_path / 'config.json'} is not valid JSON" in err


def test_debug_shows_the_traceback(capsys):
    with pytest.raises(ValueError, match="Unknown experiment 'digits_best'"):
        main(["train", "digits_best", "--debug"])


@pytest.mark.parametrize(
    "name", ["", "train", "evaluate", "predict", "export", "data", "data prepare", "reproduce", "list"]
)
def test_every_command_has_help_with_an_example(name, command):
    code, out, _ = command(*name.split(), "--help")
    assert code == 0
    assert "Usage: jaxrobust" in out
    assert name in ("list", "data") or "jaxrobust " in out.partition("Options:")[0].partition("\n")[2]


def test_help_does_not_import_jax():
    code = "import sys; from jaxrobust.cli import cli; cli.main(['--help'], standalone_mode=False); "
    code += "sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("attacks", ["pgd", "mi_fgsm", "GridAdv.R", "--attacks cw_ball", "The margin loss of C&W"]),
        ("suites", ["table3", "table6", "autoattack", "composite", "pgd>grid_adv>colour"]),
        ("objectives", ["standard", "at", "rt", "srt", "uat", "rst", "klr"]),
        ("models", ["small_cnn", "tiny_cnn", "wrn"]),
        ("datasets", ["digits", "orl", "folder:PATH", "npz:PATH"]),
        ("neighbourhoods", ["linf", "l2", "rotation_translation"]),
        ("experiments", ["digits_srt", "mnist1k_rt_full", "cifar10_spatial_klr", "digits_uat"]),
        ("reproductions", ["digits_demo", "srt_mnist"]),
    ],
)
def test_list_names_what_there_is(kind, names, command):
    code, out, _ = command("list", kind)
    assert code == 0
    for name in names:
        assert name in out


def test_a_set_is_described_and_exported(command, tmp_path):
    code, out, _ = command("data", "info", "digits")
    assert code == 0 and "8, 8, 1" in out
    target = Path(tmp_path) / "digits.npz"
    assert command("data", "export", "digits", target)[0] == 0
    code, out, _ = command("data", "info", f"npz:{target}")
    assert code == 0 and "8, 8, 1" in out
