import dataclasses

import pytest

from jaxrobust.attacks import (
    APGD,
    DDN,
    FAB,
    JSMA,
    MIFGSM,
    PGD,
    CarliniWagner,
    Ensemble,
    GridSearch,
    JointSearch,
    PointWise,
    RandomSearch,
    Sequence,
    Square,
)
from jaxrobust.attacks.autoattack import autoattack
from jaxrobust.evaluation import (
    SUITE,
    SUITE_NAMES,
    SUITES,
    TARGETS,
    THREATS,
    Colours,
    Lengths,
    ThreatModel,
    parse,
    split_names,
    suite,
)
from jaxrobust.experiments import EXPERIMENTS, from_json, to_json
from jaxrobust.experiments.experiment import Experiment
from jaxrobust.neighbourhoods import L0, L2, ColourShift, Compose, LInf, RotationTranslation
from jaxrobust.numerics import losses

THREAT = ThreatModel(eps=0.3, eps_l2=1.5, eps_l0=12, steps=40, max_angle=30.0, max_shift=3.0)


@pytest.mark.parametrize("name", [*SUITE, *SUITE_NAMES])
def test_every_name_is_read_as_written_and_as_printed(name):
    title, entry = parse(name, THREAT)
    again, same = parse(title, THREAT)
    assert (again, same) == (title, entry)
    assert parse(name.upper().replace("_", "-"), THREAT) == (title, entry)
    assert hash(entry.attack) == hash(same.attack)


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("PGD-40", "PGD-40"),
        ("pgd40", "PGD-40"),
        ("pgd:steps=40", "PGD-40"),
        ("pgd-100", "PGD-100"),
        ("pgd:steps=100, restarts=5", "PGD-100 (restarts=5)"),
        ("pgd:restarts=1", "PGD-40"),
        ("MI-FGSM", "MI-FGSM"),
        ("mi_fgsm:steps=20", "MI-FGSM-20"),
        ("gridadv+", "GridAdv+"),
        ("PGD+", "PGD+"),
        ("RandAdv.T", "RandAdv.T"),
        ("rand_adv:num=20", "RandAdv (num_random=20)"),
        ("clean", "none"),
        ("cw", "C&W"),
        ("c&w.l2", "C&W"),
        ("cw_linf", "C&W-ball"),
        ("cw:searches=9,steps=1000", "C&W (searches=9, steps=1000)"),
        ("ddn:steps=300", "DDN-300"),
        ("fab.l2", "FAB (eps=1.5, ball=l2)"),
        ("apgd_t-20.l2", "APGD-T-20 (eps=1.5, ball=l2)"),
        ("square:queries=100", "Square-100"),
        ("jsma:eps=5", "JSMA (eps=5)"),
        ("point-wise", "Point-wise"),
        ("colour:hue=20,per_pixel=true", "Colour (hue=20.0, per_pixel=True)"),
        ("pgd:target=least_likely", "PGD-40 (target=least_likely)"),
        ("pgd:target=runner_up,steps=7", "PGD-7 (target=runner_up)"),
        ("pgd>grid_adv>colour", "PGD-40 > GridAdv > Colour"),
        ("GRID_ADV:max_angle=10 > pgd-7", "GridAdv (max_angle=10.0) > PGD-7"),
    ],
)
def test_equal_attacks_have_equal_names(written, printed):
    assert parse(written, THREAT)[0] == printed
    assert parse(printed, THREAT) == parse(written, THREAT)


