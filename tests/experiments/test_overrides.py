"""Changes by path: values take the type of their field, mistakes list what there is."""

import pytest

from jaxrobust.attacks import MIFGSM, PGD, NearStart, RandomSearch
from jaxrobust.experiments import registry
from jaxrobust.experiments.experiment import BatchForm
from jaxrobust.experiments.overrides import apply_overrides
from jaxrobust.models import WideResNet
from jaxrobust.neighbourhoods import L2, LInf, RotationTranslation
from jaxrobust.numerics import losses
from jaxrobust.objectives import RT, SRT, Standard
from jaxrobust.training import Steps

BASE = registry.get("mnist1k_srt")


def change(*overrides):
    return apply_overrides(BASE, overrides)


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("num_steps=10", lambda e: e.num_steps, 10),
        ("num_steps=1e3", lambda e: e.num_steps, 1000),
        ("objective.lam=1", lambda e: e.objective.lam, 1.0),
        ("objective.attack.steps=10", lambda e: e.objective.attack.steps, 10),
        ("objective.attack.neighbourhood.eps=8/255", lambda e: e.objective.attack.neighbourhood.eps, 8 / 255),
        ("objective.attack.loss_fn=margin", lambda e: e.objective.attack.loss_fn, losses.margin),
        ("objective.attack.start_fn=near", lambda e: e.objective.attack.start_fn, NearStart()),
        (
            "objective.attack.start_fn=near(sigma=0.01)",
            lambda e: e.objective.attack.start_fn,
            NearStart(sigma=0.01),
        ),
        ("objective.joint_pass=true", lambda e: e.objective.joint_pass, True),
        ("batches=labelled_share", lambda e: e.batches, BatchForm.LABELLED_SHARE),
        ("data.num_unlabelled=none", lambda e: e.data.num_unlabelled, None),
        ("data.dataset=folder:/a b/c=d", lambda e: e.data.dataset, "folder:/a b/c=d"),
        ("data.size=32,32", lambda e: e.data.size, (32, 32)),
        ("data.size=8", lambda e: e.data.size, (8, 8)),
        ("attacks=none,fgsm", lambda e: e.attacks, ("none", "fgsm")),
        ("attacks=fgsm", lambda e: e.attacks, ("fgsm",)),
        ("attacks=('none', 'fgsm')", lambda e: e.attacks, ("none", "fgsm")),
        (
            "attacks=none,pgd:steps=9,restarts=5,PGD-40 (restarts=5)",
            lambda e: e.attacks,
            ("none", "pgd:steps=9,restarts=5", "PGD-40 (restarts=5)"),
        ),
        ("objective.attack.start_fn=near_start", lambda e: e.objective.attack.start_fn, NearStart()),
        (
            "objective.attack.start_fn=NearStart(sigma=0.01)",
            lambda e: e.objective.attack.start_fn.sigma,
            0.01,
        ),
        ("data.selection=first", lambda e: e.data.selection, "first"),
        ("optimizer.name=adamw", lambda e: e.optimizer.name, "adamw"),
        ("optimizer.clip=1", lambda e: e.optimizer.clip, 1.0),
        ("optimizer.schedule=steps", lambda e: e.optimizer.schedule, Steps()),
        (
            "optimizer.schedule=steps(boundaries=(0.5,0.75))",
            lambda e: e.optimizer.schedule.boundaries,
            (0.5, 0.75),
        ),
        ("model=wrn(depth=28)", lambda e: e.model, WideResNet(depth=28)),
        ("validation_attack=none", lambda e: e.validation_attack, None),
        ("augment.flip=true", lambda e: e.augment.flip, True),
    ],
)
def test_values_are_read_by_the_type_of_their_field(override, read, expected):
    found = read(change(override))
    assert found == expected
    assert type(found) is type(expected)


def test_an_objective_by_name_keeps_what_both_have():
    before = change("objective.lam=0.2").objective
    after = change("objective.lam=0.2", "objective=rt").objective
    assert isinstance(before, SRT) and isinstance(after, RT)
    assert (after.attack, after.lam, after.warmup) == (before.attack, 0.2, before.warmup)
    assert change("objective=standard").objective == Standard()


def test_an_attack_by_name_keeps_what_both_have():
    after = change("objective.attack=mi_fgsm").objective.attack
    assert isinstance(after, MIFGSM)
    assert after.neighbourhood == LInf(eps=0.3)
    assert change("objective.attack.neighbourhood=l2").objective.attack.neighbourhood == L2(eps=0.3)


def test_a_component_can_be_written_out():
    attack = change("objective.attack=pgd(neighbourhood=l2(eps=1), steps=7)").objective.attack
    assert attack == PGD(neighbourhood=L2(eps=1.0), steps=7)
    moves = "random_search(neighbourhood=rotation_translation(max_angle=30, max_shift=3), num=10)"
    expected = RandomSearch(neighbourhood=RotationTranslation(max_angle=30.0, max_shift=3.0), num=10)
    assert change(f"objective.attack={moves}").objective.attack == expected


