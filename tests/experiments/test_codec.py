"""Every configuration survives JSON, and a damaged one is refused with the place and the names there are."""

import dataclasses
import json
from pathlib import Path

import pytest

from jaxrobust.attacks import MIFGSM, PGD, GridSearch, RandomSearch, Sequence, identity_start, near_start
from jaxrobust.evaluation import ThreatModel
from jaxrobust.experiments import _components, codec, registry, srt_mnist
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.experiments.registry import EXPERIMENTS
from jaxrobust.inversion import Features, Noisy, Quantised, TopK, TVInversion, one_minus_cosine
from jaxrobust.models import MODELS, Decoder
from jaxrobust.neighbourhoods import L2, Compose, LInf, RotationTranslation
from jaxrobust.numerics import losses
from jaxrobust.numerics.margins import ArcFace
from jaxrobust.objectives import MTER, SRT, FaceGated, Gate, Standard, distribution
from jaxrobust.training import SCHEDULES
from jaxrobust.types import Attack, Objective

BALL = LInf(eps=8 / 255)
MOVES = RotationTranslation(max_angle=30.0, max_shift=3.0)


@pytest.mark.parametrize("name", sorted(EXPERIMENTS))
def test_every_named_experiment_survives_json(name):
    experiment = EXPERIMENTS[name]
    text = codec.dumps(experiment)
    again = codec.loads(text)
    assert again == experiment
    assert hash(again) == hash(experiment)
    assert codec.dumps(again) == text


@pytest.mark.parametrize(
    "attack",
    [
        PGD(neighbourhood=BALL, loss_fn=losses.margin, start_fn=near_start(0.001), steps=3),
        PGD(neighbourhood=L2(eps=1.0), start_fn=identity_start, keep_worst=False, restarts=4),
        MIFGSM(neighbourhood=BALL),
        RandomSearch(neighbourhood=Compose(parts=(MOVES, BALL)), num=10),
        GridSearch(neighbourhood=MOVES, granularity=(5, 5, 31)),
        Sequence(stages=(GridSearch(neighbourhood=MOVES), PGD(neighbourhood=BALL))),
    ],
    ids=lambda attack: type(attack).__name__,
)
def test_attacks_survive_json_with_exact_floats(attack):
    text = json.dumps(codec.to_json(attack))
    assert codec.from_json(Attack, json.loads(text)) == attack


def test_functions_are_saved_by_name():
    objective = SRT(
        attack=PGD(neighbourhood=BALL), robust_loss_fn=losses.kl, target_fn=distribution, lam=0.2, warmup=0.4
    )
    saved = codec.to_json(objective)
    assert saved["robust_loss_fn"] == {"fn": "kl"}
    assert saved["target_fn"] == {"fn": "distribution"}
    assert codec.from_json(Objective, saved) == objective


@pytest.mark.parametrize("kind", sorted(_components.REGISTRIES))
def test_every_registered_name_is_found_back(kind):
    for name, member in _components.REGISTRIES[kind].items():
        assert _components.find(name, kind) is member
        assert _components.by_name()[_components.name_of(member)] is member


@pytest.mark.parametrize("name", sorted({**MODELS, **SCHEDULES}))
def test_models_and_schedules_with_defaults_survive_json(name):
    value = {**MODELS, **SCHEDULES}[name]()
    assert codec.from_json(object, json.loads(json.dumps(codec.to_json(value)))) == value


def test_a_loss_with_a_margin_is_a_component_among_the_losses():
    objective = Standard(loss_fn=ArcFace(s=16.0, m=0.3))
    saved = codec.to_json(objective)
    assert saved["loss_fn"] == {"kind": "arcface", "s": 16.0, "m": 0.3, "easy_margin": False}
    assert codec.from_json(Objective, saved) == objective


@pytest.mark.parametrize("gate", [None, Gate(measure="val_tar", threshold=0.5, latch=True)])
def test_a_gate_and_its_regulariser_survive_json(gate):
    objective = FaceGated(attack=PGD(neighbourhood=BALL), gate=gate, regulariser_fn=MTER(margin=0.1))
    saved = json.loads(json.dumps(codec.to_json(objective)))
    assert saved["regulariser_fn"] == {"kind": "mter", "margin": 0.1}
    assert gate is None or saved["gate"]["measure"] == "val_tar"
    assert codec.from_json(Objective, saved) == objective


def test_the_parts_of_a_privacy_audit_survive_json():
    features = Features(layer="logits", protections=(TopK(keep=3), Quantised(bits=4), Noisy(ratio=0.5)))
    method = TVInversion(steps=9, distance_fn=one_minus_cosine)
    for value in (features, method, Decoder(image_shape=(16, 16, 3), width=8)):
        assert codec.from_json(type(value), json.loads(json.dumps(codec.to_json(value)))) == value
    assert codec.to_json(features)["protections"][1] == {"kind": "quantised", "bits": 4}
    assert codec.to_json(method)["optimizer_fn"] == {"fn": "adam"}


