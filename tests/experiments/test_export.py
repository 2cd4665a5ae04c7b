"""An exported model: its program beside the run's own, its weights, its card, and what is refused."""

import dataclasses
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrobust
from jaxrobust import data, evaluation, experiments, models
from jaxrobust.attacks import PGD
from jaxrobust.experiments import Run, _card, _program, export_run, load_export
from jaxrobust.models import MODELS, PreActResNet18, Precision, WideResNet
from jaxrobust.neighbourhoods import LInf

ROOT = Path(__file__).resolve().parents[2]
ATTACKS = ("none", "fgsm")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Digits by a net of random weights, in a folder without checkpoints; exporting asks for no training."""
    experiment = experiments.apply_overrides(experiments.get("digits_srt"), ["model.widths=4,8"])
    model = models.build(experiment.model, (8, 8, 1))
    params, stats = jax.tree.map(np.asarray, model.init(jax.random.key(0)))
    names = tuple(f"digit {i}" for i in range(10))
    folder = tmp_path_factory.mktemp("runs") / "digits_run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"experiment": {}, "init_from": None}))
    (folder / "result.json").write_text(json.dumps({"steps": 600, "seconds": 12.5}))
    return Run(
        folder=folder, experiment=experiment, model=model, params=params, stats=stats, step=600,
        class_names=names, validation={"accuracy": 0.5},
        fingerprint=data.load("digits", test_fraction=0.4).fingerprint,
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    return export_run(run, folder, attacks=ATTACKS, num=20, batch_size=20)


@pytest.fixture(scope="module")
def images():
    return data.load("digits").test.images[:250].astype(np.float32) / 255


def evaluated(run, seed):
    """As exporting evaluates, so that the programs are compiled."""
    return experiments.evaluate_run(
        run, attacks=ATTACKS, num=20, batch_size=20, seed=seed, precision=Precision.HIGHEST
    )


def raw(folder):
    return jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))


@pytest.mark.parametrize("rows", [1, 3, 250])
def test_the_program_gives_the_logits_of_the_run(rows, run, exported, images):
    found = exported.logits_fn(images[:rows])
    assert found.shape == (rows, 10) and found.dtype == jnp.float32
    np.testing.assert_allclose(found, run.logits_fn(images[:rows]), atol=1e-5)


@pytest.mark.parametrize(("platform", "index"), [("cpu", 0), ("cuda", 1), ("tpu", 2)])
def test_one_file_serves_every_platform_with_its_own_convolution(platform, index, exported):
    """Lowered for a platform, the program gets that platform's number, by which it chooses its forms."""
    program = raw(exported.folder)
    assert program.platforms == ("cpu", "cuda", "tpu") and program.has_vjp()
    image = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    text = jax.export.export(jax.jit(program.call), platforms=[platform])(image).mlir_module()
    assert "stablehlo.convolution" in text and "stablehlo.case" in text
    assert f"stablehlo.constant dense<{index}> : tensor<i32>" in text.partition("call @")[0]
    assert "custom_call" not in text.replace("custom_call @shape_assertion", "")