def test_attacks_are_what_their_names_say():
    found = suite(SUITE_NAMES, THREAT)
    ball, motion = LInf(eps=0.3), RotationTranslation(max_angle=30.0, max_shift=3.0)
    pgd = PGD(neighbourhood=ball, steps=40, step_size=1 / 30)
    grid = GridSearch(neighbourhood=motion, granularity=(5, 5, 31))
    assert found["none"].attack is None
    assert (found["FGSM"].attack.steps, found["FGSM"].attack.step_size) == (1, 1.0)
    assert found["PGD-40"].attack == pgd
    assert found["MI-FGSM"].attack == MIFGSM(neighbourhood=ball, steps=10)
    assert found["RandAdv"].attack == RandomSearch(neighbourhood=motion, num=10)
    assert found["GridAdv"].attack == grid
    assert found["PGD+"].attack == Sequence(stages=(pgd, grid))
    assert found["GridAdv+"].attack == Sequence(stages=(grid, pgd))
    l2, l0 = L2(eps=1.5), L0(eps=12)
    cw = CarliniWagner(neighbourhood=l2, searches=5, steps=200, learning_rate=0.1, initial_const=0.1)
    assert found["C&W"].attack == cw
    assert found["C&W-ball"].attack == dataclasses.replace(pgd, loss_fn=losses.margin)
    assert found["DDN"].attack == DDN(neighbourhood=l2, steps=100)
    assert found["FAB"].attack == FAB(neighbourhood=ball, steps=100)
    assert found["FAB-T"].attack == FAB(neighbourhood=ball, steps=100, num_targets=9)
    assert found["JSMA"].attack == JSMA(neighbourhood=l0)
    assert found["Point-wise"].attack == PointWise(neighbourhood=l0)
    assert found["APGD-CE"].attack == APGD(neighbourhood=ball, steps=50)
    assert found["APGD-DLR"].attack == APGD(neighbourhood=ball, steps=50, loss_fn=losses.dlr)
    assert found["APGD-T"].attack == APGD(neighbourhood=ball, steps=50, num_targets=9)
    assert found["Square"].attack == Square(neighbourhood=ball)
    assert found["AutoAttack"].attack == autoattack(ball)
    assert isinstance(found["AutoAttack"].attack, Ensemble)
    assert found["Joint"].attack == JointSearch(
        neighbourhood=Compose(parts=(ball, motion)), granularity=(3, 3, 7), steps=10
    )
    every = {name for name, entry in found.items() if entry.every_image}
    assert every == {f"{kind}{part}" for kind in ("RandAdv", "GridAdv") for part in ("", ".R", ".T")}


def test_rotation_only_and_translation_only_leave_the_other_out_of_limit_and_grid():
    rotation = RotationTranslation(max_angle=30.0, max_shift=0.0)
    translation = RotationTranslation(max_angle=0.0, max_shift=3.0)
    found = suite(["GridAdv.R", "GridAdv.T", "RandAdv.R", "RandAdv.T"], THREAT)
    assert found["GridAdv.R"].attack == GridSearch(neighbourhood=rotation, granularity=(1, 1, 31))
    assert found["GridAdv.T"].attack == GridSearch(neighbourhood=translation, granularity=(5, 5, 1))
    assert found["RandAdv.R"].attack.neighbourhood == rotation
    assert found["RandAdv.T"].attack.neighbourhood == translation