def test_later_overrides_see_earlier_ones_and_the_base_is_untouched():
    after = change("model=wrn", "model.depth=28")
    assert after.model.depth == 28
    assert registry.get("mnist1k_srt").model.num_classes == BASE.model.num_classes == 10
    assert not hasattr(BASE.model, "depth")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_steps", r"Expected PATH=VALUE, got 'num_steps'"),
        ("=3", r"Expected PATH=VALUE"),
        ("lam=0.2", r"experiment has no field 'lam'\. Experiment has: data, model, objective"),
        ("objective.lamda=0.2", r"objective has no field 'lamda'\. SRT has: attack, lam"),
        ("objective.attack.step=3", r"objective\.attack has no field 'step'\. PGD has: neighbourhood, steps"),
        ("num_steps.x=3", r"num_steps is \d+ and has no fields"),
        ("num_steps=2.5", r"num_steps takes an integer, got 2\.5"),
        ("num_steps=many", r"num_steps takes an integer, got 'many'"),
        ("num_steps=0", r"num_steps: Expected num_steps >= 1"),
        ("num_steps=true", r"num_steps takes an integer, got True"),
        ("objective.lam=-1", r"objective\.lam: Expected lam >= 0, got lam=-1"),
        ("objective.joint_pass=1", r"takes true or false, got 1"),
        (
            "objective=sgd",
            r"objective: Unknown objective 'sgd'\. Known: at, face_gated, .*, rst, rt, srt, standard",
        ),
        ("objective.attack=grid2", r"Unknown attack 'grid2'\. Known: .*pgd"),
        ("objective.attack=3", r"objective\.attack takes a registered component, not 3"),
        (
            "objective.attack.neighbourhood=rotation_translation",
            r"also needs .*max_angle.*write objective\.attack",
        ),
        ("objective.attack=pgd(steps=3)", r"PGD also needs neighbourhood"),
        ("objective.attack=pgd(3)", r"cannot read the value"),
        ("objective.attack=__import__('os')", r"objective\.attack: "),
        ("batches=half", r"batches: unknown value 'half'\. Known: mixed, labelled_share, labelled"),
        ("data.selection=worst", r"Unknown selection 'worst'\. Known: first, random, stratified"),
        ("optimizer.name=lion", r"Unknown optimizer 'lion'\. Known: adam, adamw, sgd"),
        ("objective.lam=1/0", r"has no value"),
        ("objective.lam=[", r"cannot read the value '\['"),
        ("num_steps=1e999", r"num_steps takes a finite number, got inf"),
        ("objective.lam=-1e999", r"objective\.lam takes a finite number, got -inf"),
        ("objective.lam=1" + "0" * 400, r"objective\.lam takes a finite number, got one of 401 digits"),
        (
            "objective=linf(eps=0.1)",
            r"objective: Unknown objective 'linf'\. Known: at, face_gated, face_srt, inversion, klr",
        ),
        ("model=pgd()", r"model: Unknown model 'pgd'\. Known: .*small_cnn"),
        ("objective.attack.loss_fn=linf(eps=1)", r"loss_fn: Unknown loss 'linf'\. Known: arcface, cosface"),
        ("objective=srt(attack=linf(eps=0.1))", r"objective\.attack: Unknown attack 'linf'"),
        ("objective.attack=sequence(stages=(linf(eps=1),))", r"Unknown attack 'linf'"),
        ("validation_attack=srt", r"validation_attack: Unknown attack 'srt'"),
        ("data.size=8,8,8", r"size as \(height, width\) or one number"),
        ("data.size=0", r"data\.size: Expected size >= 1"),
        ("data.size=2.5", r"data\.size takes 2 integers with commas or an integer or none, got 2\.5"),
        ("model.widths=3", r"model\.widths takes 2 integers with commas, got 3"),
        ("data.channels=2", r"data\.channels: Expected channels 1 \(grey\) or 3"),
        ("data.test_fraction=1", r"Expected 0 < test_fraction < 1"),
        ("labelled_per_step=0", r"labelled_per_step >= 1"),
        ("threat.granularity=5,5", r"threat\.granularity: Expected granularity as three"),
        ("attacks=none,fgms", r"Unknown attack 'fgms'"),
    ],
)
def test_mistakes_are_answered_with_what_there_is(override, message):
    with pytest.raises(ValueError, match=message):
        change(override)


def test_an_objective_that_needs_an_attack_says_how_to_give_one():
    standard = registry.get("digits_standard")
    with pytest.raises(
        ValueError, match=r"objective: at also needs attack; write objective=at\(attack=\.\.\.\)"
    ):
        apply_overrides(standard, ["objective=at"])


def test_a_word_where_a_number_belongs_is_answered_by_what_the_field_takes():
    with pytest.raises(ValueError, match=r"num_steps takes an integer, got 'abc'\."):
        change("num_steps=abc")


def test_a_radius_in_levels_of_255_is_refused():
    with pytest.raises(ValueError, match=r"eps=8.*8/255"):
        change("threat.eps=8")