def test_no_name_that_runs_were_saved_with_has_become_ambiguous():
    added = {"decoder", "protection", "distance", "image_optimizer"}
    registries = _components.REGISTRIES
    names = [name for kind in added for name in registries[kind]]
    assert not [name for name in names for kind in set(registries) - added if name in registries[kind]]


def test_an_unregistered_function_is_refused():
    with pytest.raises(ValueError, match="cannot be saved in a configuration"):
        codec.to_json(PGD(neighbourhood=BALL, loss_fn=lambda logits, target: logits[:, 0]))


def test_a_number_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="finite numbers only"):
        codec.to_json(float("nan"))


def _damaged(change):
    saved = codec.to_json(EXPERIMENTS["digits_srt"])
    change(saved)
    return saved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["objective"].update(kind="str"), r"Unknown component 'str'\. Known: .*srt"),
        (lambda s: s["objective"]["attack"].update(step=3), r"objective\.attack has no field 'step'.*steps"),
        (lambda s: s["objective"].update(lam=-1), r"objective: Expected lam >= 0"),
        (lambda s: s.update(batches="half"), r"batches: unknown value 'half'\. Known: mixed"),
        (lambda s: s.pop("num_steps"), r"Experiment also needs num_steps"),
        (lambda s: s["objective"]["loss_fn"].update(fn="ce"), r"Unknown component 'ce'"),
        (
            lambda s: s.update(objective={"kind": "linf", "eps": 0.1}),
            r"objective takes an objective \(at, face_gated, .*, trades, uat\), got the neighbourhood 'linf'",
        ),
        (lambda s: s.update(model=s["objective"]["attack"]), r"model takes a model .*got the attack 'pgd'"),
        (
            lambda s: s["objective"]["attack"].update(loss_fn={"kind": "linf", "eps": 1.0}),
            r"objective\.attack: loss_fn takes a loss \(.*\), got the neighbourhood 'linf'",
        ),
        (lambda s: s["objective"].update(attack=3), r"objective: attack takes an attack .*got 3"),
        (
            lambda s: s["objective"].update(
                attack={"kind": "sequence", "stages": [{"kind": "linf", "eps": 1}]}
            ),
            r"objective\.attack: stages takes an attack .*got the neighbourhood",
        ),
        (lambda s: s["data"].update(test_fraction=1.5), r"data: Expected 0 < test_fraction < 1"),
    ],
)
def test_a_damaged_configuration_is_refused_with_its_place(change, message):
    with pytest.raises(ValueError, match=message):
        codec.from_json(Experiment, _damaged(change))


def test_the_kind_asked_for_is_the_kind_that_comes():
    with pytest.raises(ValueError, match=r"takes an attack .*got the neighbourhood 'linf'"):
        codec.from_json(Attack, {"kind": "linf", "eps": 0.3})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": PGD(neighbourhood=BALL)}, "Expected model to be of the kind flax module"),
        ({"objective": MODELS["tiny_cnn"]()}, "Expected objective to be of the kind Objective"),
        ({"objective": BALL}, "Expected objective to be of the kind Objective"),
        ({"objective": SRT}, "Expected objective to be of the kind Objective"),
        ({"validation_attack": BALL}, "Expected validation_attack to be of the kind Attack"),
        ({"labelled_per_step": 0}, "labelled_per_step >= 1"),
    ],
)
def test_an_experiment_refuses_parts_of_another_kind(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(EXPERIMENTS["digits_srt"], **changes)


def test_text_that_is_not_json_is_refused():
    with pytest.raises(ValueError, match="not valid JSON"):
        codec.loads("{")


def test_a_later_field_is_left_out_at_its_default():
    ball = LInf(eps=0.1)
    assert "targeted" not in codec.to_json(PGD(neighbourhood=ball))
    assert codec.to_json(PGD(neighbourhood=ball, targeted=True))["targeted"] is True
    later = {"colours", "eps_l0", "eps_l2", "eps_linf", "lengths"}
    assert not later & set(codec.to_json(ThreatModel(eps=0.1)))
    told = ThreatModel(eps=0.1, eps_l2=1.0)
    assert codec.to_json(told)["eps_l2"] == 1.0
    assert codec.from_json(ThreatModel, codec.to_json(told)) == told


def test_how_a_run_is_judged_does_not_decide_its_training():
    one = registry.get("digits_srt")
    other = dataclasses.replace(one, attacks=("none",), threat=ThreatModel(eps=0.5), note="another")
    assert codec.training_json(one) == codec.training_json(other)
    assert codec.training_json(one) != codec.training_json(dataclasses.replace(one, num_steps=1))


def test_the_committed_results_are_recognised():
    """Other fields of attacks and threat models, whatever they are, make no result stale by themselves."""
    folder = Path(__file__).parents[2] / "docs" / "results" / "srt_mnist"
    keys = {json.loads(line)["key"] for line in (folder / "rows.jsonl").read_text().splitlines()}
    cells = srt_mnist.cells(("pixels",), (0, 1, 2), Path("nowhere"), 2000)
    assert {cell.key for cell in cells} <= keys
