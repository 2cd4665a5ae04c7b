import pytest

from jaxrobust.attacks import MIFGSM, PGD, GridSearch, RandomSearch, Sequence
from jaxrobust.evaluation import SUITE, SUITE_NAMES, THREATS, ThreatModel, parse, split_names, suite
from jaxrobust.neighbourhoods import L2, LInf, RotationTranslation

THREAT = ThreatModel(eps=0.3, steps=40, max_angle=30.0, max_shift=3.0)


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
    ],
)
def test_equal_attacks_have_equal_names(written, printed):
    assert parse(written, THREAT)[0] == printed


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
        ("cw", "Unknown attack 'cw'.*Known: none, FGSM, PGD.*GridAdv.R"),
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


def test_a_list_of_printed_names_reads_back():
    written = ["none", "fgsm:eps=0.1", "pgd:steps=40,restarts=5,eps=0.2", "GridAdv.R", "mi_fgsm:eps=8/255"]
    printed = list(suite(written, THREAT))
    assert printed[2] == "PGD-40 (eps=0.2, restarts=5)"
    assert split_names(",".join(printed)) == printed
    assert suite(split_names(", ".join(printed)), THREAT) == suite(written, THREAT)
    assert split_names(",".join(written)) == written
    with pytest.raises(ValueError, match="at least one name"):
        split_names(" , ")


def test_the_published_settings():
    assert THREATS["mnist"].eps == 0.3
    assert THREATS["mnist"].step_size * 0.3 == pytest.approx(0.01)
    assert THREATS["cifar10"].eps == 0.031
    assert THREATS["cifar10"].granularity == (5, 5, 31)
    assert THREATS["digits"].max_shift < 1