def test_an_attack_finds_the_same_on_the_file_as_on_the_run(run, exported, images):
    x = images[:20]
    y = run.logits_fn(x).argmax(-1)
    pgd = PGD(neighbourhood=LInf(eps=0.15), steps=5, step_size=0.25, restarts=2)
    own = jaxrobust.attack(pgd, run.logits_fn, x, y, key=jax.random.key(1))
    result = jaxrobust.attack(pgd, raw(exported.folder).call, x, y, key=jax.random.key(1))
    assert 0 < result.found.sum() < len(y)
    np.testing.assert_array_equal(result.found, own.found)
    np.testing.assert_allclose(result.image, own.image, atol=1e-5)


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location(
        "use_exported_model", ROOT / "examples/use_exported_model.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_reads_it_without_this_library(run, exported, example, images, tmp_path):
    np.save(tmp_path / "images.npy", images[:7])
    script, file = ROOT / "examples/use_exported_model.py", tmp_path / "images.npy"
    code = (
        "import runpy, sys; sys.modules.update(jaxrobust=None, flax=None, optax=None); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    line = [sys.executable, "-I", "-c", code, script, exported.folder, file]
    ended = subprocess.run(list(map(str, line)), capture_output=True, text=True, cwd="/")
    assert ended.returncode == 0, ended.stderr
    own = run.logits_fn(images[:7])
    classes = ", ".join(run.class_names[int(i)] for i in own.argmax(-1))
    assert f"classes: {classes}\n" in ended.stdout
    assert f"{models.num_params(run.model):,} parameters" in ended.stdout
    restored = example.weights(exported.folder)
    assert list(restored) == ["params"]
    jax.tree.map(np.testing.assert_array_equal, restored["params"], run.params)


def test_no_path_of_this_machine_is_released(run, exported, tmp_path_factory):
    local = [
        str(path).encode() for path in (ROOT, tmp_path_factory.getbasetemp(), run.folder.parent, Path.home())
    ]
    for file in (path for path in exported.folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        assert not any(path in content for path in local), file


def test_the_card_has_the_facts(run, exported):
    card = json.loads((exported.folder / "model_card.json").read_text())
    assert card["data"]["class_names"] == list(run.class_names) == list(exported.class_names)
    assert card["data"]["image_shape"] == [8, 8, 1] == list(exported.image_shape)
    split = card["split"]
    assert (split["labelled"], split["unlabelled"], split["validation"]) == (50, 878, 150)
    assert sum(split["images_per_step"].values()) == run.experiment.batch_size
    assert card["objective"]["config"] == experiments.to_json(run.experiment.objective)
    assert [one["config"] for one in card["objective"]["neighbourhoods"]] == [{"kind": "linf", "eps": 0.15}]
    assert "at most 0.15 of the range [0, 1]" in card["objective"]["neighbourhoods"][0]["words"]
    assert card["threat_model"]["radii"]["max_angle"] == {"value": 10.0, "unit": "degrees, either way"}
    assert card["training"]["checkpoint_step"] == 600 and card["training"]["finished"]
    assert {"jax", "jaxlib", "flax", "optax", "jaxrobust"} <= card["versions"].keys()
    assert card["program"]["largest_difference_from_run"] < 1e-5
    assert "6 months" in card["program"]["readable"]
    written = {
        path.relative_to(exported.folder).as_posix() for path in exported.folder.rglob("*") if path.is_file()
    }
    assert set(card["files"]) == written - {"model_card.json"}


def test_its_accuracy_is_that_of_an_evaluation(run, exported):
    report = evaluated(run, seed=0)
    found = exported.card["evaluation"]
    assert found["n"] == 20 and found["own_data"] and found["precision"] == "highest"
    assert [row["attack"] for row in found["attacks"]] == ["none", "FGSM"]
    for row in found["attacks"]:
        for name in ("accuracy", "accuracy_low", "accuracy_high", "radius"):
            assert row[name] == report.row(row["attack"])[name]
    assert found["worst"]["accuracy"] == report.row("worst")["accuracy"]
    assert [one["check"] for one in found["trust"]] == [verdict.check for verdict in report.verdicts]


def test_its_limits_follow_from_its_facts(run, exported):
    text = " ".join(exported.card["limits"])
    assert "20 test images of digits and of one run (seed 0)" in text
    [missing] = [line for line in exported.card["limits"] if line.startswith("Not run")]
    assert "AutoAttack" in missing and "GridAdv.R" in missing and "FGSM" not in missing.replace("MI-FGSM", "")
    assert "Training was not finished" not in text
    page = (exported.folder / "model_card.md").read_text()
    assert all(line in page for line in (*exported.card["limits"], *exported.card["intended_use"]))
    row = exported.card["evaluation"]["attacks"][1]
    assert f"| FGSM | ℓ∞ 0.15 | {100 * row['accuracy']:.1f} |" in page
    assert max(map(len, page.splitlines())) < 2000 and len(page.splitlines()) < 70


def test_nothing_measured_is_said_and_so_is_an_unfinished_run(run, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    other = dataclasses.replace(run, folder=bare, step=120, fingerprint="another")
    found = export_run(other, tmp_path / "out", evaluate=False, gradients=False)
    assert found.card["evaluation"] is None and found.card["split"]["unlabelled"] is None
    text = " ".join(found.card["limits"])
    assert "No accuracy was measured" in text and "Not run: FGSM, PGD" in text
    assert "Training was not finished: the weights are of step 120 of 600." in text
    page = (found.folder / "model_card.md").read_text()
    assert "Not measured." in page and "without gradients" in page and "the remaining unlabelled" in page
    assert not raw(found.folder).has_vjp()
    # Written over, nothing of the export before is left.
    (found.folder / "checkpoint" / "stray").touch()
    with pytest.raises(ValueError, match=r"out is not empty. Export into another folder, or replace it"):
        export_run(other, found.folder, evaluate=False)
    again = export_run(other, found.folder, evaluate=False, gradients=False, force=True)
    assert not (again.folder / "checkpoint" / "stray").exists()


def test_a_teacher_is_named(run, exported):
    other = dataclasses.replace(run, experiment=experiments.get("digits_rst"))
    card = _card.card(other, program=exported.card["program"], evaluation=None, data_dir=None)
    text = " ".join(card["intended_use"])
    assert "Robust self-training (RST)" in text and "that a teacher gave them (Standard, " in text
    assert json.loads(json.dumps(card))["experiment"]["teacher"]["num_steps"] > 0


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    """What `jaxrobust evaluate` writes, without its page."""
    folder = tmp_path_factory.mktemp("report")
    found = evaluated(run, seed=3)
    evaluation.write_report(found, folder, title="", facts={"checkpoint": "step 600"})
    return folder


def test_accuracy_can_come_from_a_report(run, report):
    found = _card.reported(run, report)
    assert found == _card.reported(run, report / "report.json") and found["seed"] == 3
    assert found == json.loads(json.dumps(_card.measured(run, evaluated(run, seed=3))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "another"}, "reports on 'digits_run', not on 'another'. Evaluate this one"),
        ({"step": 300}, "measured step 600, not step 300"),
        ({"source": "digits_at"}, "measured stored images of 'digits_at', no attacks"),
        ({"text": "{"}, "is no report: `jaxrobust evaluate` writes one as report.json"),
        ({"text": "[]"}, "is no report"),
        ({"text": '{"facts": {}, "models": [{"meta": {"model": "digits_run"}}]}'}, "is no report"),
        ({"text": None}, "There is no report"),
    ],
)
def test_a_report_of_something_else_is_refused(changes, message, run, report, tmp_path):
    stored = json.loads((report / "report.json").read_text())
    if "source" in changes:
        stored["models"][0]["meta"]["source"] = changes["source"]
    file = tmp_path / "report.json"
    text = changes.get("text", json.dumps(stored))
    if text is not None:
        file.write_text(text)
    folder = run.folder.with_name(changes.get("name", run.folder.name))
    other = dataclasses.replace(run, folder=folder, step=changes.get("step", run.step))
    with pytest.raises(ValueError) as caught:
        export_run(other, tmp_path / "out", report=file)
    assert message in str(caught.value) and not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_refused_at_once(run, report, tmp_path):
    random = dataclasses.replace(run, model=run.model._replace(random=True))
    with pytest.raises(ValueError, match="Expected a model that draws nothing in eval mode"):
        export_run(random, tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file; give the export a folder"):
        export_run(run, tmp_path / "file")
    with pytest.raises(ValueError, match="A report has its own num; leave num out"):
        export_run(run, tmp_path / "out", report=report, num=3)
    with pytest.raises(ValueError, match="Without evaluation there are no attacks; leave attacks out"):
        export_run(run, tmp_path / "out", evaluate=False, attacks=["none"])
    large = {"weights": jax.ShapeDtypeStruct((2**28,), jnp.float32)}
    with pytest.raises(ValueError, match=r"at most 0.99 GiB, which the file holds twice.*--no-gradients"):
        _program._check_size(jax.tree.map(_Large, large), 2)


class _Large:
    """So many bytes, without having them."""

    def __init__(self, shape):
        self.nbytes = shape.size * 4


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: shutil.rmtree(out), "There is no folder"),
        (lambda out: (out / "model_card.json").unlink(), "has no model_card.json"),
        (lambda out: (out / "model_card.json").write_text("{"), "is no card of `jaxrobust export`"),
        (lambda out: (out / "model_card.json").write_text('{"format": "2"}'), "its format is '2'"),
        (lambda out: (out / "model.stablehlo").unlink(), "model.stablehlo is missing; the card names it"),
        (lambda out: (out / "model.stablehlo").write_bytes(b"x"), "model.stablehlo is not what was exported"),
        (lambda out: (out / "checkpoint/_METADATA").unlink(), "_METADATA is missing"),
        (lambda out: change(out, lambda card: card["files"].update({"../x": ""})), "fields are not those"),
        (lambda out: change(out, lambda card: card.pop("data")), "is no card of `jaxrobust export`: 'data'"),
        (lambda out: forge(out), "JAX 0.1.2: JAX .* cannot read it .* jax.export promises"),
    ],
)
def test_a_damaged_or_foreign_export_is_named(spoil, message, exported, tmp_path):
    out = shutil.copytree(exported.folder, tmp_path / "out")
    assert load_export(out).card == exported.card
    spoil(out)
    with pytest.raises(ValueError, match=message):
        load_export(out)


