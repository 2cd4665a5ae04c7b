import pytest

from jaxrobust.attacks import APGD, DDN, PGD, Ensemble, GridSearch, RandomSearch, Sequence, Square
from jaxrobust.evaluation import _provenance
from jaxrobust.neighbourhoods import (
    L0,
    L1,
    L2,
    ColourShift,
    Compose,
    GaussianNoise,
    LInf,
    Masked,
    RotationTranslation,
    UniformNoise,
)
from jaxrobust.numerics import losses

BALL = LInf(eps=8 / 255)
MOVES = RotationTranslation(max_angle=30.0, max_shift=3.0)
PGD_8 = PGD(neighbourhood=BALL)


@pytest.mark.parametrize(
    ("neighbourhood", "label"),
    [
        (BALL, "ℓ∞ 8/255"),
        (L2(eps=1.5), "ℓ2 1.5"),
        (L1(eps=12.0), "ℓ1 12"),
        (L0(eps=12), "ℓ0 12 px"),
        (L0(eps=30, features=True), "ℓ0 30 features"),
        (Masked(neighbourhood=BALL), "ℓ∞ 8/255 in the mask"),
        (UniformNoise(eps=0.1), "noise ±0.1"),
        (GaussianNoise(sigma=0.25), "noise σ 0.25"),
        (ColourShift(hue=20.0, grey=1.0), "hue ±20°, grey ±1"),
        (ColourShift(brightness=0.2, per_pixel=True), "brightness ±0.2 per pixel"),
        (Compose(parts=(BALL, MOVES)), "ℓ∞ 8/255 & ±30°, ±3 px"),
    ],
)
def test_radii_are_written_for_a_reader(neighbourhood, label):
    assert _provenance.radius_label(RandomSearch(neighbourhood=neighbourhood)) == label


def test_an_ensemble_names_each_radius_once():
    ensemble = Ensemble(attacks=(PGD_8, APGD(neighbourhood=BALL), Square(neighbourhood=BALL)))
    assert _provenance.radius_label(ensemble) == "ℓ∞ 8/255"
    assert _provenance.single_eps(ensemble) == 8 / 255
    assert _provenance.single_norm(ensemble) == float("inf")
    both = Ensemble(attacks=(PGD_8, DDN(neighbourhood=L2(eps=1.0))))
    assert _provenance.radius_label(both) == "ℓ∞ 8/255 or ℓ2 1"
    assert _provenance.single_norm(both) is None


def test_geometry_and_composites_have_no_single_radius():
    grid = GridSearch(neighbourhood=MOVES)
    for attack in (
        grid,
        Sequence(stages=(PGD_8, grid)),
        RandomSearch(neighbourhood=GaussianNoise(sigma=0.1)),
    ):
        assert _provenance.single_eps(attack) is _provenance.single_norm(attack) is None


@pytest.mark.parametrize(
    ("attack", "label"),
    [
        (APGD(neighbourhood=BALL), "APGD"),
        (APGD(neighbourhood=BALL, num_targets=9), "APGD-T"),
        (APGD(neighbourhood=BALL, loss_fn=losses.dlr), "APGD (dlr)"),
        (Square(neighbourhood=BALL), "Square"),
        (DDN(neighbourhood=L2(eps=1.0)), "DDN"),
    ],
)
def test_members_are_told_apart(attack, label):
    assert _provenance.member_label(attack) == label