def test_values_are_read_as_their_fields_type():
    assert parse("fgsm:eps=8/255", THREAT)[1].attack.neighbourhood == LInf(eps=8 / 255)
    assert parse("pgd:ball=l2,eps=1.5", THREAT)[1].attack.neighbourhood == L2(eps=1.5)
    title, entry = parse("grid_adv:granularity=3x3x5,max_angle=10", THREAT)
    assert entry.attack.granularity == (3, 3, 5)
    assert title == "GridAdv (max_angle=10.0, granularity=3x3x5)"
    assert parse(title, THREAT)[0] == title
    assert parse("mi-fgsm:steps=20", THREAT)[1].attack.steps == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pdg", "Unknown attack 'pdg'.*Known: none, FGSM, PGD.*GridAdv.R.*suites table3"),
        ("c&w-9", "Unknown attack 'c&w-9'"),
        ("jsma.l2", "Unknown attack 'jsma.l2'"),
        ("pgd:target=other", "Unknown target 'other'. Known: least_likely, next_class, runner_up"),
        ("pgd:target=runner_up>grid_adv", "one target for all stages"),
        ("apgd_t:ball=l0", "Unknown ball 'l0'. Known: l2, linf"),
        ("pgd>cw", "C&W looks at any distance: a composite is made of attacks of fixed radius"),
        ("none>pgd", "none is no attack"),
        ("pgd>", "attacks on both sides of >"),
        ("pgd>pdg", "Unknown attack 'pdg'"),
        ("colour:per_pixel=maybe", "Expected per_pixel like False, got 'maybe'"),
        ("colour:granularity=3x3", "five numbers of values"),
        ("cw:steps=0", "cw_steps >= 1"),
        ("jsma:eps=1.5", "Expected eps like 12, got '1.5'"),
        ("", "Unknown attack"),
        ("fgsm-3", "Unknown attack 'fgsm-3'"),
        ("fgsm:steps=3", "It takes: eps, ball"),
        ("none:eps=1", "no parameters"),
        ("pgd:steps", "It takes: eps, ball, steps"),
        ("pgd:steps=many", "Expected steps like 40, got 'many'"),
        ("pgd:eps=1/0", "Expected eps like 0.3"),
        ("pgd:eps=1e400", "Expected eps like 0.3, got '1e400'"),
        ("pgd:eps=1e999999999", "Expected eps like 0.3"),
        ("pgd:eps=nan", "Expected eps like 0.3, got 'nan'"),
        ("grid_adv:granularity=5x5", "granularity as three numbers"),
        ("grid_adv:granularity=5x5x0", "granularity >= 1"),
        ("pgd:steps=0", "steps >= 1"),
        ("pgd:eps=-1", "eps > 0"),
        ("pgd:ball=l3", "Known: l2, linf"),
    ],
)
def test_a_name_that_is_not_known_lists_those_that_are(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text, THREAT)


def test_a_radius_that_the_threat_model_lacks_is_asked_for():
    bare = ThreatModel(eps=0.3)
    with pytest.raises(ValueError, match=r"no radius of the l2 ball.*eps_l2=1.5 \(--eps-l2"):
        parse("cw", bare)
    with pytest.raises(ValueError, match=r"no radius of the l0 ball.*--eps-l0"):
        suite(["table3"], bare)
    with pytest.raises(ValueError, match="no radius of the l2 ball"):
        parse("pgd.l2", bare)
    assert parse("cw:eps=2", bare)[1].attack.neighbourhood == L2(eps=2.0)
    assert parse("pgd:ball=l2,eps=2", bare)[1].attack.neighbourhood == L2(eps=2.0)
    # A threat model in l2 has that radius already.
    l2 = ThreatModel(eps=2.0, ball="l2", eps_linf=0.1)
    assert parse("cw", l2)[1].attack.neighbourhood == L2(eps=2.0)
    assert parse("fgsm.linf", l2)[1].attack.neighbourhood == LInf(eps=0.1)


def test_a_composite_runs_its_stages_in_the_order_of_its_name():
    there, back = parse("pgd>colour", THREAT)[1].attack, parse("colour>pgd", THREAT)[1].attack
    assert isinstance(there, Sequence)
    assert (
        there.stages
        == back.stages[::-1]
        == (parse("pgd", THREAT)[1].attack, parse("colour", THREAT)[1].attack)
    )
    assert parse("pgd>grid_adv", THREAT)[1].attack == parse("PGD+", THREAT)[1].attack


def test_colours_are_those_of_the_threat_model():
    grid = parse("colour:hue=20", THREAT)[1].attack
    assert grid == GridSearch(
        neighbourhood=ColourShift(hue=20.0, brightness=0.2, contrast=0.3), granularity=(5, 3, 5, 5, 2)
    )
    assert isinstance(parse("colour:per_pixel=true", THREAT)[1].attack, PGD)
    assert THREATS["mnist"].colours == Colours()
    assert THREATS["cifar10"].colours.grey == 1.0


