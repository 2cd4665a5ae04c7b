"""`jaxrobust serve`: runs and exports as what is served, and every mistake a sentence."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from jaxrobust import _cli_served, experiments, serving
from jaxrobust.cli import main
from jaxrobust.data import load_identities
from jaxrobust.experiments import load_run
from jaxrobust.neighbourhoods import LInf, RotationTranslation
from jaxrobust.serving import programs
from jaxrobust.serving.images import decode
from jaxrobust.training import Runtime
from tests.serving.service_under_test import SMALL, digits, encode

ONE = Runtime(num_devices=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two steps."""
    changes = [
        "num_steps=2",
        "data.num_validation=20",
        "model.widths=4,8",
        "validate_every=0",
        "batch_size=16",
    ]
    experiment = experiments.apply_overrides(experiments.get("digits_standard"), changes)
    experiment = dataclasses.replace(experiment, validation_attack=None)
    found = tmp_path_factory.mktemp("runs") / "plain"
    experiments.train(experiment, found, runtime=ONE, progress=False)
    return found


@pytest.fixture
def command(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        return stop.value.code, capsys.readouterr().err

    return run


def test_answers_are_those_of_predict(folder, tmp_path):
    """The same files, of another size, with a photo's orientation: the same pixels and distribution."""
    files = []
    for i, image in enumerate(digits(5)):
        large = np.kron(image[..., 0], np.ones((7, 5), np.uint8))
        files.append(tmp_path / f"{i}")
        files[-1].write_bytes(encode(large, "JPEG" if i % 2 else "PNG"))
    expected = experiments.predict(load_run(folder), files, resize=True)
    served = _cli_served.load(folder)
    loaded = programs.load(served, SMALL)
    pixels = [decode(file.read_bytes(), served.image_shape, SMALL) for file in files]
    for rows in ([row] for row in pixels):
        (answer,) = loaded.run("forward", [programs.row(one) for one in rows])
    answers = loaded.run("forward", [programs.row(one) for one in pixels[:4]])
    answers += loaded.run("forward", [programs.row(pixels[4])])
    for one, (answer,) in zip(expected, answers):
        assert served.class_names[int(answer.argmax())] == one.label
        np.testing.assert_allclose(answer, list(one.distribution.values()), atol=1e-6)


def test_the_service_cuts_a_margin_off_as_training_does(face_run, monkeypatch, tmp_path):
    margin = (0.2, 0.1, 0.15, 0.15)
    config = dataclasses.replace(face_run.experiment.data, margin=margin)
    run = dataclasses.replace(face_run, experiment=dataclasses.replace(face_run.experiment, data=config))
    height, width, channels = run.model.image_shape
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        pixels = np.random.default_rng(len(name)).integers(0, 256, (100, 80), dtype=np.uint8)
        (tmp_path / name / "face.png").write_bytes(encode(pixels))
    people = load_identities(f"folder:{tmp_path}", size=(height, width), channels=channels, margin=margin)
    monkeypatch.setattr(experiments, "load_run", lambda path, which: run)
    served = _cli_served.load(run.folder, threshold=0.3)
    assert served.margin == margin
    upload = (tmp_path / "one" / "face.png").read_bytes()
    cut, whole = (decode(upload, served.image_shape, SMALL, margin=one) for one in (served.margin, None))
    np.testing.assert_array_equal(cut, people.images[list(people.names).index("one")])
    assert (cut != whole).any()


def test_a_run_says_who_it_is(folder):
    served = _cli_served.load(folder)
    assert served.id.startswith("plain@2-") and served.threshold is None
    assert served.neighbourhood is None, "Standard training has none."
    assert served.card["training"]["finished"] and served.card["data"]["name"] == "digits"
    assert "No accuracy was measured" in " ".join(served.card["limits"])
    json.dumps(served.card, allow_nan=False)
    blown_up = dataclasses.replace(load_run(folder), validation={"loss": float("nan"), "accuracy": 0.1})
    found = _cli_served._card_of(blown_up, None)
    assert found["training"]["validation"] == {"loss": None, "accuracy": 0.1}
    assert _cli_served.load(folder).id == served.id
    given = _cli_served.load(folder, stability="rotation_translation(max_angle=10, max_shift=1)")
    assert given.neighbourhood == RotationTranslation(max_angle=10, max_shift=1)
    assert "turned by at most 10 degrees" in given.neighbourhood_words


def test_another_checkpoint_is_another_model(folder, tmp_path):
    other = tmp_path / "plain"
    shutil.copytree(folder, other)
    experiment = dataclasses.replace(load_run(folder).experiment, seed=5)
    shutil.rmtree(other)
    experiments.train(experiment, other, runtime=ONE, progress=False)
    assert _cli_served.load(other).id != _cli_served.load(folder).id
    first, second = (_cli_served.load(one).outputs_fn.func for one in (folder, other))
    assert first == second and hash(first) == hash(second), "Equal nets share their programs."


def test_an_export_is_served_too(folder, tmp_path):
    run = load_run(folder)
    objective = experiments.get("digits_srt").objective
    run = dataclasses.replace(run, experiment=dataclasses.replace(run.experiment, objective=objective))
    experiments.export_run(run, tmp_path / "out", evaluate=False)
    served = _cli_served.load(tmp_path / "out")
    assert served.neighbourhood == LInf(eps=0.15) and "at most 0.15" in served.neighbourhood_words
    assert served.card["format"] == "jaxrobust model card 1"
    image = programs.row(digits(1)[0])
    (answer,), (expected,) = (
        programs.load(one, SMALL).run("forward", [image])[0] for one in (served, _cli_served.load(folder))
    )
    np.testing.assert_allclose(answer, expected, atol=1e-6)
    with pytest.raises(ValueError, match="leave --threshold and --gallery out"):
        _cli_served.load(tmp_path / "out", threshold=0.5)


@pytest.fixture(scope="module")
def face_run(tmp_path_factory):
    """A face model of random weights, as a run that is loaded."""
    import jax

    from jaxrobust import models

    small = models.FaceCNN(num_classes=24, widths=(8, 8, 8, 8), embedding_size=16)
    experiment = dataclasses.replace(experiments.get("face_orl_gated"), model=small)
    model = models.build(experiment.model, (56, 46, 1))
    params, stats = jax.tree.map(np.asarray, model.init(jax.random.key(0)))
    folder = tmp_path_factory.mktemp("faces") / "face"
    folder.mkdir()
    names = tuple(f"s{i}" for i in range(model.num_classes))
    return experiments.Run(
        folder=folder,
        experiment=experiment,
        model=model,
        params=params,
        stats=stats,
        step=7,
        class_names=names,
    )


def test_a_face_run_takes_its_threshold_from_its_verification(face_run, monkeypatch, tmp_path):
    monkeypatch.setattr(experiments, "load_run", lambda path, which: face_run)
    with pytest.raises(ValueError, match="--task verification; or give it: --threshold"):
        _cli_served.load(face_run.folder)
    assert _cli_served.load(face_run.folder, threshold=0.3).threshold == 0.3
    file = face_run.folder / "verification" / "verification.json"
    file.parent.mkdir()
    rows = [{"fold": 0, "platt": {"a": 9.0, "tau": 0.42}}]
    written = {"facts": {"checkpoint": "step 7"}, "clean": {"folds": rows}}
    file.write_text(json.dumps(written))
    served = _cli_served.load(face_run.folder)
    assert served.threshold == 0.42 and served.card["verification"]["threshold"] == 0.42
    assert "not of the run" not in served.card["limits"][-1]
    for wrong in ({**written, "facts": {"checkpoint": "step 6"}}, {**written, "clean": {"folds": []}}, {}):
        file.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="--threshold COSINE"):
            _cli_served.load(face_run.folder)
    people = tmp_path / "people"
    for name, tone in (("ann", 50), ("bob", 200)):
        (people / name).mkdir(parents=True)
        for i in range(2):
            image = np.full((70, 60), tone + i, np.uint8)
            (people / name / f"{i}.png").write_bytes(encode(image))
    gallery = _cli_served.load(face_run.folder, threshold=0.3, gallery=people).gallery
    assert {name: images.shape for name, images in gallery.items()} == {
        "ann": (2, 56, 46, 1), "bob": (2, 56, 46, 1)
    }  # fmt: skip
    assert gallery["bob"][1].max() == 201
    shutil.rmtree(people / "bob")
    assert set(_cli_served.load(face_run.folder, threshold=0.3, gallery=people).gallery) == {"ann"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-batch", "0"], "max_batch >= 1"),
        (["--max-queue", "1"], "A full batch must fit the queue"),
        (["--threshold", "0.5"], "verifies no faces"),
        (["--stability", "linf"], "--stability"),
        (["--stability", "nothing(eps=1)"], "--stability"),
        (["--stability", "masked(neighbourhood=linf(eps=0.1))"], "needs a region"),
    ],
)
def test_a_mistake_is_a_sentence(folder, command, monkeypatch, options, words):
    monkeypatch.setattr(serving, "serve", lambda *args, **more: pytest.fail("It serves."))
    code, error = command("serve", folder, *options)
    assert code == 1 and words in error and "Traceback" not in error


def test_a_run_that_is_not_there_is_a_sentence(command, tmp_path):
    code, error = command("serve", tmp_path / "none")
    assert code == 1 and "There is no run at" in error


def test_a_taken_port_is_a_sentence(folder, command):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, error = command("serve", folder, "--port", taken.getsockname()[1])
    assert code == 1 and "already in use" in error and "127.0.0.1:" in error