def change(out, change_fn):
    card = json.loads((out / "model_card.json").read_text())
    change_fn(card)
    (out / "model_card.json").write_text(json.dumps(card))


def forge(out):
    """A program that JAX cannot read, under a card that knows it."""
    (out / "model.stablehlo").write_bytes(b"what another version wrote")
    digest = hashlib.sha256(b"what another version wrote").hexdigest()
    change(
        out,
        lambda card: (
            card["files"].update({"model.stablehlo": digest}),
            card["versions"].update(jax="0.1.2"),
        ),
    )


def test_sets_at_a_path_go_by_their_last_name():
    assert _card._public({"a": [{"dataset": "folder:/home/me/photos", "size": 3}]}) == {
        "a": [{"dataset": "folder:photos", "size": 3}]
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_net_exports_with_its_gradients_and_statistics(name, run, example, tmp_path):
    small = {"preact_resnet18": PreActResNet18(width=4), "wrn": WideResNet(depth=10, widen_factor=1)}
    module = small.get(name) or MODELS[name]()
    model = models.build(module, module.native_shape)
    params, stats = model.init(jax.random.key(0))
    experiment = dataclasses.replace(run.experiment, model=module)
    other = dataclasses.replace(run, experiment=experiment, model=model, params=params, stats=stats)
    found = export_run(other, tmp_path / "out", evaluate=False)
    x = jax.random.uniform(jax.random.key(1), (3, *model.image_shape))

    def gradient(logits_fn):
        return jax.jit(jax.grad(lambda x: logits_fn(x)[:, 0].sum()))(x)

    np.testing.assert_allclose(gradient(found.logits_fn), gradient(other.logits_fn), atol=1e-4)
    variables = example.weights(found.folder)
    assert ("batch_stats" in variables) == bool(stats)
    outputs = module.apply(variables, x, train=False)
    np.testing.assert_allclose(outputs.logits, found.logits_fn(x), atol=1e-4)