@pytest.mark.parametrize("target", TARGETS)
def test_the_targeted_form_leads_every_stage_and_member(target):
    for name in ("pgd", "ddn", "pgd_plus", "rand_adv"):
        title, entry = parse(f"{name}:target={target}", THREAT)
        parts = getattr(entry.attack, "stages", (entry.attack,))
        assert all(part.targeted for part in parts)
        assert entry.target_fn is TARGETS[target]
        assert parse(title, THREAT) == (title, entry)
    composite = parse(f"pgd:target={target} > grid_adv:target={target}", THREAT)[1]
    assert composite.target_fn is TARGETS[target]


def test_suites_expand_in_place():
    assert list(suite(["table6"], THREAT)) == [
        "none", "RandAdv", "GridAdv", "RandAdv.T", "GridAdv.T", "RandAdv.R", "GridAdv.R",
    ]  # fmt: skip
    assert list(suite(["table3", "pgd:steps=7"], THREAT)) == [
        "none", "FGSM", "PGD-40", "MI-FGSM", "JSMA", "C&W-ball", "C&W", "Point-wise", "DDN", "PGD-7",
    ]  # fmt: skip
    assert list(suite(["fgsm", "AutoAttack"], THREAT)) == ["FGSM", "none", "AutoAttack"]
    assert "PGD-40 > GridAdv > Colour" in suite(["composite"], THREAT)
    for one in SUITES.values():
        assert suite(one.names, THREAT)


def test_a_list_of_printed_names_reads_back():
    written = ["none", "fgsm:eps=0.1", "pgd:steps=40,restarts=5,eps=0.2", "GridAdv.R", "mi_fgsm:eps=8/255"]
    printed = list(suite(written, THREAT))
    assert printed[2] == "PGD-40 (eps=0.2, restarts=5)"
    assert split_names(",".join(printed)) == printed
    assert suite(split_names(", ".join(printed)), THREAT) == suite(written, THREAT)
    assert split_names(",".join(written)) == written
    composite = "pgd:steps=3,restarts=2>grid_adv:granularity=3x3x3,max_angle=5"
    assert split_names(f"fgsm,{composite},cw:searches=2") == ["fgsm", composite, "cw:searches=2"]
    printed = list(suite([composite], THREAT))
    assert split_names(",".join(printed)) == printed
    with pytest.raises(ValueError, match="at least one name"):
        split_names(" , ")


def test_the_published_settings():
    assert THREATS["mnist"].eps == 0.3
    assert THREATS["mnist"].step_size * 0.3 == pytest.approx(0.01)
    assert THREATS["cifar10"].eps == 0.031
    assert THREATS["cifar10"].granularity == (5, 5, 31)
    assert THREATS["digits"].max_shift < 1
    assert (THREATS["mnist"].eps_l2, THREATS["mnist"].eps_l0) == (1.5, 12)
    assert (THREATS["cifar10"].eps_l2, THREATS["cifar10"].eps_l0) == (0.5, 24)


def test_a_threat_model_saved_before_it_had_more_than_one_radius_is_read():
    saved = to_json(EXPERIMENTS["digits_srt"])
    for name in ("eps_linf", "eps_l2", "eps_l0", "colours", "lengths"):
        saved["threat"].pop(name, None)
    read = from_json(Experiment, saved)
    assert read.threat == dataclasses.replace(EXPERIMENTS["digits_srt"].threat, eps_l2=None, eps_l0=None)
    changed = dataclasses.replace(read.threat, lengths=Lengths(cw_steps=7), colours=Colours(hue=3.0))
    experiment = dataclasses.replace(read, threat=changed)
    assert from_json(Experiment, to_json(experiment)) == experiment


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps_l2": -1.0}, "eps_l2 > 0"),
        ({"eps_l0": 1.5}, "an integer eps_l0"),
        ({"eps": 2.0, "ball": "l2", "eps_linf": 8}, "0.0 <= eps_linf <= 1.0"),
        ({"lengths": 3}, "Expected lengths as Lengths"),
        ({"granularity": (5, 5)}, "three numbers of values"),
    ],
)
def test_radii_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ThreatModel(**{"eps": 0.3, **options})
